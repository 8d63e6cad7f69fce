"""The gapless revision, and the records that each revision changed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import RecordKind
from registry_store.database.bulk import delete_oldest, insert_all
from registry_store.database.tables import Change, Meta

MAX_KEPT_REVISIONS = 100_000
KEPT_FOR = timedelta(days=7)
"""How far back a subscriber may resume; after a longer absence it gets a snapshot."""
META_ID = 1


@dataclass(frozen=True, slots=True)
class Touched:
    """A changed record, and the tags that it lost."""

    kind: RecordKind
    record_id: str
    former_tags: frozenset[str]


async def meta(session: AsyncSession) -> Meta:
    """The row that holds the epoch, the newest revision and the head of the activity chain."""
    return await session.get_one(Meta, META_ID)


async def advance(
    session: AsyncSession, kind: RecordKind, record_id: str, at: datetime, former_tags: Iterable[str] = ()
) -> int:
    """Records that this transaction changes a record; all changes of a transaction share one new revision."""
    revision = await _revision(session)
    noted: dict[tuple[RecordKind, str], Change] = session.info["changes"]
    change = noted.get((kind, record_id))
    if change is None:
        change = noted[kind, record_id] = Change(
            revision=revision, kind=kind, record_id=record_id, former_tags=[], committed_at=at
        )
        session.add(change)
    change.former_tags = sorted({*change.former_tags, *former_tags})
    return revision


async def advance_all(session: AsyncSession, kind: RecordKind, record_ids: Iterable[str], at: datetime) -> int:
    """Records that this transaction changes many records; name each record only once."""
    revision = await _revision(session)
    same = {"revision": revision, "kind": kind, "former_tags": [], "committed_at": at}
    await insert_all(session, Change, same, ({"record_id": record_id} for record_id in record_ids))
    return revision


async def newest_expired(session: AsyncSession, now: datetime) -> int | None:
    """The newest revision to delete; None if all stored revisions are kept."""
    row = await meta(session)
    old = await session.scalar(select(func.max(Change.revision)).where(Change.committed_at < now - KEPT_FOR))
    upto = max(old or 0, row.revision - MAX_KEPT_REVISIONS)
    return upto if upto > row.oldest_revision else None


async def expire(session: AsyncSession, upto: int) -> None:
    """Marks the changes up to `upto` for deletion: no subscriber resumes from before `upto` any more."""
    row = await meta(session)
    row.oldest_revision = max(row.oldest_revision, min(upto, row.revision))


async def delete_expired(session: AsyncSession, most: int) -> int:
    """Deletes up to `most` rows that are marked for deletion; returns the number of deleted rows."""
    oldest = (await meta(session)).oldest_revision
    return await delete_oldest(session, Change, most, Change.revision <= oldest, by=Change.revision)


async def between(session: AsyncSession, after: int, upto: int, most: int, only: Any = None) -> list[Touched] | None:
    """The records that revisions `after` < r ≤ `upto` changed, each once; None if there are more than `most` changes.

    `only` is an additional SQL condition on `Change`.
    """
    statement = select(Change).where(Change.revision > after, Change.revision <= upto).order_by(Change.revision)
    if only is not None:
        statement = statement.where(only)
    rows = (await session.scalars(statement.limit(most + 1))).all()
    if len(rows) > most:
        return None
    former: dict[tuple[RecordKind, str], set[str]] = {}
    for row in rows:
        former.setdefault((RecordKind(row.kind), row.record_id), set()).update(row.former_tags)
    return [Touched(*record, frozenset(tags)) for record, tags in former.items()]


async def committed_at(session: AsyncSession, revision: int) -> float:
    """The commit time of a revision, in Unix seconds; 0 if the revision is no longer stored."""
    moment = await session.scalar(select(func.max(Change.committed_at)).where(Change.revision == revision))
    return moment.timestamp() if moment else 0.0


async def _revision(session: AsyncSession) -> int:
    if "revision" not in session.info:
        row = await meta(session)
        row.revision += 1
        session.info["revision"], session.info["changes"] = row.revision, {}
    revision: int = session.info["revision"]
    return revision
