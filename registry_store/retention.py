"""Retention: old rows are deleted every minute, in small batches."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.alerts import outbox
from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database, retried
from registry_store.decisions import deletion, outcomes, usage
from registry_store.journal import revisions
from registry_store.periodic import by_the_clock
from registry_store.settings import Retention
from registry_store.sync import presence, watching

PERIOD_SECONDS = 60.0
BATCH = 5_000
"""Maximum number of rows that one transaction deletes, so that writers wait only briefly."""

Delete = Callable[[AsyncSession, int], Awaitable[int]]
"""Deletes up to a number of rows, and returns how many it deleted."""


async def run(database: Database, retention: Retention) -> None:
    """Deletes old rows every minute until cancelled; safe with several stores on one database."""
    attempts = Attempts("deleting old rows", database.outage)
    await by_the_clock(partial(tidy, database, retention), PERIOD_SECONDS, attempts)


async def tidy(database: Database, retention: Retention, now: datetime) -> None:
    """Deletes the rows that are too old at `now`."""
    await retried(_expire, database, now)
    await _delete_all(database, revisions.delete_expired)
    await _delete_batches(database, now - retention.decisions)
    await _delete_all(database, partial(deletion.decisions_before, moment=now - retention.decisions))
    await _delete_all(database, partial(outcomes.delete_before, moment=now - retention.decisions))
    await _delete_all(database, partial(usage.delete_before, moment=now - retention.usage))
    await retried(_forget_presence, database, now - presence.KEPT_FOR)
    await _delete_all(database, partial(outbox.delete_before, moment=now - retention.alerts))
    await retried(_forget_logs, database, now - retention.usage)


async def _delete_all(database: Database, delete: Delete) -> None:
    while await retried(_delete, database, delete) >= BATCH:
        pass  # there may be more


async def _delete_batches(database: Database, moment: datetime) -> None:
    while await retried(_delete, database, partial(deletion.batches_before, moment=moment)):
        pass  # there may be more


async def _expire(database: Database, now: datetime) -> None:
    async with database.reading() as session:
        upto = await revisions.newest_expired(session, now)
    if upto is not None:
        async with database.writing() as session:
            await revisions.expire(session, upto)


async def _delete(database: Database, delete: Delete) -> int:
    async with database.beside() as session:
        return await delete(session, BATCH)


async def _forget_logs(database: Database, unheard_since: datetime) -> None:
    async with database.beside() as session:
        await deletion.forget_logs(session, unheard_since)
        await watching.forget_before(session, unheard_since)


async def _forget_presence(database: Database, unheard_since: datetime) -> None:
    async with database.beside() as session:
        await presence.delete_before(session, unheard_since)
