"""Outages of the database, each logged with two lines."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from registry_store.database.failures import FAILURES, is_contention, is_unavailable, reason_of

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 5.0
"""The database is back when no transaction failed for this time: some connections may recover before others."""


class Outage:
    """Logs one line when the database goes down and one when it is back, however many transactions fail meanwhile.

    Every transaction of the program reports its result here, so jobs and requests do not log the outage themselves.
    `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at: float | None = None
        self._working_since: float | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Records the result of the transaction in the block; errors propagate."""
        try:
            yield
        except Exception as error:
            if _blames_database(error):
                self._failed(error)
            raise
        self._worked()

    def covers(self, error: BaseException) -> bool:
        """Whether this error belongs to an outage that is already logged."""
        return self._began_at is not None and isinstance(error, FAILURES)

    def _failed(self, error: BaseException) -> None:
        self._working_since = None
        if self._began_at is None:
            self._began_at = self._clock()
            logger.warning("the database is out of reach: %s", reason_of(error))

    def _worked(self) -> None:
        if self._began_at is None:
            return
        now = self._clock()
        if self._working_since is None:
            self._working_since = now
        elif now - self._working_since >= SETTLED_SECONDS:
            logger.warning("the database is back after %.1f s", self._working_since - self._began_at)
            self._began_at = self._working_since = None


def _blames_database(error: BaseException) -> bool:
    return is_unavailable(error) and not is_contention(error)
