"""The store's clocks, as its messages show them."""

import logging
from collections.abc import Callable
from math import inf, isfinite, nan

from pdp.core.model import Now
from registry_store.v1 import sync_pb2 as pb

MAX_OFFSET_SECONDS = 5.0
"""A larger offset is logged as a warning, until it is below half of this."""

logger = logging.getLogger(__name__)


class StoreClock:
    """How far the store's wall clock is ahead of this machine's `clock`, in seconds; NaN until it is known.

    Only approvals follow the store's clock.
    """

    def __init__(self, clock: Callable[[], Now]) -> None:
        self.offset = nan
        self._clock = clock
        self._warned = False

    def stream(self) -> "StreamClock":
        """The times of a new stream."""
        return StreamClock(self._clock, self._compare)

    def _compare(self, store_wall: float, wall: float) -> None:
        self.offset = store_wall - wall
        distance = abs(self.offset)
        if distance > MAX_OFFSET_SECONDS and not self._warned:
            self._warned = True
            logger.warning(
                "the store's clock is %.1f s %s this one: approvals follow the store's clock; budgets, time windows "
                "and the times of decisions follow this one",
                distance,
                "ahead of" if self.offset > 0 else "behind",
            )
        elif distance < MAX_OFFSET_SECONDS / 2 and self._warned:
            self._warned = False
            logger.info("the store's clock and this one agree again, within %.1f s", MAX_OFFSET_SECONDS / 2)


class StreamClock:
    """When each message of one stream was sent.

    A process that was suspended finds old heartbeats waiting: they show what the store held then, not what it holds
    now. So a message is late by the time that it took beyond the fastest message of its stream.
    """

    def __init__(self, clock: Callable[[], Now], compare: Callable[[float, float], None]) -> None:
        self._clock = clock
        self._compare = compare
        self._fastest = inf

    def heard(self, message: pb.Welcome | pb.Heartbeat) -> float:
        """When the message just read was sent, by this machine's boot clock; compares the wall clocks."""
        now = self._clock()
        late = self._late(message.uptime, now.boot)
        if message.sent_at and isfinite(message.sent_at):
            self._compare(message.sent_at, now.wall - late)
        return now.boot - late

    def _late(self, uptime: float, boot: float) -> float:
        if not 0 < uptime < inf:
            return 0.0
        took = boot - uptime
        self._fastest = min(self._fastest, took)
        return took - self._fastest
