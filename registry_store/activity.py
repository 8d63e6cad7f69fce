"""The activity log: one entry for each change, in its transaction, chained by hash."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.changes import meta
from registry_store.documents import canonical, instant, to_json
from registry_store.tables import Activity

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, by which way (api, dashboard, sdk, cli, system), and when."""

    name: str
    via: str
    at: datetime
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is changed; `agent_id` when it is an agent or belongs to one."""

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
    """Add an entry after the last; the states hold just what changed, and no secret."""
    head = await meta(session)
    entry = Activity(
        sequence=head.activity_sequence + 1,
        activity_type=activity_type,
        activity_description=description,
        subject_kind=subject.kind,
        subject_id=subject.id,
        agent_id=subject.agent_id,
        performed_by=actor.name,
        performed_via=actor.via,
        key_id=actor.key_id,
        timestamp=actor.at,
        previous_state=None if previous is None else canonical(to_json(previous)),
        new_state=None if new is None else canonical(to_json(new)),
        previous_hash=head.activity_hash,
    )
    entry.hash = digest(entry)
    session.add(entry)
    head.activity_sequence, head.activity_hash = entry.sequence, entry.hash


def digest(entry: Activity) -> str:
    """SHA-256 over the canonical JSON of every column but the hash itself, in hex."""
    columns = {column.key: getattr(entry, column.key) for column in Activity.__table__.columns if column.key != "hash"}
    columns["timestamp"] = instant(entry.timestamp)
    return hashlib.sha256(canonical(columns).encode()).hexdigest()
