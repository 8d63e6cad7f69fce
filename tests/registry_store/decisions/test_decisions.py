"""Reported decisions: each is stored once, and the hash chain of each log is checked."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from pdp.core.action import Action
from pdp.core.json.equality import same_json
from pdp.decision_log import record
from pdp.decision_log.record import Opens
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.v1 import decision_pb2 as pdp_pb
from registry_store.decisions.reports import MAX_BYTES, MAX_RECORDS, MAX_SEQUENCE
from registry_store.rpc import reports
from registry_store.v1 import sync_pb2 as pb
from tests.deciding import entry_of
from tests.pdp.decision_log.worst import BY_GRPC_ALONE, FILLINGS, largest_by_grpc, last_entry, worst_bench
from tests.registry_store import serving
from tests.registry_store.reporting import AGENT, GENESIS, Log, decision, gap, new_id, reporter
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


def metric(store: Served, name: str, **labels: str) -> float:
    return store.running._store.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_a_report_is_kept_with_all_that_it_says(fresh: Served) -> None:
    """Unknown members are returned as well, with the node id and the time of receipt."""
    log, said = Log(), decision("block", attributes={"ü": [1, 2.5, None]}, of_a_later_release={"x": True})
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
        assert await sidecar.send(Log().report(record.document(entry, NOTHING))) == 1
    shown = await in_thread(fresh.rest().get, f"/api/approvals/{entry.opens.approval_id}")
    assert (shown.status, shown.body["status"]) == (200, "pending")
    assert shown.body["action"]["attributes"].keys() == {name.replace("\0", "␀") for name in request.action.attributes}


async def test_a_repeat_is_a_record_of_its_own_and_counts_nothing(fresh: Served) -> None:
    """It is listed with the decision that it repeats; usage is that of the first alone, to the minute and the day."""
    said = decision(cost_micros=5)
    again = said | {"decision_id": new_id(), "repeat_of": said["decision_id"], "cost_micros": 0}
    old = {name: value for name, value in decision("block").items() if name != "repeat_of"}
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(Log().report(said, again, old)) == 3
    shown = (await in_thread(fresh.rest().get, "/api/decisions")).body["decisions"]
    assert {one["decision_id"]: one["repeat_of"] for one in shown} == {
        said["decision_id"]: None,
        again["decision_id"]: said["decision_id"],
        old["decision_id"]: None,
    }
    assert counted(fresh) == {"allow": (1, 5), "block": (1, 0)}
    await in_thread(fresh.rest().register, AGENT)
    used = (await in_thread(fresh.rest().get, f"/api/agents/registry/{AGENT}/usage")).body
    assert (used["actions_last_minute"], used["actions_last_day"]) == (1, 1)


async def test_a_repeat_of_what_is_no_id_is_refused(fresh: Served) -> None:
    """The field is named."""
    async with reporter(fresh) as sidecar:
        code, details = await sidecar.refused(Log().report(decision(repeat_of="d-1")))
    assert code is INVALID
    assert "records[0].document.repeat_of" in details


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
    written = record.document(entry, Redaction())
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(Log().report(written)) == 1
    shown = (await in_thread(fresh.rest().get, f"/api/decisions/{decision_id}")).body
    assert fresh.sql("SELECT approval_id FROM approvals") == [(approval_id,)]
    said = decision()
    assert shown.keys() - {"node_id", "sequence", "received_at", "outcome"} == said.keys()
    assert all(shown[name].keys() == said[name].keys() for name in ("action", "answer"))


async def test_what_is_sent_again_is_kept_and_counted_once(fresh: Served) -> None:
    """With any batches the second time; only new records are counted, and there is no break."""
    log = Log()
    records = log.records(*(decision(cost_micros=7) for _ in range(6)))
    async with reporter(fresh) as sidecar:
        for first, last, newest in ((0, 3, 3), (0, 3, 3), (1, 5, 5), (0, 2, 5), (5, 6, 6), (0, 6, 6)):
            request = pb.ReportDecisionsRequest(node_id="node-1", records=records[first:last])
            assert await sidecar.send(request) == newest
    assert len(kept(fresh)) == 6
    assert counted(fresh) == {"allow": (6, 42)}
    assert log_of(fresh) == (6, log.hash.hex(), 0, 0)
    assert metric(fresh, "registry_store_decisions_total", outcome="allow") == 6
    assert metric(fresh, "registry_store_decision_repeats_total") == 3 + 2 + 2 + 6


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
    log.records(*(decision() for _ in range(4)))
    log.hash = first.records[0].hash
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


def changed(record: pb.DecisionRecord, **fields: Any) -> pb.DecisionRecord:
    other = pb.DecisionRecord()
    other.CopyFrom(record)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


async def test_a_record_that_does_not_follow_is_kept_and_told(fresh: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Another document than was hashed, another hash before it, a first record that follows something: three breaks."""
    one, two, three = Log("one"), Log("two"), Log("three", last_hash=bytes(range(32)))
    altered = [changed(record, document=log_document()) for record in one.records(decision())]
    async with reporter(fresh) as sidecar:
        await sidecar.send(pb.ReportDecisionsRequest(node_id="one", records=altered))
        await sidecar.send(two.report(decision()))
        two.hash = GENESIS
        await sidecar.send(two.report(decision(), decision()))
        await sidecar.send(three.report(decision()))
    assert [log_of(fresh, name)[3] for name in ("one", "two", "three")] == [1, 1, 1]
    assert len(kept(fresh)) == 5
    assert metric(fresh, "registry_store_decision_breaks_total") == 3
    assert "the hash chain in the decision log of sidecar `two` is broken at 1 records" in caplog.text


def log_document() -> bytes:
    (record,) = Log().records(decision())
    return record.document


async def test_a_log_that_was_set_back_loses_nothing(fresh: Served) -> None:
    """A sidecar whose folder was restored uses sequences again: its new decisions are kept, and each is a break.

    The answer tells it up to where its log is known, so that it can go on from there.
    """
    log = Log()
    before = log.report(*(decision() for _ in range(3)))
    restored = log.copy()
    async with reporter(fresh) as sidecar:
        await sidecar.send(before)
        await sidecar.send(log.report(*(decision() for _ in range(4))))
        assert await sidecar.send(restored.report(decision(), decision())) == 7
        assert log_of(fresh) == (7, log.hash.hex(), 0, 2)
        await sidecar.send(restored.report(decision(), decision()))
        assert log_of(fresh)[3] == 4
        await sidecar.send(restored.report(decision()))
    assert log_of(fresh) == (8, restored.hash.hex(), 0, 5)
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
    """A NUL, which PostgreSQL does not keep, is kept as its symbol; numbers of any size keep their value."""
    action = {"resource": "a\0b", "attributes": {"\0": ["\0", 1e300, 10**40, "\\u0000"]}}
    said = decision("block", action=action)
    async with reporter(fresh) as sidecar:
        await sidecar.send(Log().report(said))
    shown = (await in_thread(fresh.rest().get, f"/api/decisions/{said['decision_id']}")).body["action"]
    assert shown["resource"] == "a␀b"
    assert same_json(shown["attributes"], {"␀": ["␀", 1e300, 10**40, "\\u0000"]})


ONE = decision()
MALFORMED = {
    "node_id: is empty": pb.ReportDecisionsRequest(records=Log().records(ONE)),
    "node_id: is longer than 128 characters": Log("x" * 129).report(ONE),
    "node_id: `a\0b` is not letters, digits": Log("a\0b").report(ONE),
    "records: must have 1 to 1000 items": Log().report(),
    "records[0].sequence: `0` is not within 1 to": Log(sequence=-1).report(ONE),
    f"records[0].sequence: `{MAX_SEQUENCE + 1}` is not within": Log(sequence=MAX_SEQUENCE).report(ONE),
    "records[1].sequence: `1` does not come after `1`": pb.ReportDecisionsRequest(
        node_id="n", records=[*Log().records(ONE), *Log().records(ONE)]
    ),
    "records[0].hash: must have 32 bytes": pb.ReportDecisionsRequest(
        node_id="n", records=[changed(Log().records(ONE)[0], hash=b"short")]
    ),
    "records[0].previous_hash: must have 32 bytes": pb.ReportDecisionsRequest(
        node_id="n", records=[changed(Log().records(ONE)[0], previous_hash=b"")]
    ),
    "records[1].document: is not JSON: `NaN` is not a JSON number": Log().report(ONE, b'{"decision_id": NaN}'),
    "records[0].document: is not JSON: it is nested": Log().report(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"),
    "records[0].document: is not JSON: `1e999` is too large for a number": Log().report(b'{"a":1e999}'),
    "records[1].document: is not JSON: `-9999999999999999999`": Log().report(ONE, b'{"a":-%s.5}' % (b"9" * 310)),
    "records[0].document: `[]` is not an object": Log().report(b"[]"),
    "records[0].document.decision_id: is required": Log()
    .report({**ONE, "decision_id": None}, ONE)
    .__class__(node_id="n", records=Log().records({name: ONE[name] for name in ONE if name != "decision_id"})),
    "records[0].document.decision_id: `nothing` is not a UUID of version 7": Log().report(
        ONE | {"decision_id": "nothing"}
    ),
    "records[0].document.decided_at: `noon` is not a time": Log().report(ONE | {"decided_at": "noon"}),
    "records[0].document.answer.outcome: `maybe` is not one of": Log().report(ONE | {"answer": {"outcome": "maybe"}}),
    "records[0].document.action.agent_id: is required": Log().report(ONE | {"action": {}}),
    "records[0].document.action: `1` is not an object": Log().report(ONE | {"action": 1}),
    "records[0].document.cost_micros: `-1` is not within": Log().report(ONE | {"cost_micros": -1}),
    "records[1].document.opens.approval_id: is required": Log().report(
        ONE, decision("escalate", opens="01920000-0000-7000-8000-000000000001") | {"opens": {}}
    ),
    "records[0].document.gap.records: is required": Log().report({"gap": {"first_sequence": 1, "last_sequence": 2}}),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_report_is_refused_by_name_and_keeps_nothing(store: Served, what: str) -> None:
    """INVALID_ARGUMENT with the path of the error; valid records of the report are not stored either."""
    before = store.sql("SELECT count(*) FROM decisions")
    async with reporter(store) as sidecar:
        code, details = await sidecar.refused(MALFORMED[what])
    assert code is INVALID
    assert what in details
    assert store.sql("SELECT count(*) FROM decisions") == before


async def test_a_report_has_its_bounds(store: Served) -> None:
    """A thousand records with four megabytes of documents are accepted; more is refused."""
    many = [decision(agent_id="bounded-agent-prod") for _ in range(MAX_RECORDS)]
    size = (MAX_BYTES - sum(len(record.document) for record in Log().records(*many))) // MAX_RECORDS - 20
    for each in many:
        each["padding"] = "x" * size
    async with reporter(store) as sidecar:
        assert await sidecar.send(Log("bounded").report(*many)) == MAX_RECORDS
        code, details = await sidecar.refused(Log("more").report(*many, decision()))
        assert (code, details) == (INVALID, "records: must have 1 to 1000 items")
        large = [decision(padding="x" * (MAX_BYTES // 10)) for _ in range(10)]
        code, details = await sidecar.refused(Log("larger").report(*large))
        assert (code, details) == (INVALID, f"records: the documents are larger than {MAX_BYTES} bytes together")
        code, _ = await sidecar.refused(Log("largest").report(decision(padding="x" * 2 * MAX_BYTES)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert store.sql("SELECT count(*) FROM decisions WHERE agent_id = 'bounded-agent-prod'") == [(MAX_RECORDS,)]


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
