"""Decisions on their way to the disk: a buffer in memory, which a thread empties into the decision log.

What waits here is what a crash loses, so it waits for at most `FLUSH_SECONDS` and the time that a write takes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, TypeVar

from pdp.decision_log.echo import Echo
from pdp.decision_log.log import MAX_DOCUMENT_BYTES, DecisionLog, Item
from pdp.decision_log.record import Entry, document, weight
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.decision_log.segments import Record
from pdp.metrics import Metrics

FLUSH_SECONDS = 0.2
RETRY_SECONDS = 1.0
ROOM_SECONDS = 2.0
MAX_WAITING_BYTES = 32 << 20
MAX_BATCH_BYTES = 2 << 20

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Size(NamedTuple):
    """What the log held when its thread last had it in hand, and the thread beside it.

    `taken` is how many entries it had taken ever, `unwritten` how many of these the disk does not have yet.
    """

    last: int
    unsent: int
    bytes: int
    taken: int
    unwritten: int
    unwritten_bytes: int
    owes: bool


class Spool:
    """The decision log of a sidecar, for its event loop: `run` must run, and one thread does all that the disk does.

    While `full`, which only a log that must not give way ever is, no decision may be made. While `crowded`, whoever can
    wait calls `room` before it makes one: the disk works, and is behind. Only a disk that fails, or is too slow for
    `ROOM_SECONDS`, makes what waits in memory give way, and nothing ever does in a log that must not.
    """

    def __init__(
        self,
        decisions: DecisionLog,
        redact: Redaction = NOTHING,
        echo: Echo | None = None,
        max_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.full = False
        self.crowded = False
        self.logged = 0
        self.failures = 0
        self.flushed = asyncio.Event()
        """Set when records have come to the disk; whoever waits for it clears it."""
        self.urgent = asyncio.Event()
        """Set when one of them shall be sent at once; likewise."""
        self._log = decisions
        self._redact = redact
        self._echo = echo
        self._most_bytes = max_bytes
        self._pending: deque[Entry] = deque()
        self._weight = 0
        self._in_hand = 0
        self._lost = 0
        self._urgent = False
        self._handed = 0
        self._taken = 0
        self._unwritten: deque[Item] = deque()
        self._some = asyncio.Event()
        self._now = asyncio.Event()
        self._closed = asyncio.Event()
        self._roomy = asyncio.Event()
        self._failing = False
        self._stalled = False
        self._thread = ThreadPoolExecutor(1, "decision-log")
        self._size = self._measured()
        self._fit()

    def append(self, entry: Entry, *, urgent: bool) -> None:
        """Have a decision written soon; an urgent one at once, and sent to the store at once."""
        self._pending.append(entry)
        self._weight += weight(entry)
        if self._weight >= self._watched_at:
            self._crowd()
        if urgent:
            self._urgent = True
        if urgent or self._weight > self._most_bytes >> 3:
            self._now.set()
        self._some.set()

    async def room(self) -> None:
        """Return once there is room for another decision, or waiting has not helped."""
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                while self.crowded:
                    self._roomy.clear()
                    await self._roomy.wait()
        except TimeoutError:
            self._stalled = True  # nobody else waits in vain
            self._crowd()

    async def run(self) -> None:
        """Write what is appended, until closed and the last of it is tried."""
        self._some.set()  # the log may owe a record of what its last life left
        while not self._closed.is_set():
            await self._some.wait()
            await _within(FLUSH_SECONDS, self._now)
            self._some.clear()
            self._now.clear()
            if not await self._flush():
                self._some.set()
                await _within(RETRY_SECONDS, self._closed)
        await self._flush()

    def close(self) -> None:
        """Have `run` write what is there, and end."""
        for event in (self._closed, self._some, self._now):
            event.set()

    def end(self) -> None:
        """Tell what could not be written, and let go of the threads: of the log's once it does nothing any more, for
        whoever has the folder next must find it left alone.
        """
        left = len(self._pending) + self._lost + self._handed - self._taken + sum(map(_count, self._unwritten))
        if left:
            logger.error("the decision log could not be written before the stop: %d decisions are lost", left)
        if self._echo is not None:
            self._echo.close()
        self._thread.shutdown()

    @property
    def last(self) -> int:
        """The newest sequence on the disk."""
        return self._size.last

    async def unsent(self, most_records: int) -> list[Record]:
        """The oldest records that the store is not known to have; none: there are none on the disk."""
        records = await self._in_thread(lambda: self._log.after(self._log.kept, most_records, MAX_BATCH_BYTES))
        self._fit()
        return records

    async def keep(self, sequence: int) -> None:
        """Note that the store has all up to `sequence`."""
        await self._in_thread(lambda: self._log.keep(sequence))
        self._fit()

    async def refuse(self, record: Record) -> None:
        """Lay aside a record that the store will not have, and go on after it."""
        await self._in_thread(lambda: self._log.refuse(record))
        self._fit()

    async def go_on_after(self, sequence: int) -> None:
        """Number what is unsent anew, after `sequence`."""
        await self._in_thread(lambda: self._log.go_on_after(sequence))
        self._fit()

    def watch(self, metrics: Metrics) -> None:
        """Show itself in the metrics."""
        gauges: list[Reading] = [
            ("pdp_spool_records", "Decisions that the store is not known to have", self._depth),
            ("pdp_spool_bytes", "What the decision log takes on the disk", lambda: self._size.bytes),
        ]
        totals: list[Reading] = [
            ("pdp_decisions_logged", "Records written to the decision log", lambda: self.logged),
            ("pdp_decisions_dropped", "Records that gave way before the store had them", lambda: self._log.dropped),
            ("pdp_spool_failures", "Writes of the decision log that failed", lambda: self.failures),
            ("pdp_spool_damaged", "Damaged files of the decision log, set aside", lambda: self._log.damaged),
        ]
        if (echo := self._echo) is not None:
            totals.append(("pdp_log_lines_dropped", "Decisions not printed for want of a reader", lambda: echo.dropped))
        for reading in gauges:
            metrics.watch(*reading)
        for reading in totals:
            metrics.watch_total(*reading)

    def _depth(self) -> int:
        size = self._size
        return size.unsent + size.unwritten + self._handed - size.taken + len(self._pending)

    async def _flush(self) -> bool:
        entries, lost, urgent = self._take()
        try:
            await self._in_thread(lambda: self._write(entries, lost))
        except Exception as error:
            self._fail(error)
            self._urgent |= urgent
            self._settle()
            return False
        if self._failing:
            self._failing = False
            logger.warning("the decision log can be written again")
        self._settle()
        self.flushed.set()
        if urgent:
            self.urgent.set()
        return True

    def _take(self) -> tuple[deque[Entry], int, bool]:
        """What waits, how much before it is lost, and whether there is a hurry; from now on nothing waits."""
        taken = self._pending, self._lost, self._urgent
        self._handed += len(self._pending) + self._lost
        self._in_hand = self._weight
        self._pending, self._weight, self._lost, self._urgent = deque(), 0, 0, False
        self._fit()
        return taken

    def _settle(self) -> None:
        """Note that the thread has done what it had in hand, or has it as documents now."""
        self._in_hand = 0
        self._stalled = False
        self._fit()

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            fault = None if isinstance(error, OSError) else error
            logger.error("cannot write the decision log: %s; decisions wait in memory", error, exc_info=fault)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """What `work`, which is no work on the log, returns on the thread that does all that the disk does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        def measured() -> Result:
            try:
                return work()
            except Exception:
                self.failures += 1
                raise
            finally:
                self._size = self._measured()

        return await self.in_thread(measured)

    def _write(self, entries: deque[Entry], lost: int) -> None:
        if lost:
            self._unwritten.append(lost)
            self._taken += lost
        while entries:
            self._unwritten.append(self._item(entries.popleft()))
            self._taken += 1
        if self._log.gives_way:
            self._bound_unwritten()
        for records in self._log.append(self._unwritten):
            self.logged += len(records)
            if self._echo is not None:
                self._echo.put([record.document for record in records])

    def _item(self, entry: Entry) -> Item:
        try:
            content = document(entry, self._redact)
        except Exception:
            logger.exception("decision %s cannot be written down", entry.answer.decision_id)
            return 1
        if len(content) <= MAX_DOCUMENT_BYTES:
            return content
        logger.error("decision %s takes %d bytes, too many to be logged", entry.answer.decision_id, len(content))
        return 1

    def _bound_unwritten(self) -> None:
        """Have the oldest give way while the disk cannot be written."""
        excess, lost = _bytes(self._unwritten) - 2 * self._most_bytes, 0
        while excess > 0:
            item = self._unwritten.popleft()
            excess -= 0 if isinstance(item, int) else len(item)
            lost += _count(item)
        if lost:
            self._unwritten.appendleft(lost)

    def _measured(self) -> Size:
        return Size(
            last=self._log.last,
            unsent=self._log.unsent,
            bytes=self._log.bytes,
            taken=self._taken,
            unwritten=sum(not isinstance(item, int) for item in self._unwritten),
            unwritten_bytes=_bytes(self._unwritten),
            owes=self._log.owes,
        )

    def _fit(self) -> None:
        """Recompute how much may wait in memory, and wake the writer if the log owes a record."""
        size = self._size
        if size.owes:
            self._some.set()
        unwritten = self._in_hand + size.unwritten_bytes
        room = self._most_bytes - unwritten
        self._crowded_at = room // 2
        self._full_at = min(room, self._log.max_bytes - size.bytes - unwritten)
        self._watched_at = self._crowded_at if self._log.gives_way else min(self._crowded_at, self._full_at)
        self._crowd()

    def _crowd(self) -> None:
        """Say whether there is room for another decision, and bound what waits for a disk that fails."""
        if not self._log.gives_way:
            self.full = self._weight >= self._full_at
        else:
            while self._weight > self._most_bytes:
                self._weight -= weight(self._pending.popleft())
                self._lost += 1
        self.crowded = self._weight >= self._crowded_at and not (self._failing or self._stalled or self.full)
        if not self.crowded:
            self._roomy.set()


Reading = tuple[str, str, Callable[[], float]]


def _count(item: Item) -> int:
    return item if isinstance(item, int) else 1


def _bytes(items: Iterable[Item]) -> int:
    return sum(len(item) for item in items if not isinstance(item, int))


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
