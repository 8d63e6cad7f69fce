"""The buffer in memory from which a thread writes decisions to the decision log.

A crash loses the buffer, so a decision waits here for at most `FLUSH_SECONDS` and the time of a write.
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
from pdp.decision_log.record import Entry, Note, document, name_of, weight
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
    """The size of the log and of the thread's queue after the last work of the thread.

    `taken` counts all entries that the thread ever took, `unwritten` those of them that are not on disk yet.
    """

    last: int
    unsent: int
    bytes: int
    taken: int
    unwritten: int
    unwritten_bytes: int
    has_gaps_due: bool


class Spool:
    """The decision log of a sidecar, for its event loop: `run` must run, and one thread does all disk work.

    While `full`, no decision may be made; only a log that does not drop the oldest records becomes full. While
    `crowded`, the disk is behind, and a caller that can wait awaits `room` before its decision. Decisions in memory are
    dropped only if the disk fails or takes longer than `ROOM_SECONDS`, and never if the log drops nothing.
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
        """Set when records are on disk; the waiter clears it."""
        self.urgent = asyncio.Event()
        """Set when one of them must be sent at once; the waiter clears it."""
        self._log = decisions
        self._redact = redact
        self._echo = echo
        self._max_bytes = max_bytes
        self._pending: deque[Entry | Note] = deque()
        self._weight = 0
        self._weight_in_thread = 0
        self._lost = 0
        self._urgent = False
        self._handed_over = 0
        self._taken = 0
        self._unwritten: deque[Item] = deque()
        self._has_work = asyncio.Event()
        self._flush_now = asyncio.Event()
        self._closed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._failing = False
        self._stalled = False
        self._thread = ThreadPoolExecutor(1, "decision-log")
        self._size = self._measured()
        self._update_budget()

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Queue a decision or a note for writing; an urgent one is written and sent to the store at once."""
        self._pending.append(entry)
        self._weight += weight(entry, self._redact)
        if self._weight >= self._watched_at:
            self._update_room()
        if urgent:
            self._urgent = True
        if urgent or self._weight > self._max_bytes >> 3:
            self._flush_now.set()
        self._has_work.set()

    async def room(self) -> None:
        """Return once there is room for another decision, or waiting has not helped."""
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                while self.crowded:
                    self._has_room.clear()
                    await self._has_room.wait()
        except TimeoutError:
            self._stalled = True  # so that no other caller waits in vain
            self._update_room()

    async def run(self) -> None:
        """Write queued decisions until closed; then try the rest once."""
        self._has_work.set()  # gap records may be due from the last run
        while not self._closed.is_set():
            await self._has_work.wait()
            await _wait_for(FLUSH_SECONDS, self._flush_now)
            self._has_work.clear()
            self._flush_now.clear()
            if not await self._flush():
                self._has_work.set()
                await _wait_for(RETRY_SECONDS, self._closed)
        await self._flush()

    def close(self) -> None:
        """Make `run` write the queue and end."""
        for event in (self._closed, self._has_work, self._flush_now):
            event.set()

    def end(self) -> None:
        """Log how many decisions could not be written, and stop the threads.

        The log's thread finishes its work first, so that nothing writes to the folder afterwards.
        """
        left = len(self._pending) + self._lost + self._handed_over - self._taken + sum(map(_count, self._unwritten))
        if left:
            logger.error("the decision log could not be written before the stop: %d decisions are lost", left)
        if self._echo is not None:
            self._echo.close()
        self._thread.shutdown()

    @property
    def last(self) -> int:
        """The newest sequence on the disk."""
        return self._size.last

    async def unsent(self, max_records: int) -> list[Record]:
        """The oldest records on disk that the store has not acknowledged."""
        records = await self._in_thread(lambda: self._log.after(self._log.kept, max_records, MAX_BATCH_BYTES))
        self._update_budget()
        return records

    async def keep(self, sequence: int) -> None:
        """Note that the store has every record up to `sequence`."""
        await self._in_thread(lambda: self._log.keep(sequence))
        self._update_budget()

    async def refuse(self, record: Record) -> None:
        """Set aside a record that the store refused, and go on after it."""
        await self._in_thread(lambda: self._log.refuse(record))
        self._update_budget()

    async def renumber_after(self, sequence: int) -> None:
        """Give unsent records new sequences after `sequence`."""
        await self._in_thread(lambda: self._log.renumber_after(sequence))
        self._update_budget()

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        gauges: list[Reading] = [
            ("pdp_spool_records", "Decisions that the store has not acknowledged", self._depth),
            ("pdp_spool_bytes", "Size of the decision log on disk in bytes", lambda: self._size.bytes),
            ("pdp_spool_limit_bytes", "Maximum size of the decision log on disk in bytes", lambda: self._log.max_bytes),
            ("pdp_spool_full", "1 while decisions are refused because the log is full", lambda: float(self.full)),
        ]
        totals: list[Reading] = [
            ("pdp_decisions_logged", "Records written to the decision log", lambda: self.logged),
            ("pdp_decisions_dropped", "Records dropped before the store had them", lambda: self._log.dropped),
            ("pdp_spool_failures", "Writes of the decision log that failed", lambda: self.failures),
            ("pdp_spool_damaged", "Damaged files of the decision log, set aside", lambda: self._log.damaged),
        ]
        if (echo := self._echo) is not None:
            totals.append(
                ("pdp_log_lines_dropped", "Decisions not printed because the reader was too slow", lambda: echo.dropped)
            )
        for reading in gauges:
            metrics.watch(*reading)
        for reading in totals:
            metrics.watch_total(*reading)

    def _depth(self) -> int:
        size = self._size
        return size.unsent + size.unwritten + self._handed_over - size.taken + len(self._pending)

    async def _flush(self) -> bool:
        entries, lost, urgent = self._take()
        try:
            await self._in_thread(lambda: self._write(entries, lost))
        except Exception as error:
            self._fail(error)
            self._urgent |= urgent
            self._note_written()
            return False
        if self._failing:
            self._failing = False
            logger.warning("the decision log can be written again")
        self._note_written()
        self.flushed.set()
        if urgent:
            self.urgent.set()
        return True

    def _take(self) -> tuple[deque[Entry | Note], int, bool]:
        """Empty the queue: the entries, the number lost before them, and whether one is urgent."""
        taken = self._pending, self._lost, self._urgent
        self._handed_over += len(self._pending) + self._lost
        self._weight_in_thread = self._weight
        self._pending, self._weight, self._lost, self._urgent = deque(), 0, 0, False
        self._update_budget()
        return taken

    def _note_written(self) -> None:
        """Note that the thread has written its entries, or holds them as documents."""
        self._weight_in_thread = 0
        self._stalled = False
        self._update_budget()

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            fault = None if isinstance(error, OSError) else error
            logger.error("cannot write the decision log: %s; decisions wait in memory", error, exc_info=fault)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of `work` in the thread that does all disk work; `work` does not use the log."""
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

    def _write(self, entries: deque[Entry | Note], lost: int) -> None:
        if lost:
            self._unwritten.append(lost)
            self._taken += lost
        while entries:
            self._unwritten.append(self._item(entries.popleft()))
            self._taken += 1
        if self._log.drops_oldest:
            self._bound_unwritten()
        for records in self._log.append(self._unwritten):
            self.logged += len(records)
            if self._echo is not None:
                self._echo.put([record.document for record in records])

    def _item(self, entry: Entry | Note) -> Item:
        try:
            content = document(entry, self._redact)
        except Exception:
            logger.exception("%s cannot be made a record", name_of(entry))
            return 1
        if len(content) <= MAX_DOCUMENT_BYTES:
            return content
        logger.error("%s has a record of %d bytes, which is too large for the log", name_of(entry), len(content))
        return 1

    def _bound_unwritten(self) -> None:
        """Drop the oldest documents while the disk cannot be written."""
        excess, lost = _bytes(self._unwritten) - 2 * self._max_bytes, 0
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
            has_gaps_due=self._log.has_gaps_due,
        )

    def _update_budget(self) -> None:
        """Recompute the memory budget; wake the writer if gap records are due."""
        size = self._size
        if size.has_gaps_due:
            self._has_work.set()
        unwritten = self._weight_in_thread + size.unwritten_bytes
        room = self._max_bytes - unwritten
        self._crowded_at = room // 2
        self._full_at = min(room, self._log.max_bytes - size.bytes - unwritten)
        self._watched_at = self._crowded_at if self._log.drops_oldest else min(self._crowded_at, self._full_at)
        self._update_room()

    def _update_room(self) -> None:
        """Set `full` and `crowded`, and drop the oldest entries if the disk cannot keep up."""
        if not self._log.drops_oldest:
            self.full = self._weight >= self._full_at
        else:
            while self._weight > self._max_bytes:
                self._weight -= weight(self._pending.popleft(), self._redact)
                self._lost += 1
        self.crowded = self._weight >= self._crowded_at and not (self._failing or self._stalled or self.full)
        if not self.crowded:
            self._has_room.set()


Reading = tuple[str, str, Callable[[], float]]


def _count(item: Item) -> int:
    return item if isinstance(item, int) else 1


def _bytes(items: Iterable[Item]) -> int:
    return sum(len(item) for item in items if not isinstance(item, int))


async def _wait_for(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
