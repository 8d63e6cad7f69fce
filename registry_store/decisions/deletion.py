"""Retention of decisions: whole batches are deleted with their rows, oldest first, and each log notes up to where."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Delete, Result, delete, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningDelete

from registry_store.database.bulk import delete_oldest
from registry_store.database.decision_tables import Decision, DecisionBatch, DecisionLog, Outcome

MAX_BATCHES = 200
"""Batches that one transaction deletes, which has at most a thousand records in each."""


class Deleted(NamedTuple):
    """A batch that was deleted."""

    node_id: str
    number: int
    first_sequence: int
    last_sequence: int
    head: bytes
    received_at: datetime


async def batches_before(session: AsyncSession, maximum: int, moment: datetime) -> int:
    """Delete batches received before `moment` of about `maximum` records, with their rows; returns how many records.

    0: nothing is left to delete.
    """
    found = await _oldest(session, maximum, moment)
    if not found:
        return 0
    nodes = sorted({row.node_id for row in found})
    # In one order, against stores that delete at the same time; the second finds nothing left of what the first took.
    wanted = select(DecisionLog).where(DecisionLog.node_id.in_(nodes)).order_by(DecisionLog.node_id).with_for_update()
    logs = {log.node_id: log for log in await session.scalars(wanted)}
    ids = [row.batch_id for row in found]
    columns = [getattr(DecisionBatch, name) for name in Deleted._fields]
    rows = await _execute(session, delete(DecisionBatch).where(DecisionBatch.batch_id.in_(ids)).returning(*columns))
    deleted = sorted(Deleted._make(row) for row in rows)
    await _execute(session, delete(Decision).where(Decision.batch_id.in_(ids)))
    await _execute(session, delete(Outcome).where(Outcome.batch_id.in_(ids)))
    for one in deleted:
        if (log := logs.get(one.node_id)) is not None:
            _note(log, one)
    return sum(row.last_sequence - row.first_sequence + 1 for row in found)


async def decisions_before(session: AsyncSession, maximum: int, moment: datetime) -> int:
    """Delete at most `maximum` decisions without a batch received before `moment`; returns the number deleted."""
    return await delete_oldest(session, Decision, maximum, Decision.received_at < moment, by=Decision.received_at)


async def forget_logs(session: AsyncSession, moment: datetime) -> None:
    """Delete the logs of sidecars that have neither reported nor connected since `moment`, and have no batches left."""
    unseen = or_(DecisionLog.seen_at.is_(None), DecisionLog.seen_at < moment)
    left = exists().where(DecisionBatch.node_id == DecisionLog.node_id)
    await _execute(session, delete(DecisionLog).where(DecisionLog.updated_at < moment, unseen, ~left))


async def _oldest(session: AsyncSession, maximum: int, moment: datetime) -> list[Any]:
    """The oldest batches, of at least `maximum` records together where there are so many."""
    # The batches of a sidecar have their ids, and were received, in one order: those before one of these are deleted
    # with it or before it.
    oldest = (
        select(DecisionBatch.batch_id, DecisionBatch.node_id, DecisionBatch.first_sequence, DecisionBatch.last_sequence)
        .where(DecisionBatch.received_at < moment)
        .order_by(DecisionBatch.received_at, DecisionBatch.batch_id)
        .limit(min(maximum, MAX_BATCHES))
    )
    found: list[Any] = []
    records = 0
    for row in await session.execute(oldest):
        found.append(row)
        records += row.last_sequence - row.first_sequence + 1
        if records >= maximum:
            break
    return found


async def _execute(session: AsyncSession, statement: Delete | ReturningDelete[*tuple[Any, ...]]) -> Result[Any]:
    return await session.execute(statement, execution_options={"synchronize_session": False})


def _note(log: DecisionLog, deleted: Deleted) -> None:
    """Note in the log that retention deleted this batch."""
    if not log.deleted_first:
        log.deleted_first = deleted.first_sequence
    log.deleted_batches, log.deleted_head = deleted.number, deleted.head.hex()
    log.deleted_records += deleted.last_sequence - deleted.first_sequence + 1
    log.deleted_last, log.deleted_received_at = deleted.last_sequence, deleted.received_at
