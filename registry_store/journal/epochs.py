"""The epoch: the id of one history of the database. A new one tells sidecars that revisions were lost."""

from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject
from registry_store.journal.revisions import meta


async def renew(session: AsyncSession, actor: Actor) -> str:
    """Starts a new epoch and returns it: every sidecar gets a snapshot, whatever revision it has."""
    row = await meta(session)
    before, row.epoch = row.epoch, uuid4().hex
    await activity.append(
        session,
        actor,
        "epoch_renewed",
        "the database was restored: sidecars get snapshots",
        Subject("registry", row.epoch),
        previous={"epoch": before},
        new={"epoch": row.epoch},
    )
    return row.epoch
