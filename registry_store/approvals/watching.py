"""Watches of approvals: the store reads each change from the database once, for all watchers."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.approvals import approvals
from registry_store.approvals.approvals import ApprovalStatus
from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database
from registry_store.errors import NotFoundError
from registry_store.journal import revisions

POLL_SECONDS = 1.0
PAUSE_SECONDS = 0.02
"""Minimum time between two queries; commits in between are reported together."""
MAX_UNCONFIRMED_SECONDS = 5.0
MAX_WATCHES = 10_000


class ClosedError(Exception):
    """The approval can no longer be watched at this store; another store may work."""


class FullError(Exception):
    """This store has reached its maximum number of watches."""


class Watch:
    """One watcher of an approval; a newer status replaces one that was not read yet."""

    def __init__(self) -> None:
        self._updated = asyncio.Event()
        self._newest: ApprovalStatus | None = None
        self._error: Exception | None = None

    def notify(self, status: ApprovalStatus) -> None:
        """Set the status; wakes the watcher if it is new."""
        if status != self._newest:
            self._newest = status
            self._updated.set()

    def end(self, error: Exception) -> None:
        """End the watch: `next_status` raises this error."""
        self._error = error
        self._updated.set()

    async def next_status(self) -> ApprovalStatus | None:
        """Wait for a new status and return it; raises the error that ended the watch."""
        await self._updated.wait()
        self._updated.clear()
        if self._error is not None:
            raise self._error
        return self._newest


class ApprovalFeed:
    """Follows the approvals that are watched: woken after each commit here and, on PostgreSQL, elsewhere.

    It also polls each second, for missed wake-ups and for approvals that have expired. It finds the changed approvals
    in the activity log, so that the size of a query does not grow with the number of watches.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._attempts = Attempts("reading the approvals that are watched", database.outage)
        self._wake = asyncio.Event()
        self._watches: dict[str, set[Watch]] = {}
        self._statuses: dict[str, ApprovalStatus] = {}
        self._unread: set[str] = set()
        self._sequence: int | None = None
        self._confirmed_at = 0.0
        self._closed = False
        self.watches = 0

    @contextmanager
    def watching(self, approval_id: str) -> Iterator[Watch]:
        """A watch that gets the status of the approval and each change; `FullError` if there are 10,000.

        It ends with `NotFoundError` if the approval does not exist, and with `ClosedError` when the feed closes.
        """
        if self.watches >= MAX_WATCHES:
            raise FullError(f"{MAX_WATCHES} approvals are already watched at this store")
        watch = Watch()
        if self._closed:
            watch.end(ClosedError("the store is stopping"))
        self._add(approval_id, watch)
        try:
            yield watch
        finally:
            self._remove(approval_id, watch)

    def wake(self) -> None:
        """Read at once; extra calls are harmless."""
        self._wake.set()

    def close(self) -> None:
        """End every watch."""
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
                self._end_if_unconfirmed()
            await asyncio.sleep(PAUSE_SECONDS)
            await self._woken()

    async def read(self, now: datetime) -> None:
        """Send each watch the changes that it does not have at `now`."""
        self._wake.clear()
        if self._watches:
            await self._read(now)
        else:
            self._sequence = None
        self._confirmed_at = time.monotonic()

    async def _read(self, now: datetime) -> None:
        approval_ids, self._unread = self._unread, set()
        try:
            async with self._database.reading() as session:
                sequence = (await revisions.meta(session)).activity_sequence
                approval_ids |= await self._changed(session, sequence)
                statuses = await approvals.statuses(session, sorted(approval_ids), now) if approval_ids else []
        except BaseException:
            self._unread |= approval_ids
            raise
        self._sequence = sequence
        self._take(approval_ids, statuses)
        self._notify_expired(now)

    async def _changed(self, session: AsyncSession, sequence: int) -> set[str]:
        if self._sequence is None or sequence == self._sequence:
            return set()
        if sequence < self._sequence:  # the database was restored from a backup
            return set(self._watches)
        return self._watches.keys() & await approvals.changed_since(session, self._sequence)

    def _take(self, approval_ids: set[str], statuses: Sequence[ApprovalStatus]) -> None:
        for status in statuses:
            self._notify(status)
        for approval_id in approval_ids.difference(status.approval_id for status in statuses):
            for watch in self._watches.get(approval_id, ()):
                watch.end(NotFoundError(f"no approval `{approval_id}`"))

    def _notify_expired(self, now: datetime) -> None:
        for status in [one for one in self._statuses.values() if one.expires_at <= now and not one.final]:
            self._notify(status.at(now))

    def _notify(self, status: ApprovalStatus) -> None:
        watches = self._watches.get(status.approval_id)
        if watches is not None:
            self._statuses[status.approval_id] = status
            for watch in watches:
                watch.notify(status)

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
            self._statuses.pop(approval_id, None)
            self._unread.discard(approval_id)

    def _end_if_unconfirmed(self) -> None:
        if time.monotonic() - self._confirmed_at > MAX_UNCONFIRMED_SECONDS:
            self._end_all("the store's database is out of reach")

    def _end_all(self, why: str) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.end(ClosedError(why))

    async def _woken(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
