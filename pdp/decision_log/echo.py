"""Prints the decision log on standard output in a separate thread, so that a slow reader delays nothing else."""

import logging
import os
import queue
import select
import threading
from collections.abc import Sequence

MAX_WAITING_BYTES = 8 << 20
CLOSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Echo:
    """Writes documents to a file descriptor, one per line; `dropped` counts those that found no room."""

    def __init__(self, file: int = 1, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self.dropped = 0
        self._file = file
        self._max_bytes = max_bytes
        self.waiting = 0
        self._queue: queue.SimpleQueue[Sequence[bytes]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="decision-log-echo", daemon=True)
        self._thread.start()

    def put(self, documents: Sequence[bytes]) -> None:
        """Queue these documents, or count them as dropped."""
        size = sum(map(len, documents))
        with self._lock:
            if not self._thread.is_alive() or self.waiting + size > self._max_bytes:
                self.dropped += len(documents)
                return
            self.waiting += size
            self._queue.put(documents)  # under the lock, so that no document is queued uncounted after a failure

    def close(self) -> None:
        """Wait until everything queued is written, for a second at most."""
        self._queue.put(())
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while documents := self._queue.get():
            try:
                self._write(b"".join([document + b"\n" for document in documents]))
            except OSError as error:
                logger.error("cannot print decisions on standard output any more: %s", error.strerror)
                self._give_up(len(documents))
                return
            with self._lock:
                self.waiting -= sum(map(len, documents))

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
                self.dropped += len(self._queue.get())
