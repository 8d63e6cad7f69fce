"""Export and verification of the whole activity log."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.audit.chain import Chain, Fault
from registry_store.database.tables import Activity
from registry_store.documents import canonical, read_instant
from registry_store.journal import activity
from registry_store.journal.activity import STATES
from registry_store.journal.revisions import meta

BATCH = 500
BELOW_ALL = -(2**63)
UNREADABLE = (ValueError, TypeError, OperationalError)


async def verify_database(session: AsyncSession, chain: Chain) -> Fault | None:
    """The first fault of the log in the database, or None."""
    head = await meta(session)  # read first, so that the entries are from the same snapshot
    end = (head.activity_sequence, head.activity_hash)
    async for entry in _stored(session):
        fault = entry if isinstance(entry, Fault) else chain.take(entry)
        if fault is not None:
            return fault
    return chain.end(end)


def verify_export(path: Path, chain: Chain) -> Fault | None:
    """The first fault of a log that `exported` wrote, or None."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                entry = _entry_of(json.loads(line))
            except (ValueError, TypeError):
                return Fault(chain.sequence + 1, "is invalid: the line is not an entry")
            if (fault := chain.take(entry)) is not None:
                return fault
    return chain.end()


async def exported(session: AsyncSession, after: int) -> AsyncIterator[str]:
    """Yields every entry after `after` as a line of JSON, oldest first."""
    while batch := await activity.following(session, after, BATCH):
        for entry in batch:
            yield canonical(activity.document(entry)) + "\n"
        after = batch[-1].sequence
        session.expunge_all()


async def _stored(session: AsyncSession) -> AsyncIterator[Activity | Fault]:
    last = BELOW_ALL
    while True:
        try:
            batch = await activity.following(session, last, BATCH)
        except UNREADABLE:
            yield await _first_unreadable(session, last)
            return
        for entry in batch:
            yield entry
        if not batch:
            return
        last = batch[-1].sequence
        session.expunge_all()


async def _first_unreadable(session: AsyncSession, last: int) -> Fault:
    sequences = select(Activity.sequence).where(Activity.sequence > last).order_by(Activity.sequence).limit(BATCH)
    for sequence in await session.scalars(sequences):
        try:
            await session.get(Activity, sequence)
        except UNREADABLE:
            return Fault(sequence, "was edited: it cannot be read")
    raise AssertionError("a batch cannot be read, but each of its entries can")


def _entry_of(document: Any) -> Activity:
    columns = dict(document)
    if type(columns.get("sequence")) is not int:
        raise TypeError("the sequence is not an integer")
    for state in STATES:
        columns[state] = None if columns.get(state) is None else canonical(columns[state])
    return Activity(**columns | {"timestamp": read_instant(columns.get("timestamp"))})
