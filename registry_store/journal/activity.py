"""The activity log: one entry for each change, in its transaction, chained by hash."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database import paging
from registry_store.database.bulk import insert_all
from registry_store.database.tables import Activity, Meta
from registry_store.database.transactions import ON_COMMIT
from registry_store.documents import Document, canonical, instant, to_json
from registry_store.journal.revisions import meta

logger = logging.getLogger(__name__)

GENESIS = "0" * 64
STATES = ("previous_state", "new_state")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, through what (api, dashboard, sdk, cli, system), and when."""

    name: str
    via: str
    at: datetime
    key_id: str | None = None


class Kind(Enum):
    """What an entry is about: a change of the registry or of a key, or an approval, of which there may be many."""

    CHANGE = "change"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects entries of a list; None: any. `since` is inclusive, `until` and `before` (a sequence) are exclusive."""

    agent_id: str | None = None
    activity_type: str | None = None
    performed_by: str | None = None
    subject_kind: str | None = None
    subject_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """The record that is changed; `agent_id` if it is an agent or belongs to one."""

    kind: str
    id: str
    agent_id: str | None = None


async def append(
    session: AsyncSession,
    actor: Actor,
    activity_type: str,
    description: str,
    subject: Subject,
    *,
    previous: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
) -> None:
    """Appends an entry; the states hold only the changed fields, and no secrets."""
    same = _shared_columns(actor, activity_type, description, previous, new)
    for entry in _chained(await meta(session), same, [subject]):
        session.add(Activity(**same, **entry))
    _log_on_commit(session, actor, activity_type, [subject])


async def append_all(
    session: AsyncSession,
    actor: Actor,
    activity_type: str,
    description: str,
    subjects: Iterable[Subject],
    *,
    previous: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
) -> None:
    """Appends an entry for each subject, in order, for a change that is the same for all of them."""
    same, listed = _shared_columns(actor, activity_type, description, previous, new), list(subjects)
    await insert_all(session, Activity, same, _chained(await meta(session), same, listed))
    _log_on_commit(session, actor, activity_type, listed)


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> tuple[Sequence[Activity], int]:
    """A page of entries, newest first, and the total count."""
    if wanted == Filter(before=wanted.before):
        return await _page_of_all(session, wanted.before, limit, offset)
    newest_first = select(Activity).where(*_conditions(wanted)).order_by(Activity.sequence.desc())
    return await paging.page(session, newest_first, limit, offset)


async def _page_of_all(
    session: AsyncSession, before: int | None, limit: int, offset: int
) -> tuple[Sequence[Activity], int]:
    # The log has no gaps, so an offset is a sequence: no rows are counted or skipped.
    newest = (await meta(session)).activity_sequence
    total = newest if before is None else min(newest, before - 1)
    last = total - offset
    place = Activity.sequence.between(last - limit + 1, last)
    rows = await session.scalars(select(Activity).where(place).order_by(Activity.sequence.desc()))
    return rows.all(), total


async def following(session: AsyncSession, sequence: int, most: int) -> Sequence[Activity]:
    """The first `most` entries after `sequence`, oldest first."""
    oldest_first = select(Activity).where(Activity.sequence > sequence).order_by(Activity.sequence)
    return (await session.scalars(oldest_first.limit(most))).all()


def document(entry: Activity) -> Document:
    """The entry as in REST and exports: every column, the states as objects."""
    columns = _columns(entry)
    for state in STATES:
        columns[state] = None if columns[state] is None else json.loads(columns[state])
    return columns


def digest(entry: Activity) -> str:
    """The SHA-256 of the canonical JSON of every column except the hash, in hex."""
    columns = _columns(entry)
    del columns["hash"]
    return _digest(columns)


@dataclass(slots=True)
class _Logged:
    """One kind of change in a transaction, with its subjects; logged as one line."""

    actor: Actor
    activity_type: str
    first: Subject
    subjects: int = 0

    def log(self) -> None:
        actor, first = self.actor, self.first
        logger.info(
            "%s: %s `%s`%s, by `%s` via %s",
            self.activity_type,
            first.kind,
            first.id,
            f" and {self.subjects - 1} more" if self.subjects > 1 else "",
            actor.name,
            actor.via,
            extra={
                "activity_type": self.activity_type,
                "subject_kind": first.kind,
                "subject_id": first.id,
                "subjects": self.subjects,
                "performed_by": actor.name,
                "performed_via": actor.via,
                "key_id": actor.key_id,
            },
        )


def _log_on_commit(session: AsyncSession, actor: Actor, activity_type: str, subjects: Sequence[Subject]) -> None:
    """Logs the change after the commit: one line for all subjects, without the states of the activity log."""
    if not subjects:
        return
    lines: dict[tuple[Actor, str], _Logged] = session.info.setdefault("logged", {})
    line = lines.get((actor, activity_type))
    if line is None:
        line = lines[actor, activity_type] = _Logged(actor, activity_type, subjects[0])
        session.info.setdefault(ON_COMMIT, []).append(line.log)
    line.subjects += len(subjects)


def _shared_columns(
    actor: Actor,
    activity_type: str,
    description: str,
    previous: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
) -> Document:
    return {
        "activity_type": activity_type,
        "activity_description": description,
        "performed_by": actor.name,
        "performed_via": actor.via,
        "key_id": actor.key_id,
        "timestamp": actor.at,
        "previous_state": None if previous is None else canonical(to_json(previous)),
        "new_state": None if new is None else canonical(to_json(new)),
    }


def _chained(head: Meta, same: Document, subjects: Iterable[Subject]) -> Iterator[Document]:
    """Yields the remaining columns of the entry of each subject; then moves the head of the chain to the last one."""
    hashed = same | {"timestamp": instant(same["timestamp"])}
    sequence, previous = head.activity_sequence, head.activity_hash
    for subject in subjects:
        sequence += 1
        entry = {
            "sequence": sequence,
            "subject_kind": subject.kind,
            "subject_id": subject.id,
            "agent_id": subject.agent_id,
            "previous_hash": previous,
        }
        previous = entry["hash"] = _digest(hashed | entry)
        yield entry
    head.activity_sequence, head.activity_hash = sequence, previous


def _digest(columns: Document) -> str:
    return hashlib.sha256(canonical(columns).encode()).hexdigest()


def _columns(entry: Activity) -> Document:
    columns = {column.key: getattr(entry, column.key) for column in Activity.__table__.columns}
    return columns | {"timestamp": instant(entry.timestamp)}


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for column in (
        Activity.agent_id,
        Activity.activity_type,
        Activity.performed_by,
        Activity.subject_kind,
        Activity.subject_id,
    ):
        if (value := getattr(wanted, column.key)) is not None:
            found.append(column == value)
    if wanted.kind is not None:
        # A constant, because the databases use the index of changes only then.
        of_approvals: ColumnElement[str] = literal_column("'approval'")
        column = Activity.subject_kind
        found.append(column == of_approvals if wanted.kind is Kind.APPROVAL else column != of_approvals)
    if wanted.since is not None:
        found.append(Activity.timestamp >= wanted.since)
    if wanted.until is not None:
        found.append(Activity.timestamp < wanted.until)
    if wanted.before is not None:
        found.append(Activity.sequence < wanted.before)
    return found
