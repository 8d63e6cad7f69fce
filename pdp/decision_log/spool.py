"""The buffer in memory from which a thread writes decisions to the decision log.

A crash loses the buffer, so a decision waits here for at most `FLUSH_SECONDS` and the time of a write.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pdp.decision_log.echo import Echo
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.memory import Memory
from pdp.decision_log.record import Entry, Note, weight
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.decision_log.renumbering import renumber_after
from pdp.decision_log.writer import Writer
from pdp.log_format.batches import Batch
from pdp.metrics import Metrics
from pdp.v1 import log_pb2

FLUSH_SECONDS = 0.2
RETRY_SECONDS = 1.0
ROOM_SECONDS = 2.0
MAX_WAITING_BYTES = 32 << 20
MAX_REPORT_BYTES = 2 << 20

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


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
        self.flushed = asyncio.Event()
        """Set when records are on disk; the waiter clears it."""
        self.urgent = asyncio.Event()
        """Set when one of them must be sent at once; the waiter clears it."""
        self._log = decisions
        self._redact = redact
        self._writer = Writer(decisions, redact, echo, max_bytes)
        self._memory = Memory(max_bytes, decisions.max_bytes, drops_oldest=decisions.drops_oldest)
        self._pending: deque[Entry | Note] = deque()
        self._lost = 0
        self._urgent = False
        self._handed_over = 0
        self._has_work = asyncio.Event()
        self._flush_now = asyncio.Event()
        self._closed = asyncio.Event()
        self._measure()

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Queue a decision or a note for writing; an urgent one is written and sent to the store at once."""
        memory = self._memory
        self._pending.append(entry)
        memory.weight += weight(entry, self._redact)
        if memory.weight >= memory.watched_at:
            self._update_room()
        if urgent:
            self._urgent = True
        if urgent or memory.weight > memory.hurries_at:
            self._flush_now.set()
        self._has_work.set()

    async def room(self) -> None:
        """Return once there is room for another decision, or waiting has not helped."""
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                while self.crowded:
                    self._memory.has_room.clear()
                    await self._memory.has_room.wait()
        except TimeoutError:
            self._memory.stalled = True  # so that no other caller waits in vain
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
        left = len(self._pending) + self._lost + self._handed_over - self._writer.size.taken + self._writer.unwritten()
        if left:
            logger.error("the decision log could not be written before the stop: %d decisions are lost", left)
        self._writer.end()

    @property
    def logged(self) -> int:
        """The number of records written to the disk."""
        return self._writer.logged

    @property
    def failures(self) -> int:
        """The number of writes that failed."""
        return self._writer.failures

    @property
    def last(self) -> int:
        """The newest sequence on the disk."""
        return self._writer.size.last

    async def unsent(self, max_records: int) -> list[Batch]:
        """The oldest batches on disk that the store has not acknowledged."""
        return await self._do(lambda log: log.after(log.kept, max_records, MAX_REPORT_BYTES))

    async def keep(self, sequence: int) -> None:
        """Note that the store has every record up to `sequence`."""
        await self._do(lambda log: log.keep(sequence))

    async def set_aside(self, records: list[log_pb2.LogRecord]) -> None:
        """Keep records that the store refused, for people."""
        await self._do(lambda log: log.set_aside(records))

    async def refuse(self, batch: Batch) -> None:
        """Set aside a batch that the store refused, and go on after it."""
        await self._do(lambda log: log.refuse(batch))

    async def renumber_after(self, sequence: int) -> None:
        """Give unsent records new sequences after `sequence`."""
        await self._do(lambda log: renumber_after(log, sequence))

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of `work` in the thread that does all disk work; `work` does not use the log."""
        return await self._writer.in_thread(work)

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        gauges: list[Reading] = [
            ("pdp_spool_records", "Decisions that the store has not acknowledged", self._depth),
            ("pdp_spool_bytes", "Size of the decision log on disk in bytes", lambda: self._writer.size.bytes),
            ("pdp_spool_limit_bytes", "Maximum size of the decision log on disk in bytes", lambda: self._log.max_bytes),
            ("pdp_spool_full", "1 while decisions are refused because the log is full", lambda: float(self.full)),
        ]
        totals: list[Reading] = [
            ("pdp_decisions_logged", "Records written to the decision log", lambda: self.logged),
            ("pdp_decisions_dropped", "Records dropped before the store had them", lambda: self._log.dropped),
            ("pdp_spool_failures", "Writes of the decision log that failed", lambda: self.failures),
            ("pdp_spool_damaged", "Damaged files of the decision log, set aside", lambda: self._log.damaged),
        ]
        if self._writer.unprinted is not None:
            about = "Decisions not printed because the reader was too slow"
            totals.append(("pdp_log_lines_dropped", about, lambda: self._writer.unprinted or 0))
        for reading in gauges:
            metrics.watch(*reading)
        for reading in totals:
            metrics.watch_total(*reading)

    def _depth(self) -> int:
        size = self._writer.size
        return size.unsent + size.unwritten + self._handed_over - size.taken + len(self._pending)

    async def _flush(self) -> bool:
        entries, lost, urgent = self._take()
        try:
            await self._writer.write(entries, lost)
        except Exception as error:
            self._fail(error)
            self._urgent |= urgent
            self._note_written()
            return False
        if self._memory.failing:
            self._memory.failing = False
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
        self._memory.hand_over()
        self._pending, self._lost, self._urgent = deque(), 0, False
        self._measure()
        return taken

    def _note_written(self) -> None:
        """Note that the thread has written its entries, or holds them as records."""
        self._memory.handed_over = 0
        self._memory.stalled = False
        self._measure()

    def _fail(self, error: Exception) -> None:
        if not self._memory.failing:
            self._memory.failing = True
            fault = None if isinstance(error, OSError) else error
            logger.error("cannot write the decision log: %s; decisions wait in memory", error, exc_info=fault)

    async def _do(self, work: Callable[[DecisionLog], Result]) -> Result:
        result = await self._writer.do(work)
        self._measure()
        return result

    def _measure(self) -> None:
        """Take the bounds of memory from the size of the log; wake the writer if gap records are due."""
        if self._writer.size.has_gaps_due:
            self._has_work.set()
        self._memory.measure(self._writer.size)
        self._update_room()

    def _update_room(self) -> None:
        """Drop the oldest entries if the disk cannot keep up."""
        while self._memory.excess > 0:
            self._memory.weight -= weight(self._pending.popleft(), self._redact)
            self._lost += 1
        self._memory.update()
        self.full, self.crowded = self._memory.full, self._memory.crowded


Reading = tuple[str, str, Callable[[], float]]


async def _wait_for(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
