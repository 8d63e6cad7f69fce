"""Expiry of approvals: a periodic task ends overdue approvals within about a second, in small batches."""

from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.approvals import approvals, lists
from registry_store.approvals.approvals import ApprovalState
from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database, retried
from registry_store.journal.activity import Actor
from registry_store.metrics import Metrics
from registry_store.periodic import by_the_clock

PERIOD_SECONDS = 1.0
BATCH = 500
"""Maximum of approvals per transaction, so that no other writer waits for long."""


async def run(database: Database, metrics: Metrics) -> None:
    """End overdue approvals each second, until cancelled; several stores can do so on one database."""
    attempts = Attempts("marking approvals that have expired", database.outage)
    await by_the_clock(partial(tick, database, metrics), PERIOD_SECONDS, attempts)


async def tick(database: Database, metrics: Metrics, now: datetime) -> None:
    """End the approvals that are overdue at `now`, and set the metric of pending ones."""

    async def read(session: AsyncSession) -> tuple[int, datetime | None, bool]:
        return *await lists.pending(session, now), bool(await lists.overdue(session, now, 1))

    count, oldest, overdue = await database.read_apart(read)
    metrics.approvals_pending.set(count)
    metrics.approvals_oldest_pending.set((now - oldest).total_seconds() if oldest is not None else 0)
    while overdue:  # take the writers' lock only if there is something to mark
        ended, expired = await retried(_mark, database, now)
        for waited in expired:
            metrics.approval_ended(ApprovalState.EXPIRED.value, waited)
        if ended < BATCH:
            return


async def _mark(database: Database, now: datetime) -> tuple[int, list[timedelta | None]]:
    """End a batch of overdue approvals; how many there were, and how long each that expired had waited for people."""
    async with database.writing() as session:
        overdue = await lists.overdue(session, now, BATCH)
        expired = await approvals.end_overdue(session, overdue, Actor("system", "system", now))
    return len(overdue), [None if one.decided_at else now - one.requested_at for one in expired]
