"""Reports of sidecars from before there were batches: checked as ever, and kept in batches of the store's making."""

from typing import Any

import grpc
import pytest

from pdp.log_format import batches as log_format
from registry_store.decisions.batches import unpacked
from registry_store.decisions.records import MAX_SEQUENCE
from registry_store.decisions.reports import MAX_BYTES, MAX_OLD_RECORDS
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.decisions.test_decisions import counted, kept, log_of, metric
from tests.registry_store.reporting import GENESIS, Log, decision, ended, gap, reporter
from tests.registry_store.serving import Served, in_thread

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def stored(store: Served, node_id: str = "node-1") -> list[tuple[int, int, str]]:
    """The first and last sequences of the batches of a sidecar, and what they omit."""
    columns = "first_sequence, last_sequence, omitted, is_converted"
    rows = store.sql(f"SELECT {columns} FROM decision_batches WHERE node_id = '{node_id}' ORDER BY number")
    assert all(converted for *_, converted in rows)
    return [(first, last, omitted) for first, last, omitted, _ in rows]


async def test_records_become_a_batch(fresh: Served) -> None:
    """REST shows what the sidecar wrote; an earlier version did not write whether it repeats another."""
    said = [decision("block", action={"attributes": {"\0": [1, 2.5, None]}}), decision()]
    del said[1]["repeat_of"]
    log = Log()
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(log.old_report(*said)) == 2
    assert stored(fresh) == [(1, 2, "")]
    shown = [(await in_thread(fresh.rest().get, f"/api/decisions/{one['decision_id']}")).body for one in said]
    origin = {"node_id": "node-1", "outcome": None, "repeat_of": None}
    for sequence, (one, body) in enumerate(zip(said, shown, strict=True), 1):
        assert body == one | origin | {"sequence": sequence, "received_at": body["received_at"]}
    assert log_of(fresh) == (2, log.hash.hex(), 0, 0)


async def test_batches_follow_the_records_of_the_same_log(fresh: Served) -> None:
    """A sidecar that is replaced by a newer version goes on where its log was: nothing breaks, nothing is missing."""
    log = Log()
    async with reporter(fresh) as sidecar:
        await sidecar.send(log.old_report(decision(), decision()))
        assert await sidecar.send(log.report(decision())) == 3
    assert log_of(fresh) == (3, log.hash.hex(), 0, 0)
    rows = fresh.sql("SELECT number, is_converted, hash FROM decision_batches ORDER BY number")
    assert [(number, bool(converted)) for number, converted, _ in rows] == [(1, True), (2, False)]
    ((previous,),) = fresh.sql("SELECT previous_hash FROM decision_batches WHERE number = 2")
    assert bytes(previous) == bytes(rows[0][2])


async def test_a_record_that_is_sent_again_is_kept_once(fresh: Served) -> None:
    """In any batches the second time; outcomes as well, and nothing is counted twice."""
    log, one = Log(), decision(cost_micros=7)
    records = log.records(*(decision(cost_micros=7) for _ in range(4)), one, ended(one))
    async with reporter(fresh) as sidecar:
        for first, last, newest in ((0, 3, 3), (0, 3, 3), (1, 5, 5), (0, 2, 5), (5, 6, 6), (0, 6, 6)):
            request = pb.ReportDecisionsRequest(node_id="node-1", records=records[first:last])
            assert await sidecar.send(request) == newest
    assert stored(fresh) == [(1, 3, ""), (4, 5, ""), (6, 6, "")]
    assert counted(fresh) == {"allow": (5, 35)}
    assert log_of(fresh) == (6, log.hash.hex(), 0, 0)
    assert metric(fresh, "registry_store_decision_repeats_total") == 3 + 2 + 2 + 6


async def test_records_that_were_given_up_divide_a_report(fresh: Served) -> None:
    """Each run of sequences is a batch; what is between them is missing."""
    log = Log()
    first = log.records(decision(), decision())
    log.records(*(decision() for _ in range(4)))
    log.hash = first[-1].hash
    request = pb.ReportDecisionsRequest(node_id="node-1", records=[*first, *log.records(gap(3, 6), decision())])
    async with reporter(fresh) as sidecar:
        await sidecar.send(request)
    assert stored(fresh) == [(1, 2, ""), (7, 8, "")]
    assert log_of(fresh) == (8, log.hash.hex(), 4, 0)


async def test_a_record_that_does_not_follow_is_kept_and_told(fresh: Served) -> None:
    """Another document than was hashed, another hash before it, and a sequence that is used again: three breaks."""
    one, two, three = Log("one"), Log("two"), Log("three")
    (altered,) = one.records(decision())
    altered.document = Log().records(decision())[0].document
    restored = three.copy()
    async with reporter(fresh) as sidecar:
        await sidecar.send(pb.ReportDecisionsRequest(node_id="one", records=[altered]))
        await sidecar.send(two.old_report(decision()))
        two.hash = GENESIS
        await sidecar.send(two.old_report(decision(), decision()))
        await sidecar.send(three.old_report(decision(), decision(), decision()))
        await sidecar.send(restored.old_report(decision()))
    assert [log_of(fresh, name)[3] for name in ("one", "two", "three")] == [1, 1, 1]
    assert stored(fresh, "three") == [(1, 3, ""), (1, 1, "")]
    assert len(kept(fresh)) == 8


async def test_a_known_decision_is_omitted(fresh: Served) -> None:
    """From another sidecar, and twice in one report: its record stays in the batch, and is no second row."""
    said = decision(cost_micros=5)
    async with reporter(fresh) as sidecar:
        await sidecar.send(Log("old").report(said))
        await sidecar.send(Log("new").old_report(decision(), said, decision()))
    assert stored(fresh, "new") == [(1, 3, "2")]
    ((content,),) = fresh.sql("SELECT content FROM decision_batches WHERE node_id = 'new'")
    assert len(log_format.opened(unpacked(content, MAX_BYTES)).records) == 3
    assert counted(fresh)["allow"] == (3, 5)


ONE: dict[str, Any] = decision()
MALFORMED = {
    "records: must have 1 to 1000 items": Log().old_report(),
    "records[0].sequence: `0` is not within 1 to": Log(sequence=-1).old_report(ONE),
    f"records[0].sequence: `{MAX_SEQUENCE + 1}` is not within": Log(sequence=MAX_SEQUENCE).old_report(ONE),
    "records[1].sequence: `1` does not come after `1`": pb.ReportDecisionsRequest(
        node_id="n", records=[*Log().records(ONE), *Log().records(ONE)]
    ),
    "records[0].hash: must have 32 bytes": pb.ReportDecisionsRequest(
        node_id="n", records=[pb.DecisionRecord(sequence=1, document=b"{}", previous_hash=GENESIS, hash=b"short")]
    ),
    "records[0].previous_hash: must have 32 bytes": pb.ReportDecisionsRequest(
        node_id="n", records=[pb.DecisionRecord(sequence=1, document=b"{}", hash=GENESIS)]
    ),
    "records[1].document: is not JSON: `NaN` is not a JSON number": Log().old_report(ONE, b'{"decision_id": NaN}'),
    "records[0].document: is not JSON: it is nested": Log().old_report(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"),
    "records[0].document: is not JSON: `1e999` is too large for a number": Log().old_report(b'{"a":1e999}'),
    "records[1].document: is not JSON: `-9999999999999999999`": Log().old_report(ONE, b'{"a":-%s.5}' % (b"9" * 310)),
    "records[0].document: `[]` is not an object": Log().old_report(b"[]"),
    "records[0].document.decision_id: is required": Log().old_report(
        {name: ONE[name] for name in ONE if name != "decision_id"}
    ),
    "records[0].document.decision_id: `nothing` is not a UUID of version 7": Log().old_report(
        ONE | {"decision_id": "nothing"}
    ),
    "records[0].document.decided_at: `noon` is not a time": Log().old_report(ONE | {"decided_at": "noon"}),
    "records[0].document.answer.outcome: `maybe` is not one of": Log().old_report(
        ONE | {"answer": {"outcome": "maybe"}}
    ),
    "records[0].document.action.agent_id: is required": Log().old_report(ONE | {"action": {}}),
    "records[0].document.action: `1` is not an object": Log().old_report(ONE | {"action": 1}),
    "records[0].document.cost_micros: `-1` is not within": Log().old_report(ONE | {"cost_micros": -1}),
    "records[1].document.opens.approval_id: is required": Log().old_report(
        ONE, decision("escalate", opens="01920000-0000-7000-8000-000000000001") | {"opens": {}}
    ),
    "records[0].document: is not the document of a record": Log().old_report(ONE | {"answer": {"outcome": "allow"}}),
    "records[0].document.gap.records: is required": Log().old_report(
        {"gap": {"first_sequence": 1, "last_sequence": 2}}
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_record_is_refused_by_name_and_the_report_keeps_nothing(store: Served, what: str) -> None:
    """INVALID_ARGUMENT with the path of the error; valid records of the report are not stored either."""
    before = store.sql("SELECT count(*) FROM decisions")
    async with reporter(store) as sidecar:
        code, details = await sidecar.refused(MALFORMED[what])
    assert code is INVALID
    assert what in details
    assert store.sql("SELECT count(*) FROM decisions") == before


async def test_a_report_of_records_has_its_bounds(store: Served) -> None:
    """A thousand records with four megabytes of documents are accepted; more is refused."""
    many = [decision(agent_id="old-bounded-prod") for _ in range(MAX_OLD_RECORDS)]
    size = (MAX_BYTES - sum(len(record.document) for record in Log().records(*many))) // MAX_OLD_RECORDS - 20
    for each in many:
        each["padding"] = "x" * size
    async with reporter(store) as sidecar:
        assert await sidecar.send(Log("old-bounded").old_report(*many)) == MAX_OLD_RECORDS
        code, details = await sidecar.refused(Log("more").old_report(*many, decision()))
        assert (code, details) == (INVALID, "records: must have 1 to 1000 items")
        large = [decision(padding="x" * (MAX_BYTES // 10)) for _ in range(10)]
        code, details = await sidecar.refused(Log("larger").old_report(*large))
        assert (code, details) == (INVALID, f"records: the documents are larger than {MAX_BYTES} bytes together")
        code, _ = await sidecar.refused(Log("largest").old_report(decision(padding="x" * 2 * MAX_BYTES)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert store.sql("SELECT count(*) FROM decisions WHERE agent_id = 'old-bounded-prod'") == [(MAX_OLD_RECORDS,)]
