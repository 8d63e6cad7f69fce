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
HELD_BYTES = 64 * 1024 * 1024
MAX_CHANGES = 1_000
MAX_BYTES = 2 * 1024 * 1024
"""Of one step; what is larger reaches a subscriber as a snapshot."""


@dataclass(frozen=True, slots=True)
class Step:
    """All that the revisions `after` < r ≤ `upto` did; `committed_at` in Unix seconds, of the newest."""

    after: int
    upto: int
    records: tuple[Record, ...]
    committed_at: float

    @property
    def size(self) -> int:
        """Bytes of its documents."""
        return sum(len(record.document) for record in self.records)


async def step_from(session: AsyncSession, after: int, subscription: Subscription) -> Step | None:
    """The step from revision `after` to the newest; None when it is not held any more, or larger than a step may be."""
    meta = await revisions.meta(session)
    if not meta.oldest_revision <= after <= meta.revision:
        return None
    touched = await revisions.between(session, after, meta.revision, MAX_CHANGES, subscription.of_changes())
    if touched is None:
        return None
    records = tuple(await subscriptions.records(session, touched))
    step = Step(after, meta.revision, records, await revisions.committed_at(session, meta.revision))
    return step if len(records) <= 1 or step.size <= MAX_BYTES else None


class Feed:
    """Follows the revision: woken after each commit here, and looking each second for what other stores commit.

    `confirmed_at` is when (monotonic seconds) the database last confirmed the newest revision. `history` changes when
    the past did: a new epoch, or a revision that went back.
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
        """Look at once; a call too many is harmless."""
        self._wake.set()

    def close(self) -> None:
        """Let every subscriber end."""
        self.closed = True
        self._announce()

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
        """Return when there is a newer revision, another history, or the feed has closed."""
        await self._news.wait()

    def after(self, revision: int) -> Step | None:
        """The step that leads on from `revision`, if it is held."""
        found = None
        for step in reversed(self._steps):
            if step.upto <= revision:
                break
            found = step
        return found if found is not None and found.after <= revision else None

    async def read(self) -> None:
        """Take over what the database has that this feed has not."""
        self._wake.clear()
        async with self._database.reading() as session:
            meta = await revisions.meta(session)
            if meta.epoch != self.epoch or meta.revision < self.revision:
                self._begin(meta.epoch, meta.revision)
            elif meta.revision > self.revision:
                step = await step_from(session, self.revision, Subscription())
                self._append(step, meta.revision)
        self.confirmed_at = time.monotonic()

    def _begin(self, epoch: str, revision: int) -> None:
        self._steps.clear()
        self._held_bytes = 0
        self.epoch, self.revision = epoch, revision
        self.history += 1
        self._announce()

    def _append(self, step: Step | None, revision: int) -> None:
        if step is not None:
            self._steps.append(step)
            self._held_bytes += step.size
        while self._held_bytes > HELD_BYTES or len(self._steps) > MAX_CHANGES:
            self._held_bytes -= self._steps.popleft().size
        self.revision = revision
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
