"""The batches of sidecars' decision logs in the database: kept whole, with a row for each decision and outcome."""

import asyncio
import zlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain as chained
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.bulk import DuplicateError, add_rows, chunks
from registry_store.database.decision_tables import Decision, DecisionBatch, DecisionLog, Outcome
from registry_store.decisions import chain, filters, outcomes
from registry_store.decisions.chain import Link
from registry_store.decisions.notes import Outcome as Ended
from registry_store.decisions.records import Decision as Decided
from registry_store.decisions.reports import Batch

TRIES = 5
"""How often the rows are added while other sidecars' reports add some of the same decisions."""
IDS_PER_QUERY = 500
COLUMNS = tuple(column.key for column in DecisionBatch.__table__.columns)


@dataclass(slots=True)
class Known:
    """Ids of decisions that are kept already: with a decision, and with an outcome."""

    decided: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Kept:
    """What was kept of batches: the new decisions and outcomes, and the rows of all."""

    decisions: list[Decided] = field(default_factory=list)
    outcomes: list[Ended] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    decision_rows: list[tuple[Any, ...]] = field(default_factory=list)
    outcome_rows: list[tuple[Any, ...]] = field(default_factory=list)
    head: bytes = chain.GENESIS


async def repeated(session: AsyncSession, node_id: str, batches: Iterable[Batch]) -> Set[tuple[int, bytes]]:
    """The last sequences and hashes of those of these batches that this sidecar reported before."""
    found: set[tuple[int, bytes]] = set()
    for part in chunks((batch.last for batch in batches), IDS_PER_QUERY):
        same = DecisionBatch.node_id == node_id, DecisionBatch.last_sequence.in_(part)
        rows = await session.execute(select(DecisionBatch.last_sequence, DecisionBatch.hash).where(*same))
        found.update((row.last_sequence, row.hash) for row in rows)
    return found


async def known(session: AsyncSession, decided: Iterable[str], ended: Iterable[str]) -> Known:
    """Which of these decisions, and of those with an outcome, are kept already."""
    found = Known()
    for ids, column, into in (
        (decided, Decision.decision_id, found.decided),
        (ended, Outcome.decision_id, found.ended),
    ):
        for part in chunks(ids, IDS_PER_QUERY):
            into.update(await session.scalars(select(column).where(column.in_(part))))
    return found


async def keep(
    session: AsyncSession, log: DecisionLog, batches: Sequence[Batch], at: datetime, before: Known | None = None
) -> Kept:
    """Keep the batches after those of this log, with their new decisions and outcomes; `before`: what is known of them.

    Without it, they are taken to be new, and looked up only if they are not.
    """
    if not batches:
        return Kept()
    batch_ids = await _new_ids(session, len(batches))
    connection = await session.connection()
    for _ in range(TRIES):
        kept = await asyncio.to_thread(_kept, log, batches, at, batch_ids, before or Known())
        try:
            async with connection.begin_nested():  # of the session, it would write the log once more
                await add_rows(session, DecisionBatch, COLUMNS, kept.rows)
                await add_rows(session, Decision, filters.COLUMNS, kept.decision_rows)
                await add_rows(session, Outcome, outcomes.COLUMNS, kept.outcome_rows)
            break
        except DuplicateError as error:
            duplicate = error
            before = await known(session, *_ids(batches))
    else:
        raise duplicate
    log.batches, log.head = log.batches + len(batches), kept.head.hex()
    return kept


def unpacked(content: bytes, maximum: int) -> bytes:
    """The content of a batch from its row; `ValueError` if it is damaged or larger than `maximum`."""
    reading = zlib.decompressobj()
    try:
        whole = reading.decompress(content, maximum)
    except zlib.error:
        raise ValueError("is not compressed as it was") from None
    if not reading.eof or reading.unused_data:
        raise ValueError(f"is not whole, or larger than {maximum} bytes")
    return whole


def _kept(log: DecisionLog, batches: Sequence[Batch], at: datetime, batch_ids: Sequence[int], before: Known) -> Kept:
    """The rows of the batches under these ids."""
    kept = Kept(head=bytes.fromhex(log.head))
    decided, ended = set(before.decided), set(before.ended)
    for number, (batch_id, batch) in enumerate(zip(batch_ids, batches, strict=True), 1):
        omitted = [sequence for sequence, _ in batch.refused]
        for sequence, decision in batch.decisions:
            if decision.decision_id in decided:
                omitted.append(sequence)
                continue
            decided.add(decision.decision_id)
            kept.decisions.append(decision)
            kept.decision_rows.append(filters.row(decision, batch_id, sequence - batch.first))
        for sequence, outcome in batch.outcomes:
            if outcome.decision_id in ended:
                omitted.append(sequence)
                continue
            ended.add(outcome.decision_id)
            kept.outcomes.append(outcome)
            kept.outcome_rows.append(outcomes.row(outcome, log.node_id, sequence, at, batch_id))
        link = _link(log, log.batches + number, batch, chain.written(omitted), at)
        kept.head = chain.head_after(kept.head, link)
        kept.rows.append((batch_id, *link[:7], batch.packed, link.omitted, at, kept.head))
    return kept


def _link(log: DecisionLog, number: int, batch: Batch, omitted: str, at: datetime) -> Link:
    return Link(
        log.node_id,
        number,
        batch.first,
        batch.last,
        batch.is_converted,
        batch.previous_hash,
        batch.hash,
        batch.sha256,
        omitted,
        at,
    )


def _ids(batches: Sequence[Batch]) -> tuple[Iterator[str], Iterator[str]]:
    decided = chained.from_iterable(batch.decisions for batch in batches)
    ended = chained.from_iterable(batch.outcomes for batch in batches)
    return (one.decision_id for _, one in decided), (one.decision_id for _, one in ended)


async def _new_ids(session: AsyncSession, number: int) -> list[int]:
    """So many new ids of batches, ascending. On PostgreSQL others draw between them; on SQLite nobody else writes."""
    if session.get_bind().dialect.name == "sqlite":
        first = int(await session.scalar(select(func.max(DecisionBatch.batch_id))) or 0) + 1
        return list(range(first, first + number))
    drawing = text("SELECT nextval('decision_batch_ids') FROM generate_series(1, :number)")
    return sorted(await session.scalars(drawing, {"number": number}))
