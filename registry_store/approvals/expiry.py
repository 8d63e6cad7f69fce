"""The end of approvals by the clock: marked as expired within about a second, a little at a time."""

from datetime import datetime
from functools import partial

from registry_store.approvals import approvals, lists
from registry_store.approvals.approvals import ApprovalState
from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database, retried
from registry_store.journal.activity import Actor
from registry_store.metrics import Metrics
from registry_store.periodic import by_the_clock

PERIOD_SECONDS = 1.0
BATCH = 500
"""Approvals that one transaction marks at most, so that no writer waits for long."""


async def run(database: Database, metrics: Metrics) -> None:
    """Mark what has expired each second, until cancelled; several stores on one database may."""
    attempts = Attempts("marking approvals that have expired", database.outage)
    await by_the_clock(partial(tick, database, metrics), PERIOD_SECONDS, attempts)


async def tick(database: Database, metrics: Metrics, now: datetime) -> None:
    """Mark what has expired by `now`, and note how many are pending."""
    async with database.reading() as session:
        metrics.approvals_pending.set(await lists.count_pending(session, now))
        overdue = await lists.overdue(session, now, 1)
    while overdue:  # the writers' lock is taken only for what there is
        marked = await retried(_mark, database, now)
        metrics.approvals.labels(ApprovalState.EXPIRED.value).inc(marked)
        if marked < BATCH:
            return


async def _mark(database: Database, now: datetime) -> int:
    async with database.writing() as session:
        overdue = await lists.overdue(session, now, BATCH)
        await approvals.expire(session, overdue, Actor("system", "system", now))
    return len(overdue)
