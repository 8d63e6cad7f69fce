"""Verification of the decisions: the chain of each sidecar's batches, and the rows of each against its records."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.fields import quote
from registry_store.audit import decision_rows, marks
from registry_store.audit.decision_chain import LogChain
from registry_store.audit.decision_rows import Difference, Unreadable
from registry_store.audit.marks import Statement
from registry_store.audit.verify import BELOW_ALL, UNREADABLE
from registry_store.database.decision_tables import Decision, DecisionBatch, DecisionLog, Outcome
from registry_store.decisions import batches, filters
from registry_store.decisions import outcomes as outcome_rows
from registry_store.decisions.reports import MAX_MESSAGE_BYTES
from registry_store.documents import instant

BATCHES = 20
"""Batches that are in memory at once: at most 4 MiB each, and mostly some 100 KiB."""
MAX_NAMED = 100
"""Rows without a batch that are named."""


@dataclass(slots=True)
class Verification:
    """Verifies the decisions that a session reads, and counts what it checked.

    `statements` are those of the checkpoints. Retention deletes what was received before `cutoff`.
    """

    session: AsyncSession
    statements: Iterable[Statement]
    cutoff: datetime
    sidecars: int = 0
    batches: int = 0
    decisions: int = 0
    outcomes: int = 0
    older: int = 0
    """Decisions from before batches were kept, which nothing can verify."""
    deleted: list[str] = field(default_factory=list)
    """What retention deleted, by sidecar."""

    async def findings(self) -> AsyncIterator[str]:
        """What was deleted, changed, inserted or moved."""
        session = self.session
        logs = {log.node_id: log for log in await session.scalars(select(DecisionLog))}
        signed = marks.newest(self.statements, {node_id: log.deleted_batches for node_id, log in logs.items()})
        with_batches = set(await session.scalars(select(DecisionBatch.node_id).distinct()))
        received = {node_id for node_id, log in logs.items() if log.batches}
        for node_id in sorted(with_batches | received | signed.keys()):
            self.sidecars += 1
            log = logs.get(node_id)
            chain = LogChain(node_id, marks.mark_of(log) if log is not None else None, signed.get(node_id))
            async for finding in self._of_sidecar(chain, log):
                yield f"sidecar {quote(node_id)}: {finding}"
        async for finding in _without_batch(session):
            yield finding
        older = select(func.count()).select_from(Decision).where(Decision.batch_id.is_(None))
        self.older = await session.scalar(older) or 0

    async def _of_sidecar(self, chain: LogChain, log: DecisionLog | None) -> AsyncIterator[str]:
        if log is not None and log.deleted_batches:
            for finding in chain.start(log.deleted_last, log.deleted_received_at, self.cutoff):
                yield finding
            self.deleted.append(_deleted(log))
        try:
            async for part in _batches(self.session, chain.node_id):
                async for finding in self._of_batches(chain, part):
                    yield finding
        except UNREADABLE:
            yield f"its batches after {chain.number} were changed: they cannot be read"
            return
        for finding in chain.end():
            yield finding

    async def _of_batches(self, chain: LogChain, part: Sequence[DecisionBatch]) -> AsyncIterator[str]:
        ids = [batch.batch_id for batch in part]
        decisions = await _rows(self.session, Decision, filters.COLUMNS, ids)
        outcomes = await _rows(self.session, Outcome, outcome_rows.COLUMNS, ids)
        for batch in part:
            content = _content(batch)
            for finding in chain.take(batch, content):
                yield finding
            own, ended = decisions.get(batch.batch_id, []), outcomes.get(batch.batch_id, [])
            self.batches += 1
            self.decisions += len(own)
            self.outcomes += len(ended)
            for difference in _differences(batch, content, own, ended):
                yield await _explained(self.session, batch, difference)
        for batch in part:
            self.session.expunge(batch)


def _differences(
    batch: DecisionBatch,
    content: bytes | None,
    decisions: Sequence[Any],
    outcomes: Sequence[Any],
) -> Iterator[Difference]:
    if content is None:
        return
    try:
        wanted = decision_rows.expected(batch, content)
    except ValueError as error:
        yield Difference("", f"batch {batch.number} was changed: {error}")
        return
    yield from decision_rows.compared(wanted.decisions, decisions, "decision")
    yield from decision_rows.compared(wanted.outcomes, outcomes, "the outcome of decision")


async def _explained(session: AsyncSession, batch: DecisionBatch, difference: Difference) -> str:
    """A difference; a row that is missing may have been moved to another batch."""
    if difference.is_missing:
        elsewhere = await session.scalar(
            select(Decision.batch_id).where(Decision.decision_id == difference.decision_id)
        )
        if elsewhere is not None and elsewhere != batch.batch_id:
            return difference.what.replace("was deleted", "was moved to another batch")
    return difference.what


async def _rows(
    session: AsyncSession, table: type[Decision | Outcome], columns: Sequence[str], batch_ids: Sequence[int]
) -> dict[int, list[Any]]:
    """The rows of these batches, by batch; an `Unreadable` in place of one that cannot be read."""
    found: dict[int, list[Any]] = {}
    wanted = select(*(getattr(table, name) for name in columns))
    try:
        for row in await session.execute(wanted.where(table.batch_id.in_(batch_ids))):
            found.setdefault(row.batch_id, []).append(row)
    except UNREADABLE:
        places = select(table.decision_id, table.batch_id).where(table.batch_id.in_(batch_ids))
        for decision_id, batch_id in (await session.execute(places)).all():
            found.setdefault(batch_id or 0, []).append(
                await _row(session, wanted.where(table.decision_id == decision_id), decision_id)
            )
    return found


async def _row(session: AsyncSession, query: Select[Any], decision_id: str) -> Any:
    try:
        return (await session.execute(query)).one()
    except UNREADABLE:
        return Unreadable(decision_id)


async def _batches(session: AsyncSession, node_id: str) -> AsyncIterator[Sequence[DecisionBatch]]:
    """The batches of a sidecar in the order of their numbers, some at a time."""
    last = BELOW_ALL
    while True:
        following = select(DecisionBatch).where(DecisionBatch.node_id == node_id, DecisionBatch.number > last)
        part = (await session.scalars(following.order_by(DecisionBatch.number).limit(BATCHES))).all()
        if not part:
            return
        last = part[-1].number
        yield part


def _content(batch: DecisionBatch) -> bytes | None:
    """The content of a batch; None if it cannot be read."""
    try:
        return batches.unpacked(batch.content, MAX_MESSAGE_BYTES)
    except ValueError:
        return None


async def _without_batch(session: AsyncSession) -> AsyncIterator[str]:
    """The decisions and outcomes of batches that are not there."""
    for table, kind in ((Decision, "decision"), (Outcome, "the outcome of decision")):
        there = select(DecisionBatch.batch_id)
        orphans = select(table.decision_id).where(table.batch_id.is_not(None), table.batch_id.not_in(there))
        for decision_id in await session.scalars(orphans.limit(MAX_NAMED)):
            yield f"{kind} {quote(decision_id)}: its batch was deleted"


def _deleted(log: DecisionLog) -> str:
    until = f", received until {instant(log.deleted_received_at)}" if log.deleted_received_at else ""
    records = f"{log.deleted_records:,} records from {log.deleted_first} to {log.deleted_last}"
    return f"retention deleted of sidecar {quote(log.node_id)}: {records}{until}"
