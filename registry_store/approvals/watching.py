"""How approvals stand, read from the database once for all that wait for them in this store."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.approvals import approvals
from registry_store.approvals.approvals import Standing
from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database
from registry_store.errors import NotFoundError
from registry_store.journal import revisions

POLL_SECONDS = 1.0
PAUSE_SECONDS = 0.02
"""Between two readings at least: what is committed meanwhile is told together."""
SILENCE_SECONDS = 5.0
MAX_WATCHES = 10_000


class ClosedError(Exception):
    """The approval cannot be watched here any longer; another store may."""


class FullError(Exception):
    """As many approvals are watched here as may be."""


class Watch:
    """One who waits for news of an approval; what was not taken yet gives way to what is newer."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._newest: Standing | None = None
        self._error: Exception | None = None

    def tell(self, standing: Standing) -> None:
        """Tell how the approval stands, which is news or not."""
        if standing != self._newest:
            self._newest = standing
            self._news.set()

    def end(self, error: Exception) -> None:
        """Let the one who waits end with this error."""
        self._error = error
        self._news.set()

    async def news(self) -> Standing | None:
        """How the approval stands now, once that is news; raises what the watch has ended with."""
        await self._news.wait()
        self._news.clear()
        if self._error is not None:
            raise self._error
        return self._newest


class ApprovalFeed:
    """Follows the approvals that are watched: woken after each commit here and, on PostgreSQL, elsewhere.

    Each second it looks as well for what it was not woken for, and for those whose time has run out. Which have
    changed the activity log says, so that what is read does not grow with what is watched.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._attempts = Attempts("reading the approvals that are watched", database.outage)
        self._wake = asyncio.Event()
        self._watches: dict[str, set[Watch]] = {}
        self._standings: dict[str, Standing] = {}
        self._unread: set[str] = set()
        self._sequence: int | None = None
        self._confirmed_at = 0.0
        self._closed = False
        self.watches = 0

    @contextmanager
    def watching(self, approval_id: str) -> Iterator[Watch]:
        """A watch that hears how the approval stands, and of each change; `FullError` at 10,000 of them.

        It ends with `NotFoundError` where nobody asked for the approval, and with `ClosedError` when the feed closes.
        """
        if self.watches >= MAX_WATCHES:
            raise FullError(f"{MAX_WATCHES} approvals are watched here already")
        watch = Watch()
        if self._closed:
            watch.end(ClosedError("the store is stopping"))
        self._add(approval_id, watch)
        try:
            yield watch
        finally:
            self._remove(approval_id, watch)

    def wake(self) -> None:
        """Look at once; a call too many is harmless."""
        self._wake.set()

    def close(self) -> None:
        """Let every watch end."""
        self._closed = True
        self._end_all("the store is stopping")

    async def run(self) -> None:
        """Follow the database until cancelled."""
        while True:
            try:
                await self.read(datetime.now(UTC))
                self._attempts.worked()
            except Exception as error:
                self._attempts.failed(error)
                self._unconfirmed()
            await asyncio.sleep(PAUSE_SECONDS)
            await self._woken()

    async def read(self, now: datetime) -> None:
        """Tell each watch what it does not know yet at `now`."""
        self._wake.clear()
        if self._watches:
            await self._read(now)
        else:
            self._sequence = None
        self._confirmed_at = time.monotonic()

    async def _read(self, now: datetime) -> None:
        asked, self._unread = self._unread, set()
        try:
            async with self._database.reading() as session:
                sequence = (await revisions.meta(session)).activity_sequence
                asked |= await self._changed(session, sequence)
                standings = await approvals.standings(session, sorted(asked), now) if asked else []
        except BaseException:
            self._unread |= asked
            raise
        self._sequence = sequence
        self._take(asked, standings)
        self._tell_of_time(now)

    async def _changed(self, session: AsyncSession, sequence: int) -> set[str]:
        if self._sequence is None or sequence == self._sequence:
            return set()
        if sequence < self._sequence:  # the database was restored from a backup
            return set(self._watches)
        return self._watches.keys() & await approvals.changed_since(session, self._sequence)

    def _take(self, asked: set[str], standings: Sequence[Standing]) -> None:
        for standing in standings:
            self._tell(standing)
        for approval_id in asked.difference(standing.approval_id for standing in standings):
            for watch in self._watches.get(approval_id, ()):
                watch.end(NotFoundError(f"no approval `{approval_id}`"))

    def _tell_of_time(self, now: datetime) -> None:
        for standing in [one for one in self._standings.values() if one.expires_at <= now and not one.final]:
            self._tell(standing.at(now))

    def _tell(self, standing: Standing) -> None:
        watches = self._watches.get(standing.approval_id)
        if watches is not None:
            self._standings[standing.approval_id] = standing
            for watch in watches:
                watch.tell(standing)

    def _add(self, approval_id: str, watch: Watch) -> None:
        self._watches.setdefault(approval_id, set()).add(watch)
        self._unread.add(approval_id)
        self.watches += 1
        self.wake()

    def _remove(self, approval_id: str, watch: Watch) -> None:
        self.watches -= 1
        self._watches[approval_id].remove(watch)
        if not self._watches[approval_id]:
            del self._watches[approval_id]
            self._standings.pop(approval_id, None)
            self._unread.discard(approval_id)

    def _unconfirmed(self) -> None:
        if time.monotonic() - self._confirmed_at > SILENCE_SECONDS:
            self._end_all("the store's database is out of reach")

    def _end_all(self, why: str) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.end(ClosedError(why))

    async def _woken(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
