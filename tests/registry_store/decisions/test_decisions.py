"""Reported decisions: each is stored once, and the hash chain of each log is checked."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import grpc
import pytest

from pdp.core.action import Action
from pdp.core.json.equality import same_json
from pdp.decision_log.record import Opens
from pdp.log_format import batches
from pdp.v1 import decision_pb2 as pdp_pb
from pdp.v1 import log_pb2
from registry_store.decisions.records import MAX_SEQUENCE
from registry_store.decisions.reports import MAX_BYTES, MAX_RECORDS
from registry_store.documents import instant
from registry_store.rpc import reports
from registry_store.v1 import sync_pb2 as pb
from tests.deciding import entry_of, record_in
from tests.pdp.decision_log.worst import BY_GRPC_ALONE, FILLINGS, largest_by_grpc, last_entry, worst_bench
from tests.registry_store import serving
from tests.registry_store.reporting import AGENT, GENESIS, Log, decision, gap, new_id, record_of, reporter
from tests.registry_store.serving import Served, in_thread

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def log_of(store: Served, node_id: str = "node-1") -> tuple[int, str, int, int]:
    """The state of a sidecar's log: sequence, hash, missing, breaks."""
    ((sequence, last_hash, missing, breaks),) = store.sql(
        f"SELECT sequence, hash, missing, breaks FROM decision_logs WHERE node_id = '{node_id}'"
    )
    return sequence, last_hash, missing, breaks


def kept(store: Served) -> list[str]:
    return [row[0] for row in store.sql("SELECT decision_id FROM decisions ORDER BY decision_id")]


def counted(store: Served) -> dict[str, tuple[int, int]]:
    """Decisions and cost by outcome, over all minutes."""
    rows = store.sql("SELECT outcome, sum(decisions), sum(cost_micros) FROM usage GROUP BY outcome")
    return {outcome: (int(number), int(cost)) for outcome, number, cost in rows}


def _utc(stored: datetime | str) -> datetime:
    """A time as either database gives it."""
    moment = datetime.fromisoformat(stored) if isinstance(stored, str) else stored
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def metric(store: Served, name: str, **labels: str) -> float:
    return store.running._store.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_a_report_is_kept_with_all_that_it_says(fresh: Served) -> None:
    """Every member of the record is returned, with the node id and the time of receipt."""
    log, said = Log(), decision("block", action={"attributes": {"ü": [1, 2.5, None]}, "amount": 12.5})
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(log.report(said)) == 1
    shown = (await in_thread(fresh.rest().get, f"/api/decisions/{said['decision_id']}")).body
    received_at = shown.pop("received_at")
    assert shown == said | {"node_id": "node-1", "sequence": 1, "outcome": None}
    assert received_at >= said["decided_at"]
    assert log_of(fresh) == (1, log.hash.hex(), 0, 0)


@pytest.mark.parametrize("kind", ["large numbers", "NULs", "pictures", "nesting", "classifications", "keys"])
async def test_the_largest_records_of_a_sidecar_come_in_with_their_approvals(fresh: Served, kind: str) -> None:
    """Into either database, and out again."""
    bench = worst_bench(time.time())
    filling = (FILLINGS | BY_GRPC_ALONE)[kind]
    request = largest_by_grpc(filling)
    bench.service.point.evaluate(request)
    entry = last_entry(bench)
    assert entry.opens is not None
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(Log().report(record_in(entry))) == 1
    shown = await in_thread(fresh.rest().get, f"/api/approvals/{entry.opens.approval_id}")
    assert (shown.status, shown.body["status"]) == (200, "pending")
    assert shown.body["action"]["attributes"].keys() == {name.replace("\0", "␀") for name in request.action.attributes}


async def test_a_repeat_is_a_record_of_its_own_and_counts_nothing(fresh: Served) -> None:
    """It is listed with the decision that it repeats; usage is that of the first alone, to the minute and the day."""
    said = decision(cost_micros=5)
    again = said | {"decision_id": new_id(), "repeat_of": said["decision_id"], "cost_micros": 0}
    other = decision("block")
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(Log().report(said, again, other)) == 3
    shown = (await in_thread(fresh.rest().get, "/api/decisions")).body["decisions"]
    assert {one["decision_id"]: one["repeat_of"] for one in shown} == {
        said["decision_id"]: None,
        again["decision_id"]: said["decision_id"],
        other["decision_id"]: None,
    }
    assert counted(fresh) == {"allow": (1, 5), "block": (1, 0)}
    await in_thread(fresh.rest().register, AGENT)
    used = (await in_thread(fresh.rest().get, f"/api/agents/registry/{AGENT}/usage")).body
    assert (used["actions_last_minute"], used["actions_last_day"]) == (1, 1)


async def test_what_a_sidecar_writes_is_what_the_store_reads(fresh: Served) -> None:
    """A record of the sidecar's own making comes in and opens its approval; those of these tests have its members."""
    approval_id, decision_id = new_id(), new_id()
    action = Action("payments-worker-prod", "transaction.process", "banking_api", attributes={"\0": [None, 0.5, "x"]})
    answer = pdp_pb.EvaluateResponse(
        outcome=pdp_pb.OUTCOME_REQUIRE_APPROVAL,
        reason=pdp_pb.REASON_RISK_NEEDS_APPROVAL,
        decision_id=decision_id,
        approval_id=approval_id,
    )
    answer.approval_expires_at.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    opens = Opens(approval_id, bytes(32), 3600)
    entry = entry_of(action, answer, at=time.time(), idempotency_key="key-1", opens=opens)
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(Log().report(record_in(entry))) == 1
    shown = (await in_thread(fresh.rest().get, f"/api/decisions/{decision_id}")).body
    assert fresh.sql("SELECT approval_id FROM approvals") == [(approval_id,)]
    said = decision()
    assert shown.keys() - {"node_id", "sequence", "received_at", "outcome"} == said.keys()
    assert all(shown[name].keys() == said[name].keys() for name in ("action", "answer"))


async def test_what_is_sent_again_is_kept_and_counted_once(fresh: Served) -> None:
    """In any order and company; only new batches are counted, and there is no break."""
    log = Log()
    sent = [log.batch(*(decision(cost_micros=7) for _ in range(2))) for _ in range(3)]
    async with reporter(fresh) as sidecar:
        for first, last, newest in ((0, 1, 2), (0, 1, 2), (0, 2, 4), (1, 2, 4), (2, 3, 6), (0, 3, 6)):
            request = pb.ReportDecisionsRequest(node_id="node-1", batches=sent[first:last])
            assert await sidecar.send(request) == newest
    assert len(kept(fresh)) == 6
    assert counted(fresh) == {"allow": (6, 42)}
    assert log_of(fresh) == (6, log.hash.hex(), 0, 0)
    assert fresh.sql("SELECT number, first_sequence FROM decision_batches ORDER BY number") == [(1, 1), (2, 3), (3, 5)]
    assert metric(fresh, "registry_store_decisions_total", outcome="allow") == 6
    assert metric(fresh, "registry_store_decision_repeats_total") == 2 + 2 + 2 + 6


async def test_the_rows_of_a_large_report_are_those_of_its_records(fresh: Served) -> None:
    """Whatever only some decisions have, to the microsecond, and one that is known already is left out of its batch."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    said = []
    for number in range(500):
        at = start + timedelta(seconds=number // 100, microseconds=number % 100 * 10_101)
        tool = {"tool": f"tool-{number}"} if number % 7 == 0 and number > 250 else {}
        said.append(decision("block" if number % 3 else "allow", at=at, action=tool))
    log = Log()
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(Log("node-2").report(said[321])) == 1
        sent = [log.batch(*said[first : first + 250]) for first in (0, 250)]
        assert await sidecar.send(pb.ReportDecisionsRequest(node_id="node-1", batches=sent)) == 500
    columns = "d.decision_id, b.number, d.position, d.outcome, d.decided_at, d.tool, d.policy_id, d.repeat_of"
    tables = "decisions d JOIN decision_batches b ON b.batch_id = d.batch_id"
    rows = fresh.sql(f"SELECT {columns} FROM {tables} WHERE b.node_id = 'node-1' ORDER BY b.number, d.position")
    assert [(*row[:4], instant(_utc(row[4])), *row[5:]) for row in rows] == [
        (
            one["decision_id"],
            1 + number // 250,
            number % 250,
            one["answer"]["outcome"],
            one["decided_at"],
            one["action"]["tool"] or None,
            None,
            None,
        )
        for number, one in enumerate(said)
        if number != 321
    ]
    assert fresh.sql("SELECT omitted FROM decision_batches WHERE node_id = 'node-1' ORDER BY number") == [
        ("",),
        ("322",),
    ]


async def test_batches_at_once_are_kept_once(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale and fresh connections of one sidecar, and other sidecars, at the same time: nothing twice, nothing lost."""
    monkeypatch.setattr(reports, "WAIT_SECONDS", serving.WAIT_SECONDS)  # none is sent away, however slow the disk is
    logs = [Log(f"node-{number}") for number in range(4)]
    batches = [[log.report(*(decision(cost_micros=1) for _ in range(20))) for _ in range(3)] for log in logs]
    async with reporter(fresh) as sidecar:
        first = [batch for of_node in batches for batch in of_node]
        await asyncio.gather(*(sidecar.send(batch) for batch in [*first, *first, *reversed(first)]))
        await asyncio.gather(*(sidecar.send(batch) for batch in first))
    assert len(kept(fresh)) == 4 * 3 * 20
    assert counted(fresh) == {"allow": (240, 240)}
    assert {log_of(fresh, log.node_id)[:2] for log in logs} == {(60, log.hash.hex()) for log in logs}


async def test_records_that_were_given_up_are_counted(fresh: Served) -> None:
    """A gap in the sequence counts once, even with a gap record; unnumbered records count as reported."""
    log = Log()
    first = log.report(decision())
    log.batch(*(decision() for _ in range(4)))
    log.hash = first.batches[0].hash
    async with reporter(fresh) as sidecar:
        await sidecar.send(first)
        await sidecar.send(log.report(gap(2, 5), decision()))
        assert log_of(fresh) == (7, log.hash.hex(), 4, 0)
        await sidecar.send(log.report(gap(8, 7, records=30)))
    assert log_of(fresh) == (8, log.hash.hex(), 34, 0)
    assert len(kept(fresh)) == 2
    assert metric(fresh, "registry_store_decisions_missing_total") == 34
    body = (await in_thread(fresh.rest().get, "/api/decisions")).body
    assert (body["missing"], body["breaks"]) == (34, 0)


async def test_a_log_that_begins_late_misses_what_came_before(fresh: Served) -> None:
    """The first report of a sidecar starts at its eleventh record: ten are missing."""
    log = Log(sequence=10, last_hash=bytes(range(32)))
    async with reporter(fresh) as sidecar:
        await sidecar.send(log.report(decision()))
    assert log_of(fresh) == (11, log.hash.hex(), 10, 0)


def changed(batch: pb.ChainedBatch, **fields: Any) -> pb.ChainedBatch:
    other = pb.ChainedBatch()
    other.CopyFrom(batch)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def of_bytes(content: bytes) -> pb.ChainedBatch:
    return pb.ChainedBatch(content=content, previous_hash=GENESIS, hash=batches.chained(GENESIS, content))


def request_of(*sent: pb.ChainedBatch) -> pb.ReportDecisionsRequest:
    return pb.ReportDecisionsRequest(node_id="n", batches=sent)


async def test_a_batch_that_does_not_follow_is_kept_and_told(fresh: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Another hash before it, and a first batch that follows something: two breaks."""
    two, three = Log("two"), Log("three", last_hash=bytes(range(32)))
    async with reporter(fresh) as sidecar:
        await sidecar.send(two.report(decision()))
        two.hash = GENESIS
        await sidecar.send(two.report(decision(), decision()))
        await sidecar.send(three.report(decision()))
    assert [log_of(fresh, name)[3] for name in ("two", "three")] == [1, 1]
    assert len(kept(fresh)) == 4
    assert metric(fresh, "registry_store_decision_breaks_total") == 2
    assert "the hash chain in the decision log of sidecar `two` is broken at 1 batches, first at `2`" in caplog.text


async def test_a_log_that_was_set_back_loses_nothing(fresh: Served) -> None:
    """A sidecar whose folder was restored uses sequences again: its new batches are kept, and each is a break.

    The answer tells it up to where its log is known, so that it can go on from there.
    """
    log = Log()
    before = log.report(*(decision() for _ in range(3)))
    restored = log.copy()
    async with reporter(fresh) as sidecar:
        await sidecar.send(before)
        await sidecar.send(log.report(*(decision() for _ in range(4))))
        assert await sidecar.send(restored.report(decision(), decision())) == 7
        assert log_of(fresh) == (7, log.hash.hex(), 0, 1)
        await sidecar.send(restored.report(decision(), decision()))
        assert log_of(fresh)[3] == 2
        await sidecar.send(restored.report(decision()))
    assert log_of(fresh) == (8, restored.hash.hex(), 0, 3)
    assert len(kept(fresh)) == 12
    assert counted(fresh) == {"allow": (12, 0)}


async def test_the_last_record_under_another_hash_is_a_break(fresh: Served) -> None:
    """Also if it is not a decision."""
    log = Log()
    other = log.copy()
    async with reporter(fresh) as sidecar:
        await sidecar.send(log.report(gap(1, 0, 3)))
        await sidecar.send(other.report(gap(1, 0, 4)))
    assert log_of(fresh) == (1, log.hash.hex(), 3, 1)


async def test_a_decision_under_two_names_is_kept_once(fresh: Served) -> None:
    """A sidecar that lost its name, but not its log, reports what is known: nothing is kept or counted again.

    Nor where it stands in one report twice.
    """
    said = [decision(cost_micros=5) for _ in range(3)]
    async with reporter(fresh) as sidecar:
        await sidecar.send(Log("old").report(*said, said[0]))
        await sidecar.send(Log("new").report(*said, decision(cost_micros=5)))
    assert len(kept(fresh)) == 4
    assert counted(fresh) == {"allow": (4, 20)}


async def test_batches_have_the_ids_that_were_drawn_for_them(fresh: Served) -> None:
    """Those of one report need not follow each other: on PostgreSQL other stores draw between them."""
    step = 1
    if fresh.running._store.database.engine.dialect.name == "postgresql":
        step = 7
        fresh.sql(f"ALTER SEQUENCE decision_batch_ids INCREMENT BY {step}")
    log = Log()
    sent = [log.batch(decision()), log.batch(decision()), log.batch(decision())]
    async with reporter(fresh) as sidecar:
        await sidecar.send(pb.ReportDecisionsRequest(node_id=log.node_id, batches=sent))
    drawn = [batch_id for (batch_id,) in fresh.sql("SELECT batch_id FROM decision_batches ORDER BY number")]
    assert [after - before for before, after in pairwise(drawn)] == [step, step]


async def test_dry_runs_are_kept_and_not_counted(fresh: Served) -> None:
    """And a decision of an agent that nobody registered is kept like any other."""
    async with reporter(fresh) as sidecar:
        await sidecar.send(Log().report(decision(dry_run=True), decision("block", agent_id="unknown-agent")))
    assert len(kept(fresh)) == 2
    assert counted(fresh) == {"block": (1, 0)}


async def test_a_record_that_asks_opens_its_approval_once(fresh: Served) -> None:
    """In the same transaction as the report; a repeat opens nothing more."""
    approval_id = "01920000-0000-7000-8000-000000000001"
    request = Log().report(decision("require_approval", opens=approval_id), decision())
    async with reporter(fresh) as sidecar:
        await sidecar.send(request)
        await sidecar.send(request)
    assert fresh.sql("SELECT approval_id, node_id, status FROM approvals") == [(approval_id, "node-1", "pending")]
    assert fresh.sql("SELECT count(*) FROM activity WHERE activity_type = 'approval_requested'") == [(1,)]
    assert metric(fresh, "registry_store_approvals_total", state="pending") == 1


async def test_what_an_agent_sends_cannot_keep_its_decision_out(fresh: Served) -> None:
    """A NUL, which PostgreSQL does not keep in a text, and numbers of any size come out as they came."""
    action = {"attributes": {"\0": ["\0", 1e300, 10**40, "\\u0000"]}}
    said = decision("block", action=action)
    async with reporter(fresh) as sidecar:
        await sidecar.send(Log().report(said))
    shown = (await in_thread(fresh.rest().get, f"/api/decisions/{said['decision_id']}")).body["action"]
    assert same_json(shown["attributes"], action["attributes"])


ONE = decision()
MALFORMED = {
    "node_id: is empty": pb.ReportDecisionsRequest(batches=[Log().batch(ONE)]),
    "node_id: is longer than 128 characters": Log("x" * 129).report(ONE),
    "node_id: `a\0b` is not letters, digits": Log("a\0b").report(ONE),
    "records: must have 1 to 1000 items": pb.ReportDecisionsRequest(node_id="n"),
    "records: must be empty, because there are batches": pb.ReportDecisionsRequest(
        node_id="n", records=Log().records(ONE), batches=[Log().batch(ONE)]
    ),
    "batches[0].hash: must have 32 bytes": request_of(changed(Log().batch(ONE), hash=b"short")),
    "batches[0].previous_hash: must have 32 bytes": request_of(changed(Log().batch(ONE), previous_hash=b"")),
    "batches[0].hash: is not the SHA-256 of `previous_hash` and `content`": request_of(
        changed(Log().batch(ONE), content=Log().batch(decision()).content)
    ),
    "batches[0].content: is not a `pdp.v1.LogBatch`": request_of(of_bytes(b"\xff")),
    "batches[0].content: `first_sequence` is `0`, and not 1 or more": Log(sequence=-1).report(ONE),
    "batches[0].content: has 0 records, and not 1 to 1000": Log().report(),
    f"batches[0].content: has the sequence `{MAX_SEQUENCE + 1}`": Log(sequence=MAX_SEQUENCE).report(ONE),
    "batches[1].content: begins with `1`, which does not come after `1`": request_of(
        Log().batch(ONE), Log().batch(ONE)
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_report_is_refused_by_name_and_keeps_nothing(store: Served, what: str) -> None:
    """INVALID_ARGUMENT with the path of the error; valid batches of the report are not stored either."""
    before = store.sql("SELECT count(*) FROM decision_batches")
    async with reporter(store) as sidecar:
        code, details = await sidecar.refused(MALFORMED[what])
    assert code is INVALID
    assert what in details
    assert store.sql("SELECT count(*) FROM decision_batches") == before


def with_(**fields: Any) -> log_pb2.LogRecord:
    """A decision with these fields changed, which are named as `answer__outcome`."""
    record = record_of(decision("escalate", opens=new_id()))
    for path, value in fields.items():
        *parents, name = path.split("__")
        message: Any = record.decision
        for parent in parents:
            message = getattr(message, parent)
        if isinstance(value, dict):
            getattr(message, name).update(value)
        else:
            setattr(message, name, value)
    return record


def noted(**members: Any) -> log_pb2.LogRecord:
    record = log_pb2.LogRecord()
    record.outcome.update(members)
    return record


NAN, INFINITE = float("nan"), float("inf")
REFUSED = {
    "request.action.agent_id: `a b` is not 3 to 64 letters": with_(request__action__agent_id="a b"),
    "answer.decision_id: `` is not a UUID of version 7": with_(answer__decision_id=""),
    "repeat_id: `nothing` is not a UUID of version 7": with_(repeat_id="nothing"),
    "answer.outcome: `0` is unknown to this store": with_(answer__outcome=0),
    "answer.outcome: `77` is unknown to this store": with_(answer__outcome=77),
    "answer.reason: `77` is unknown to this store": with_(answer__reason=77),
    "answer.source: `77` is unknown to this store": with_(answer__source=77),
    "decided_at_microseconds: `-1` is no time": with_(decided_at_microseconds=-1),
    f"decided_at_microseconds: `{2**63 - 1}` is no time": with_(decided_at_microseconds=2**63 - 1),
    "cost_micros: `-1` is not within": with_(cost_micros=-1),
    "a number that is not finite (amount)": with_(request__action__amount=NAN),
    "a number that is not finite (cost)": with_(request__action__estimated_cost_usd=INFINITE),
    "a number that is not finite (staleness)": with_(answer__staleness=-INFINITE),
    "a number that is not finite (budget)": with_(answer__budget_remaining_usd=NAN),
    "a number that is not finite (retry)": with_(answer__retry_after=INFINITE),
    "request.action.attributes: the number is not finite": with_(request__action__attributes={"x": {"y": [NAN]}}),
    "answer.action_params: the number is not finite": with_(answer__action_params={"x": INFINITE}),
    "answer.approval_expires_at: `-1` is no time": with_(answer__approval_expires_at__seconds=-1),
    "opens.action_sha256: is shorter than 64 characters": with_(opens__action_sha256=b"short"),
    "opens.timeout_seconds: `0` is not within 1 to": with_(opens__timeout_seconds=0),
    "is of no kind that this store knows": log_pb2.LogRecord(),
    "gap: its numbers are not within": log_pb2.LogRecord(gap=log_pb2.LogGap(records=-1)),
    "gap.at_microseconds: `-1` is no time": log_pb2.LogRecord(gap=log_pb2.LogGap(records=1, at_microseconds=-1)),
    "outcome.decision_id: is required": noted(agent_id=AGENT),
    "outcome: the number is not finite": noted(charged_micros=NAN),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_record_that_cannot_be_kept_is_refused_singly(store: Served, what: str) -> None:
    """Its batch is kept with its chain, and the other records of it as decisions; the answer says why."""
    log = Log(new_id())
    good = decision(), decision()
    async with reporter(store) as sidecar:
        answer = await sidecar.answer(log.report(good[0], REFUSED[what], good[1]))
    ((sequence, problem),) = [(one.sequence, one.problem) for one in answer.refused]
    assert (answer.sequence, sequence) == (3, 2)
    assert what.partition(" (")[0] in problem
    assert log_of(store, log.node_id) == (3, log.hash.hex(), 0, 0)
    assert store.sql(f"SELECT omitted FROM decision_batches WHERE node_id = '{log.node_id}'") == [("2",)]
    shown = [await in_thread(store.rest().get, f"/api/decisions/{one['decision_id']}") for one in good]
    assert [(one.status, one.body["sequence"]) for one in shown] == [(200, 1), (200, 3)]


async def test_a_shadow_verdict_of_no_known_outcome_is_refused(store: Served) -> None:
    """Like any other value that this store could not show."""
    record = record_of(decision())
    record.decision.answer.shadow.add(outcome=77)  # type: ignore[arg-type]  # of a later version
    async with reporter(store) as sidecar:
        answer = await sidecar.answer(Log(new_id()).report(record))
    assert [one.problem for one in answer.refused] == ["answer.shadow.outcome: `77` is unknown to this store"]


async def test_a_report_has_its_bounds(store: Served) -> None:
    """Thousands of records of four megabytes are accepted; more is refused, unless it is one batch alone."""

    def padded(characters: int) -> dict[str, Any]:
        return decision(agent_id="bounded-agent-prod", idempotency_key="x" * characters)

    log = Log("bounded")
    many = [
        log.batch(*(padded(MAX_BYTES // MAX_RECORDS - 700) for _ in range(1000))) for _ in range(MAX_RECORDS // 1000)
    ]
    async with reporter(store) as sidecar:
        assert await sidecar.send(pb.ReportDecisionsRequest(node_id="bounded", batches=many)) == MAX_RECORDS
        more = pb.ReportDecisionsRequest(node_id="more", batches=[*many, log.batch(decision())])
        assert await sidecar.refused(more) == (INVALID, f"batches: have more than {MAX_RECORDS} records together")
        other = Log("larger")
        large = [other.batch(padded(MAX_BYTES // 2)) for _ in range(2)]
        refused = await sidecar.refused(pb.ReportDecisionsRequest(node_id="larger", batches=large))
        assert refused == (INVALID, f"batches: the contents are larger than {MAX_BYTES} bytes together")
        assert await sidecar.send(Log("alone").report(padded(MAX_BYTES))) == 1
        code, _ = await sidecar.refused(Log("largest").report(padded(2 * MAX_BYTES)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert store.sql("SELECT count(*) FROM decisions WHERE agent_id = 'bounded-agent-prod'") == [(MAX_RECORDS + 1,)]


async def test_only_a_sidecar_or_an_admin_reports(store: Served) -> None:
    """No key, a wrong one and other roles are refused, and a revoked one at once."""
    request = Log("refused").report(decision(agent_id="refused-agent-prod"))
    admin = await in_thread(store.rest)
    made = (await in_thread(admin.post, "/api/keys", {"name": "cluster", "role": "sidecar"})).body
    async with reporter(store, made["key"]) as sidecar:
        assert await sidecar.send(request) == 1
        await in_thread(admin.delete, f"/api/keys/{made['key_id']}")
        assert (await sidecar.refused(request))[0] is grpc.StatusCode.UNAUTHENTICATED
    for key in ("", "owkai_0123456789abcdef_wrong"):
        async with reporter(store, key or "none") as sidecar:
            assert (await sidecar.refused(request))[0] is grpc.StatusCode.UNAUTHENTICATED
    for role in ("approver", "viewer", "agent"):
        async with reporter(store, role=role) as sidecar:
            assert (await sidecar.refused(request))[0] is grpc.StatusCode.PERMISSION_DENIED
    request = Log("admins-own").report(decision(agent_id="refused-agent-prod"))
    async with reporter(store, role="admin") as sidecar:
        assert await sidecar.send(request) == 1
