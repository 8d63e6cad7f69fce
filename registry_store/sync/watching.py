"""Watches the sidecars: raises an alert for one that refuses a record, does not apply changes, or falls silent.

Every store notes in the database which sidecars it hears. The first store to see that one is silent raises the alert.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import RecordKind
from registry_store.alerts import causes, outbox
from registry_store.alerts.outbox import Event, Kind, of_agent
from registry_store.database.attempts import Attempts
from registry_store.database.bulk import chunks
from registry_store.database.tables import WatchedSidecar
from registry_store.database.transactions import Database, inserting, retried
from registry_store.documents import Document, instant
from registry_store.periodic import by_the_clock
from registry_store.settings import Patience
from registry_store.sync import subscriptions
from registry_store.sync.sidecars import Refusal, Sidecar, Sidecars

PERIOD_SECONDS = 1.0
NOTE_SECONDS = 15.0
"""How often the database is told which sidecars are heard."""
MAX_PROBLEMS = 5
"""Problems of a refused record that its alert names."""


class SidecarWatch:
    """Watches the sidecars of one store, and with it those that no store hears any more."""

    def __init__(self, database: Database, sidecars: Sidecars, patience: Patience, began: datetime) -> None:
        self._database = database
        self._sidecars = sidecars
        self._patience = patience
        self._began = began
        """No silence counts from before this: no store may have run."""
        self._noted_at: datetime | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        attempts = Attempts("watching the sidecars", self._database.outage)
        await by_the_clock(self.look, PERIOD_SECONDS, attempts)

    async def look(self, now: datetime) -> None:
        """Raise the alerts that are due at `now`."""
        if reports := [(one, refusals) for one in self._sidecars.all() if (refusals := tuple(one.unreported))]:
            await retried(self._report_refusals, reports, now)
        stale = [one for one in self._sidecars.all() if one.is_stale(now, self._patience.stale)]
        if unreported := [one for one in stale if not one.stale_reported]:
            await retried(self._report_stale, unreported, now)
        if self._noted_at is None or (now - self._noted_at).total_seconds() >= NOTE_SECONDS:
            await retried(self._note_presence, now)
            await retried(self._report_silent, now)
            self._noted_at = now

    async def _report_refusals(self, reports: Sequence[tuple[Sidecar, Sequence[Refusal]]], now: datetime) -> None:
        async with self._database.beside() as session:
            for sidecar, refusals in reports:
                await outbox.add(session, await _refused(session, sidecar, refusals), now)
        for sidecar, refusals in reports:
            sidecar.unreported = [one for one in sidecar.unreported if one not in refusals]

    async def _report_stale(self, stale: Sequence[Sidecar], now: datetime) -> None:
        async with self._database.beside() as session:
            await outbox.add(session, map(_stale, stale), now)
        for one in stale:
            one.stale_reported = True

    async def _note_presence(self, now: datetime) -> None:
        heard = [one for one in self._sidecars.all() if one.connected]
        left = [one for one in self._sidecars.all() if one.left]
        async with self._database.beside() as session:
            await _note_heard(session, heard)
            for chunk in chunks(left):
                gone = WatchedSidecar.node_id.in_([one.node_id for one in chunk])
                await session.execute(delete(WatchedSidecar).where(gone))
        for one in left:
            one.left = False

    async def _report_silent(self, now: datetime) -> None:
        latest = now - self._patience.silent
        if latest < self._began:
            return
        async with self._database.beside() as session:
            silent = WatchedSidecar.heard_at <= latest, WatchedSidecar.silent_since.is_(None)
            marked = update(WatchedSidecar).where(*silent).values(silent_since=now).returning(WatchedSidecar)
            rows = (await session.scalars(marked)).all()
            await outbox.add(session, map(_silent, rows), now)


async def forget_before(session: AsyncSession, moment: datetime) -> None:
    """Forget the sidecars that no store has heard since `moment`."""
    await session.execute(delete(WatchedSidecar).where(WatchedSidecar.heard_at < moment))


async def _note_heard(session: AsyncSession, heard: Sequence[Sidecar]) -> None:
    adding = inserting(session, WatchedSidecar)
    new = adding.excluded
    values = {"node_name": new["node_name"], "heard_at": new["heard_at"], "silent_since": None}
    newer = WatchedSidecar.heard_at < new["heard_at"]
    upsert = adding.on_conflict_do_update(index_elements=["node_id"], set_=values, where=newer)
    connection = await session.connection()
    for chunk in chunks(sorted(heard, key=lambda one: one.node_id)):  # sorted, so that two stores do not deadlock
        rows = [{"node_id": one.node_id, "node_name": one.node_name, "heard_at": one.last_heard_at} for one in chunk]
        await connection.execute(upsert, rows)


async def _refused(session: AsyncSession, sidecar: Sidecar, refusals: Sequence[Refusal]) -> list[Event]:
    """The alerts of refusals of records that the sidecar gets; it may not raise one for any other."""
    keys = [(refusal.kind, refusal.id) for refusal in refusals]
    gets = await subscriptions.among(session, sidecar.subscription, keys)
    return [_of_refusal(sidecar, refusal) for refusal in refusals if (refusal.kind, refusal.id) in gets]


def _of_refusal(sidecar: Sidecar, refusal: Refusal) -> Event:
    problems = [outbox.bounded(problem) for problem in refusal.problems[:MAX_PROBLEMS]]
    detail: Document = {"node_id": sidecar.node_id, "record": refusal.id, "problems": problems}
    if refusal.kind is RecordKind.AGENT:
        return of_agent(Kind.RECORD_REFUSED, refusal.id, detail)
    return Event(Kind.RECORD_REFUSED, f"{refusal.kind.name.lower()}:{refusal.id}", detail)


def _stale(sidecar: Sidecar) -> Event:
    detail = {
        "node_name": sidecar.node_name,
        "acknowledged_revision": sidecar.acknowledged_revision,
        "sent_revision": sidecar.sent_revision,
    }
    return causes.of_sidecar(Kind.SIDECAR_STALE, sidecar.node_id, detail)


def _silent(row: WatchedSidecar) -> Event:
    detail = {"node_name": row.node_name, "last_heard_at": instant(row.heard_at)}
    return causes.of_sidecar(Kind.SIDECAR_SILENT, row.node_id, detail)
