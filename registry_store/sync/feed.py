"""The newest changes, read from the database once for all subscribers of this store."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.database.attempts import Attempts
from registry_store.database.transactions import Database
from registry_store.journal import revisions
from registry_store.sync import subscriptions
from registry_store.sync.subscriptions import Record, Subscription

POLL_SECONDS = 1.0
MAX_HELD_BYTES = 64 * 1024 * 1024
MAX_CHANGES = 1_000
MAX_BYTES = 2 * 1024 * 1024
"""Limits of one step; a subscriber gets anything larger as a snapshot."""


@dataclass(frozen=True, slots=True)
class Step:
    """The changes of the revisions `after` < r ≤ `upto`; `committed_at` (Unix seconds) is that of the newest."""

    after: int
    upto: int
    records: tuple[Record, ...]
    committed_at: float

    @property
    def size(self) -> int:
        """The size of its documents in bytes."""
        return sum(len(record.document) for record in self.records)


async def step_from(session: AsyncSession, after: int, subscription: Subscription) -> Step | None:
    """The step from revision `after` to the newest; None if it is no longer kept, or larger than the limits."""
    meta = await revisions.meta(session)
    if not meta.oldest_revision <= after <= meta.revision:
        return None
    touched = await revisions.between(session, after, meta.revision, MAX_CHANGES, subscription.change_condition())
    if touched is None:
        return None
    records = tuple(await subscriptions.records(session, touched))
    step = Step(after, meta.revision, records, await revisions.committed_at(session, meta.revision))
    return step if len(records) <= 1 or step.size <= MAX_BYTES else None


class Feed:
    """Follows the newest revision: woken after each commit of this store, and polls each second for other stores.

    `confirmed_at` is the time (monotonic seconds) at which the database last confirmed the newest revision. `history`
    changes if the database was replaced: there is a new epoch, or the revision went back.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._attempts = Attempts("reading the newest changes", database.outage)
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._steps: deque[Step] = deque()
        self._held_bytes = 0
        self.epoch = ""
        self.revision = 0
        self.history = 0
        self.confirmed_at = 0.0
        self.closed = False

    def wake(self) -> None:
        """Read at once; extra calls are harmless."""
        self._wake.set()

    def close(self) -> None:
        """Wake every subscriber, so that its stream ends."""
        self.closed = True
        self._wake_subscribers()

    async def run(self) -> None:
        """Follow the database until cancelled."""
        while True:
            try:
                await self.read()
                self._attempts.worked()
            except Exception as error:
                self._attempts.failed(error)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def wait_for_news(self) -> None:
        """Wait until there is a newer revision or another history, or the feed is closed."""
        await self._news.wait()

    def after(self, revision: int) -> Step | None:
        """The step that contains the change after `revision`; None if the feed no longer holds it."""
        found = None
        for step in reversed(self._steps):
            if step.upto <= revision:
                break
            found = step
        return found if found is not None and found.after <= revision else None

    async def read(self) -> None:
        """Read the revisions that are newer than those of this feed."""
        self._wake.clear()
        epoch, revision, step = await self._database.read_apart(self._newest)
        if epoch != self.epoch or revision < self.revision:
            self._begin(epoch, revision)
        elif revision > self.revision:
            self._append(step, revision)
        self.confirmed_at = time.monotonic()

    async def _newest(self, session: AsyncSession) -> tuple[str, int, Step | None]:
        """The newest epoch and revision, and the step to it if it follows that of this feed."""
        meta = await revisions.meta(session)
        follows = meta.epoch == self.epoch and meta.revision > self.revision
        return meta.epoch, meta.revision, await step_from(session, self.revision, Subscription()) if follows else None

    def _begin(self, epoch: str, revision: int) -> None:
        self._steps.clear()
        self._held_bytes = 0
        self.epoch, self.revision = epoch, revision
        self.history += 1
        self._wake_subscribers()

    def _append(self, step: Step | None, revision: int) -> None:
        if step is not None:
            self._steps.append(step)
            self._held_bytes += step.size
        while self._held_bytes > MAX_HELD_BYTES or len(self._steps) > MAX_CHANGES:
            self._held_bytes -= self._steps.popleft().size
        self.revision = revision
        self._wake_subscribers()

    def _wake_subscribers(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
