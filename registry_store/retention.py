"""What happens by the clock: what nobody can ask for any more is deleted, a little at a time."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database, retried
from registry_store.decisions import decisions, usage
from registry_store.journal import revisions
from registry_store.periodic import by_the_clock
from registry_store.settings import Retention

PERIOD_SECONDS = 60.0
BATCH = 5_000
"""Rows that one transaction deletes at most, so that no writer waits for long."""

Delete = Callable[[AsyncSession, int], Awaitable[int]]
"""Deletes at most so many rows, and returns how many there were."""


async def run(database: Database, retention: Retention) -> None:
    """Tidy up each minute, until cancelled; several stores on one database may."""
    attempts = Attempts("deleting what is too old", database.outage)
    await by_the_clock(partial(tidy, database, retention), PERIOD_SECONDS, attempts)


async def tidy(database: Database, retention: Retention, now: datetime) -> None:
    """Delete what is too old at `now`."""
    await retried(_give_up, database, now)
    await _delete_all(database, revisions.delete_given_up)
    await _delete_all(database, partial(decisions.delete_before, moment=now - retention.decisions))
    await _delete_all(database, partial(usage.delete_before, moment=now - retention.usage))
    await retried(_drop, database, now - retention.usage)


async def _delete_all(database: Database, delete: Delete) -> None:
    while await retried(_delete, database, delete) == BATCH:
        pass  # there may be more


async def _give_up(database: Database, now: datetime) -> None:
    async with database.reading() as session:
        upto = await revisions.held_no_longer(session, now)
    if upto is not None:
        async with database.writing() as session:
            await revisions.give_up(session, upto)


async def _delete(database: Database, delete: Delete) -> int:
    async with database.beside() as session:
        return await delete(session, BATCH)


async def _drop(database: Database, unheard_since: datetime) -> None:
    async with database.beside() as session:
        await decisions.forget_logs(session, unheard_since)
