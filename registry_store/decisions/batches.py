"""The batches of sidecars' decision logs in the database: kept whole, with a row for each decision and outcome."""

import zlib
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain as chained
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.blocking import aside
from registry_store.database.bulk import DuplicateError, Rows, add_rows, chunks, rows_of
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
    """What was kept of batches: the new decisions and outcomes, and the rows to add."""

    decisions: list[Decided] = field(default_factory=list)
    outcomes: list[Ended] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
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
    numbered = list(zip(await _new_ids(session, len(batches)), batches, strict=True))
    connection = await session.connection()
    dialect = connection.dialect.name
    for _ in range(TRIES):
        kept = await aside(session, _kept, log, numbered, at, before or Known(), dialect)
        try:
            async with connection.begin_nested():  # of the session, it would write the log once more
                for rows in kept.rows:
                    await add_rows(session, rows)
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


def _kept(log: DecisionLog, batches: Sequence[tuple[int, Batch]], at: datetime, before: Known, dialect: str) -> Kept:
    """The rows of the batches, each with its id."""
    kept = Kept(head=bytes.fromhex(log.head))
    decided, ended = set(before.decided), set(before.ended)
    batch_rows, outcome_rows = [], []
    of_batches: list[int] = []
    positions: list[int] = []
    for number, (batch_id, batch) in enumerate(batches, 1):
        new_decisions, repeated = _new(batch.decisions, decided)
        new_outcomes, ended_before = _new(batch.outcomes, ended)
        kept.decisions += [decision for _, decision in new_decisions]
        of_batches += [batch_id] * len(new_decisions)
        positions += [sequence - batch.first for sequence, _ in new_decisions]
        kept.outcomes += [outcome for _, outcome in new_outcomes]
        outcome_rows += [outcomes.row(one, log.node_id, sequence, at, batch_id) for sequence, one in new_outcomes]
        omitted = [sequence for sequence, _ in batch.refused] + repeated + ended_before
        link = _link(log, log.batches + number, batch, chain.written(omitted), at)
        kept.head = chain.head_after(kept.head, link)
        batch_rows.append((batch_id, *link[:7], batch.packed, link.omitted, at, kept.head))
    kept.rows = [
        rows_of(DecisionBatch, _columns(COLUMNS, batch_rows), dialect),
        rows_of(Decision, filters.columns(kept.decisions, of_batches, positions), dialect),
        rows_of(Outcome, _columns(outcomes.COLUMNS, outcome_rows), dialect),
    ]
    return kept


def _new(found: list[tuple[int, Any]], known: set[str]) -> tuple[list[tuple[int, Any]], list[int]]:
    """What has no id that is known, which becomes known, and the sequences of the rest."""
    ids = {one.decision_id for _, one in found}
    if len(ids) == len(found) and ids.isdisjoint(known):
        known |= ids
        return found, []
    new, repeated = [], []
    for sequence, one in found:
        if one.decision_id in known:
            repeated.append(sequence)
        else:
            known.add(one.decision_id)
            new.append((sequence, one))
    return new, repeated


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Sequence[Any]]:
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


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
