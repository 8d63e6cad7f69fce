"""Suspends agents that no sidecar has served for longer than their `auto_suspend_on_offline_minutes`.

Every store watches. A cause is checked once more under the lock of the writers, so one of them suspends the agent.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import Status, Trigger
from registry_store import suspending
from registry_store.database.attempts import Attempts
from registry_store.database.tables import Agent, AgentTag
from registry_store.database.transactions import Database, retried
from registry_store.metrics import Metrics
from registry_store.periodic import by_the_clock
from registry_store.records.suspensions import Cause
from registry_store.sync import presence
from registry_store.sync.presence import Served
from registry_store.sync.sidecars import Sidecar, Sidecars

PERIOD_SECONDS = 1.0
REFRESH = timedelta(seconds=10)
"""How often a store writes which sidecars are connected to it."""
MARGIN = 2 * REFRESH
"""For so long after it was written, a sidecar that was connected then counts as connected."""
INTERRUPTION = timedelta(seconds=30)
"""After a longer pause of the watch no agent counts as offline for the time before: nobody could report it."""


class _Watched(NamedTuple):
    agent_id: str
    activations: int
    minutes: int
    activated_at: datetime | None


class OfflineWatch:
    """The watch of one store."""

    def __init__(self, database: Database, sidecars: Sidecars, metrics: Metrics) -> None:
        self._database = database
        self._sidecars = sidecars
        self._metrics = metrics
        self._since: datetime | None = None
        self._ticked_at: datetime | None = None
        self._written_at: datetime | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        attempts = Attempts("watching for agents that no sidecar serves", self._database.outage)
        await by_the_clock(self.tick, PERIOD_SECONDS, attempts)

    async def tick(self, now: datetime) -> None:
        """Write who is connected here, and suspend the agents that are offline at `now`."""
        async with self._database.reading() as session:
            watched = await _watched(session)
        if not watched:
            self._since = self._ticked_at = self._written_at = None
            return
        if self._since is None or self._ticked_at is None or not timedelta() <= now - self._ticked_at <= INTERRUPTION:
            self._since = now
        self._ticked_at = now
        await self._write(now)
        overdue = self._overdue(watched, self._since, now)
        if overdue:
            async with self._database.reading() as session:
                causes = await _offline(session, self._served_here(now), overdue, self._since, now)
            await suspending.suspend(self._database, self._metrics, causes, now)

    async def _write(self, now: datetime) -> None:
        if self._written_at is not None and now - self._written_at < REFRESH:
            return
        changed = [
            one
            for one in self._sidecars.all()
            if one.connected or self._written_at is None or one.last_heard_at >= self._written_at - REFRESH
        ]
        await retried(_write, self._database, changed)
        self._written_at = now

    def _overdue(self, watched: Sequence[_Watched], since: datetime, now: datetime) -> list[_Watched]:
        """The agents that may be offline, by what costs no further query."""
        served = self._served_here(now)
        return [
            one
            for one in watched
            if now - max(since, one.activated_at or since) >= timedelta(minutes=one.minutes)
            and served.last(one.agent_id, ()) != now
        ]

    def _served_here(self, now: datetime) -> Served:
        served = Served()
        for one in self._sidecars.all():
            served.note(one.subscription, now if one.connected else one.last_heard_at)
        return served


async def _watched(session: AsyncSession) -> list[_Watched]:
    columns = (Agent.agent_id, Agent.activations, Agent.offline_minutes, Agent.activated_at)
    active = select(*columns).where(Agent.offline_minutes.is_not(None), Agent.status == Status.ACTIVE.value)
    rows = await session.execute(active)
    return [_Watched(agent_id, number, minutes or 0, at) for agent_id, number, minutes, at in rows]


async def _offline(
    session: AsyncSession, served: Served, overdue: Sequence[_Watched], since: datetime, now: datetime
) -> list[Cause]:
    """The causes of those agents that no sidecar has served at any store either."""
    longest = timedelta(minutes=max(one.minutes for one in overdue))
    for row in await presence.read(session, now - longest - MARGIN):
        at = row.heard_at + MARGIN if row.connected else row.heard_at
        served.note(presence.subscription_of(row), min(at, now))
    tags: dict[str, list[str]] = {}
    watched = select(AgentTag.agent_id, AgentTag.tag).join(Agent, Agent.agent_id == AgentTag.agent_id)
    for agent_id, tag in await session.execute(watched.where(Agent.offline_minutes.is_not(None))):
        tags.setdefault(agent_id, []).append(tag)
    causes = []
    for one in overdue:
        last = served.last(one.agent_id, tags.get(one.agent_id, ()))
        if now - max(last or since, since, one.activated_at or since) >= timedelta(minutes=one.minutes):
            figures = {"minutes": one.minutes, "last_served_at": last}
            causes.append(Cause(one.agent_id, one.activations, Trigger.OFFLINE, figures))
    return causes


async def _write(database: Database, sidecars: Sequence[Sidecar]) -> None:
    async with database.beside() as session:
        await presence.write(session, sidecars)
