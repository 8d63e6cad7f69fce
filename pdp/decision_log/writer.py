"""The thread that does all disk work of the decision log."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pdp.decision_log.echo import Echo
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.record import Entry, Note, name_of, record
from pdp.decision_log.redaction import Redaction
from pdp.decision_log.sealing import Item
from pdp.log_format.frames import MAX_BATCH_BYTES

MAX_RECORD_BYTES = MAX_BATCH_BYTES

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


class Writer:
    """Writes entries as redacted records to `log`, and prints them. What it holds, the disk could not take yet.

    `max_bytes` bounds that in a log that drops the oldest records.
    """

    def __init__(self, log: DecisionLog, redact: Redaction, echo: Echo | None, max_bytes: int) -> None:
        self.log = log
        self.logged = 0
        self.failures = 0
        self._redact = redact
        self._echo = echo
        self._max_bytes = max_bytes
        self._unwritten: deque[Item] = deque()
        self._taken = 0
        self._thread = ThreadPoolExecutor(1, "decision-log")
        self.size = self._measured()

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The result of `work` in the thread; `work` does not use the log."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def do(self, work: Callable[[DecisionLog], Result]) -> Result:
        """The result of work on the log, in the thread; its size is measured again."""

        def measured() -> Result:
            try:
                return work(self.log)
            except Exception:
                self.failures += 1
                raise
            finally:
                self.size = self._measured()

        return await self.in_thread(measured)

    async def write(self, entries: deque[Entry | Note], lost: int) -> None:
        """Write entries, after telling that `lost` were lost before them. What fails is held for the next call."""
        await self.do(lambda log: self._write(log, entries, lost))

    def end(self) -> None:
        """Finish the work, and stop the threads."""
        if self._echo is not None:
            self._echo.close()
        self._thread.shutdown()

    def unwritten(self) -> int:
        """The number of decisions that it took and that are not on disk, the lost ones among them."""
        return sum(map(_count, self._unwritten))

    @property
    def unprinted(self) -> int | None:
        """How many decisions could not be printed; None if none are."""
        return None if self._echo is None else self._echo.dropped

    def _write(self, log: DecisionLog, entries: deque[Entry | Note], lost: int) -> None:
        if lost:
            self._unwritten.append(lost)
            self._taken += lost
        while entries:
            self._unwritten.append(self._item(entries.popleft()))
            self._taken += 1
        if log.drops_oldest:
            self._bound_unwritten()
        for batches in log.append(self._unwritten):
            self.logged += sum(batch.records for batch in batches)
            if self._echo is not None:
                self._echo.put(batches)

    def _item(self, entry: Entry | Note) -> Item:
        try:
            written = record(entry, self._redact)
        except Exception:
            logger.exception("%s cannot be made a record", name_of(entry))
            return 1
        if len(written) <= MAX_RECORD_BYTES:
            return written
        logger.error("%s has a record of %d bytes, which is too large for the log", name_of(entry), len(written))
        return 1

    def _bound_unwritten(self) -> None:
        """Drop the oldest records while the disk cannot be written."""
        excess, lost = _bytes(self._unwritten) - 2 * self._max_bytes, 0
        while excess > 0:
            item = self._unwritten.popleft()
            excess -= 0 if isinstance(item, int) else len(item)
            lost += _count(item)
        if lost:
            self._unwritten.appendleft(lost)

    def _measured(self) -> Size:
        return Size(
            last=self.log.last,
            unsent=self.log.unsent,
            bytes=self.log.bytes,
            taken=self._taken,
            unwritten=sum(not isinstance(item, int) for item in self._unwritten),
            unwritten_bytes=_bytes(self._unwritten),
            has_gaps_due=self.log.has_gaps_due,
        )


def _count(item: Item) -> int:
    return item if isinstance(item, int) else 1


def _bytes(items: Iterable[Item]) -> int:
    return sum(len(item) for item in items if not isinstance(item, int))
