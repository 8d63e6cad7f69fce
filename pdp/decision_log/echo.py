"""Prints the decision log on standard output as JSON, in a thread of its own, so that nothing else waits for it."""

import logging
import os
import queue
import select
import threading
from collections.abc import Sequence

from pdp.log_format import documents
from pdp.log_format.batches import Batch, opened

MAX_WAITING_BYTES = 8 << 20
CLOSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Echo:
    """Writes records to a file descriptor, one document a line; `dropped` counts those that found no room."""

    def __init__(self, file: int = 1, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self.dropped = 0
        self._file = file
        self._max_bytes = max_bytes
        self.waiting = 0
        self._queue: queue.SimpleQueue[Sequence[Batch]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="decision-log-echo", daemon=True)
        self._thread.start()

    def put(self, batches: Sequence[Batch]) -> None:
        """Queue the records of these batches, or count them as dropped."""
        size = _size(batches)
        with self._lock:
            if not self._thread.is_alive() or self.waiting + size > self._max_bytes:
                self.dropped += _count(batches)
                return
            self.waiting += size
            self._queue.put(batches)  # under the lock, so that nothing is queued uncounted after a failure

    def close(self) -> None:
        """Wait until everything queued is written, for a second at most."""
        self._queue.put(())
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while batches := self._queue.get():
            try:
                for batch in batches:
                    self._write(_lines(batch))
            except OSError as error:
                logger.error("cannot print decisions on standard output any more: %s", error.strerror)
                self._give_up(_count(batches))
                return
            with self._lock:
                self.waiting -= _size(batches)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._file, view) :]
            except BlockingIOError:  # another process made the shared terminal or pipe non-blocking
                select.select([], [self._file], [])

    def _give_up(self, dropped: int) -> None:
        with self._lock:
            self.waiting = self._max_bytes + 1  # from now on `put` drops everything
            self.dropped += dropped
            while not self._queue.empty():
                self.dropped += _count(self._queue.get())


def _lines(batch: Batch) -> bytes:
    records = opened(batch.content).records
    return b"".join([documents.text(documents.document(record)) + b"\n" for record in records])


def _size(batches: Sequence[Batch]) -> int:
    return sum(len(batch.content) for batch in batches)


def _count(batches: Sequence[Batch]) -> int:
    return sum(batch.records for batch in batches)
