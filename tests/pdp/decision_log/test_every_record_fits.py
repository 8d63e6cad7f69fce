"""Every action that is accepted has a record that fits the log and that the store accepts."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.decision_log.record import Entry, record, weight
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.decision_log.spool import MAX_REPORT_BYTES
from pdp.decision_log.writer import MAX_RECORD_BYTES
from pdp.log_format.batches import GENESIS, sealed
from pdp.log_format.frames import MAX_CONTENT_BYTES
from pdp.v1 import decision_pb2 as pb
from registry_store.decisions.reports import MAX_BYTES, read_batches
from registry_store.v1 import sync_pb2
from tests.deciding import served
from tests.pdp.actions import actions
from tests.pdp.decision_log.worst import (
    BY_GRPC_ALONE,
    EVERYTHING,
    FILLINGS,
    KEY,
    body,
    by_grpc,
    largest,
    largest_by_grpc,
    last_entry,
    message,
    worst_bench,
)

BENCH = worst_bench()


def by_json(fields: dict[str, Any]) -> bool:
    """Whether the JSON endpoint decides."""
    status, _ = asyncio.run(BENCH.service.evaluate_json(body(fields, dry_run=True)))
    if status == 200:
        last_entry(BENCH)
    return status == 200


def check(entry: Entry, redact: Redaction) -> int:
    """The record of an entry fits, weighs what it is said to at most, and the store takes it with its approval."""
    written = record(entry, redact)
    assert len(written) <= min(MAX_RECORD_BYTES, weight(entry, redact))
    batch = sealed(GENESIS, 1, [written])
    chained = sync_pb2.ChainedBatch(content=batch.content, previous_hash=GENESIS, hash=batch.hash)
    (report,) = read_batches(sync_pb2.ReportDecisionsRequest(node_id="node", batches=[chained]))
    assert report.refused == []
    ((_, read),) = report.decisions
    assert (read.opens is None) == (entry.opens is None)
    return len(written)


@pytest.mark.parametrize("kind", [*FILLINGS, *BY_GRPC_ALONE])
def test_the_largest_action_of_each_kind_by_grpc(kind: str) -> None:
    """With all of it redacted as well."""
    request = largest_by_grpc((FILLINGS | BY_GRPC_ALONE)[kind])
    BENCH.service.point.evaluate(request)
    entry = last_entry(BENCH)
    keyed = pb.EvaluateRequest.FromString(entry.request)
    keyed.idempotency_key = KEY
    entry = entry._replace(request=keyed.SerializeToString())
    assert entry.opens is not None
    for redact in (NOTHING, EVERYTHING):
        check(entry, redact)


@pytest.mark.parametrize("kind", FILLINGS)
def test_the_largest_action_of_each_kind_by_json(kind: str) -> None:
    """The same by JSON."""
    filling = FILLINGS[kind]
    size = largest(lambda size: by_json(filling(size)))
    status, _ = asyncio.run(BENCH.service.evaluate_json(body(filling(size))))
    assert status == 200
    entry = last_entry(BENCH)
    assert entry.opens is not None
    for redact in (NOTHING, EVERYTHING):
        check(entry, redact)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(FILLINGS)), st.integers(0, 2000)), max_size=4),
    actions,
    st.sampled_from([NOTHING, EVERYTHING]),
)
def test_any_action_that_is_decided_has_a_record(
    fillings: list[tuple[str, int]], action: dict[str, Any], redact: Redaction
) -> None:
    """For any mix of fields, by either endpoint."""
    attributes = {
        f"{place}{name}": value
        for place, (kind, size) in enumerate(fillings)
        for name, value in FILLINGS[kind](size).get("attributes", {}).items()
    }
    fields = action | {"attributes": action.get("attributes", {}) | attributes}
    if (request := by_grpc(fields)) is not None:
        BENCH.service.point.evaluate(request)
        check(last_entry(BENCH), redact)
    status, _ = asyncio.run(BENCH.service.evaluate_json(body(fields)))
    if status == 200:
        check(last_entry(BENCH), redact)


async def test_the_largest_actions_over_a_real_connection() -> None:
    """One after the other, each with its record."""
    bench = worst_bench()
    async with served(bench.service) as stub:
        for kind in ("large numbers", "nulls", "control characters", "classifications"):
            await stub.Evaluate(pb.EvaluateRequest.FromString(message(FILLINGS[kind](4000))))
            check(last_entry(bench), EVERYTHING)


def test_the_store_accepts_the_largest_report() -> None:
    """It is within the bound of all batches together."""
    assert MAX_CONTENT_BYTES < MAX_REPORT_BYTES <= MAX_BYTES


def test_4500_large_numbers_have_a_record() -> None:
    """Each of them took 309 digits, and together more than a record may have."""
    request = by_grpc({"attributes": {"x": [1e308] * 4500}})
    assert request is not None
    BENCH.service.point.evaluate(request)
    assert check(last_entry(BENCH), NOTHING) < 300_000
