"""Node ids of sidecars: each belongs to the first key name that used it, until an admin releases it."""

import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.fields import Field, quote
from pdp.core.kinds import OrNull, Text
from pdp.core.records import NAME, PROSE
from registry_store.database.decision_tables import DecisionLog
from registry_store.database.transactions import Database, inserting, retried
from registry_store.documents import Document, read_values
from registry_store.errors import NotAllowedError, NotFoundError
from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject

logger = logging.getLogger(__name__)

NODE_ID = Text(
    128,
    1,
    r"[a-zA-Z0-9][a-zA-Z0-9\-_.:]*",
    "letters, digits, - _ . and : that start with a letter or digit",
)
GENESIS = "0" * 64
SEEN_INTERVAL = timedelta(days=1)

RELEASE_BODY: dict[str, Field] = {
    "reason": Field(PROSE, "", about="Why; the activity log keeps it"),
    "key_name": Field(OrNull(NAME), None, about="The key name that gets it; null: the next that uses it"),
}


async def claim(database: Database, node_id: str, name: str, at: datetime) -> None:
    """Note that a sidecar connects with a key of this name; `NotAllowedError` if the node id belongs to another."""
    async with database.reading() as session:
        log = await session.get(DecisionLog, node_id)
    if log is not None:
        check_owner(log, name)
    if log is None or log.owner is None or log.seen_at is None or at - log.seen_at > SEEN_INTERVAL:
        await retried(_claim, database, node_id, name, at)


async def locked(session: AsyncSession, node_id: str, at: datetime) -> DecisionLog:
    """The log of the sidecar, locked until this transaction ends."""
    wanted = select(DecisionLog).where(DecisionLog.node_id == node_id).with_for_update()
    found = await session.scalar(wanted)
    if found is None:
        start = {"node_id": node_id, "sequence": 0, "hash": GENESIS, "missing": 0, "breaks": 0, "updated_at": at}
        await (await session.connection()).execute(inserting(session, DecisionLog).on_conflict_do_nothing(), [start])
        found = (await session.scalars(wanted)).one()
    return found


def assign(log: DecisionLog, name: str) -> None:
    """Assign the node id to keys of this name; `NotAllowedError` if it belongs to another name."""
    check_owner(log, name)
    log.owner = name


def check_owner(log: DecisionLog, name: str) -> None:
    """Raise `NotAllowedError` if the node id belongs to another key name, which only the store's log shows."""
    if log.owner in (None, name):
        return
    logger.warning("a key named `%s` used node id `%s`, which belongs to keys named `%s`", name, log.node_id, log.owner)
    raise NotAllowedError(f"node id {quote(log.node_id)} belongs to keys of another name; an admin can release it")


async def release(session: AsyncSession, node_id: str, body: Any, actor: Actor) -> DecisionLog:
    """Give a node id to another key name, or to the next that uses it; `NotFoundError` if it was never used."""
    values = read_values(body, RELEASE_BODY)
    if await session.get(DecisionLog, node_id) is None:
        raise NotFoundError(f"no sidecar {quote(node_id)}")
    log = await locked(session, node_id, actor.at)
    before, log.owner = log.owner, values["key_name"]
    if before != log.owner:
        to = f"handed over to keys named `{log.owner}`" if log.owner else "released"
        described = f"node id `{node_id}` {to}" + (f": {values['reason']}" if values["reason"] else "")
        subject = Subject("sidecar", node_id)
        previous, new = {"key_name": before}, {"key_name": log.owner}
        await activity.append(session, actor, "sidecar_released", described, subject, previous=previous, new=new)
    return log


def document(log: DecisionLog) -> Document:
    """The node id as REST shows it."""
    return Document({"node_id": log.node_id, "key_name": log.owner})


async def _claim(database: Database, node_id: str, name: str, at: datetime) -> None:
    async with database.beside() as session:
        log = await locked(session, node_id, at)
        assign(log, name)
        log.seen_at = at
