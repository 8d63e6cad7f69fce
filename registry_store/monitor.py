"""What happens by the clock: what nobody can ask for any more is deleted, a little at a time."""

import asyncio
import logging
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from registry_store import changes, listing
from registry_store.database import Database, retried

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 60.0
BATCH = 5_000
"""Rows that one transaction deletes at most, so that no writer waits for long."""


async def run(database: Database) -> None:
    """Tidy up each minute, until cancelled; several stores on one database may."""
    while True:
        try:
            await tidy(database, datetime.now(UTC))
        except (SQLAlchemyError, OSError) as error:
            logger.warning("the database cannot be tidied up: %s", error)
        except Exception:
            logger.exception("a fault while tidying up")
        await asyncio.sleep(PERIOD_SECONDS)


async def tidy(database: Database, now: datetime) -> None:
    """Delete what is too old or counts nothing at `now`."""
    await retried(_give_up, database, now)
    while await retried(_delete, database) == BATCH:
        pass  # there may be more
    await retried(_drop_counts, database)


async def _give_up(database: Database, now: datetime) -> None:
    async with database.reading() as session:
        upto = await changes.held_no_longer(session, now)
    if upto is not None:
        async with database.writing() as session:
            await changes.give_up(session, upto)


async def _delete(database: Database) -> int:
    async with database.beside() as session:
        return await changes.delete_given_up(session, BATCH)


async def _drop_counts(database: Database) -> None:
    async with database.beside() as session:
        await listing.drop_empty_counts(session)
