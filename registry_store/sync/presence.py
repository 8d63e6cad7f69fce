"""When sidecars were last connected to any store, and so when an agent was last served."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.bulk import MAX_ROWS_PER_EXECUTION, chunks
from registry_store.database.tables import SidecarPresence
from registry_store.database.transactions import inserting
from registry_store.sync.sidecars import Sidecar
from registry_store.sync.subscriptions import Subscription

KEPT_FOR = timedelta(days=366)
"""Longer than any `auto_suspend_on_offline_minutes`."""


class Served:
    """When agents were last served: by id, by tag, or all of them."""

    def __init__(self) -> None:
        self._all: datetime | None = None
        self._by_id: dict[str, datetime] = {}
        self._by_tag: dict[str, datetime] = {}
        self._narrowed: list[tuple[Subscription, datetime]] = []

    def note(self, subscription: Subscription, at: datetime) -> None:
        """Note that the agents of this subscription were served at this time."""
        if subscription.is_narrowed:
            self._narrowed.append((subscription, at))
        elif subscription.agent_ids is not None:
            for agent_id in subscription.agent_ids:
                self._by_id[agent_id] = max(at, self._by_id.get(agent_id, at))
        elif subscription.tags is not None:
            for tag in subscription.tags:
                self._by_tag[tag] = max(at, self._by_tag.get(tag, at))
        else:
            self._all = at if self._all is None else max(at, self._all)

    def last(self, agent_id: str, tags: Collection[str]) -> datetime | None:
        """When this agent was last served; None: never, as far as is known."""
        found = [self._all, self._by_id.get(agent_id), *(self._by_tag.get(tag) for tag in tags)]
        found += [at for subscription, at in self._narrowed if subscription.covers(agent_id, tags)]
        return max((at for at in found if at is not None), default=None)


async def write(session: AsyncSession, sidecars: Iterable[Sidecar]) -> None:
    """Store when these sidecars were last heard; a newer time, of another store, stays."""
    rows = [
        {
            "node_id": one.node_id,
            "agent_ids": _listed(one.subscription.agent_ids),
            "tags": _listed(one.subscription.tags),
            "connected": one.connected,
            "heard_at": one.last_heard_at,
        }
        for one in sorted(sidecars, key=lambda one: one.node_id)  # so that two stores do not deadlock
    ]
    adding = inserting(session, SidecarPresence)
    new = adding.excluded
    upsert = adding.on_conflict_do_update(
        index_elements=["node_id"],
        set_={name: new[name] for name in ("agent_ids", "tags", "connected", "heard_at")},
        where=SidecarPresence.heard_at <= new.heard_at,
    )
    connection = await session.connection()
    for chunk in chunks(rows, MAX_ROWS_PER_EXECUTION):
        await connection.execute(upsert, chunk)


async def read(session: AsyncSession, since: datetime) -> Sequence[SidecarPresence]:
    """The sidecars that were heard since then, at any store."""
    return (await session.scalars(select(SidecarPresence).where(SidecarPresence.heard_at >= since))).all()


async def delete_before(session: AsyncSession, moment: datetime) -> None:
    """Delete the sidecars that were last heard before `moment`."""
    await session.execute(delete(SidecarPresence).where(SidecarPresence.heard_at < moment))


def subscription_of(row: SidecarPresence) -> Subscription:
    """What the sidecar was subscribed to."""
    return Subscription(_set(row.agent_ids), _set(row.tags))


def _listed(names: Collection[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _set(names: Collection[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
