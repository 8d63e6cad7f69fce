"""The store's clocks, from its messages."""

from math import inf, isnan, nan

import pytest

from pdp.core.model import Now
from pdp.sync.store_clock import MAX_OFFSET_SECONDS, StoreClock
from registry_store.v1 import sync_pb2 as pb

START = Now(1_800_000_000.0, 5000.0)


class Kit:
    """A sidecar's clocks and a store's, as the test moves them."""

    def __init__(self) -> None:
        self.now = START
        self.store_ahead = 0.0
        self.store = StoreClock(lambda: self.now)
        self.stream = self.store.stream()

    def pass_seconds(self, seconds: float) -> None:
        self.now = Now(self.now.wall + seconds, self.now.boot + seconds)

    def beat(self) -> pb.Heartbeat:
        """A heartbeat that the store sends now; it started 4,000 s before the sidecar's machine did."""
        return pb.Heartbeat(sent_at=self.now.wall + self.store_ahead, uptime=self.now.boot + 4000)


def test_the_offset_is_unknown_until_the_store_sends_its_time() -> None:
    """It is NaN, also for a store that sends no time; its messages count as sent when they are read."""
    kit = Kit()
    assert isnan(kit.store.offset)
    kit.pass_seconds(10)
    assert kit.stream.heard(pb.Heartbeat()) == kit.now.boot
    assert isnan(kit.store.offset)


def test_the_offset_is_by_how_much_the_store_is_ahead() -> None:
    """It is negative if the store is behind; the latest message counts."""
    kit = Kit()
    for ahead in (0.0, 2.5, -7200.0):
        kit.store_ahead = ahead
        kit.stream.heard(kit.beat())
        assert kit.store.offset == ahead


def test_delayed_heartbeats_count_from_when_they_were_sent() -> None:
    """A process that was suspended for a minute reads old messages first: they count as old, and the offset stays."""
    kit = Kit()
    assert kit.stream.heard(kit.beat()) == START.boot
    waiting = []
    for _ in range(5):
        kit.pass_seconds(1)
        waiting.append(kit.beat())
    kit.pass_seconds(55)
    heard = [kit.stream.heard(message) for message in waiting]
    assert heard == [START.boot + second for second in range(1, 6)]
    assert kit.store.offset == 0.0
    assert kit.stream.heard(kit.beat()) == kit.now.boot


def test_a_jump_of_either_wall_clock_makes_no_message_late() -> None:
    """The time of sending is computed from clocks that never jump."""
    kit = Kit()
    kit.stream.heard(kit.beat())
    for jump in (-3600.0, 7200.0):
        kit.store_ahead += jump
        kit.now = Now(kit.now.wall - jump / 2, kit.now.boot + 1)
        assert kit.stream.heard(kit.beat()) == kit.now.boot


def test_another_stream_may_be_to_another_store() -> None:
    """That store has another uptime."""
    kit = Kit()
    kit.stream.heard(kit.beat())
    kit.pass_seconds(1)
    assert kit.store.stream().heard(pb.Heartbeat(sent_at=kit.now.wall, uptime=3.0)) == kit.now.boot


@pytest.mark.parametrize("uptime", [nan, inf, -inf, -1.0, 0.0])
@pytest.mark.parametrize("sent_at", [nan, inf, 0.0])
def test_invalid_times_are_ignored(sent_at: float, uptime: float) -> None:
    """They make no data look fresher than the message, nor the offset a number."""
    kit = Kit()
    kit.stream.heard(kit.beat())
    assert kit.stream.heard(pb.Heartbeat(sent_at=sent_at, uptime=uptime)) == kit.now.boot
    assert kit.store.offset == 0.0


def test_a_large_offset_and_its_end_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """An offset near the bound does not repeat the line."""
    caplog.set_level("INFO")
    kit = Kit()
    steps = [MAX_OFFSET_SECONDS, -6.0, -7.0, 4.9, 6.0, 2.6, 2.4, 1.0, 3.0, 7200.0]
    said = []
    for kit.store_ahead in steps:
        kit.stream.heard(kit.beat())
        said.append([record.message.partition(":")[0] for record in caplog.records])
        caplog.clear()
    assert said[1] == ["the store's clock is 6.0 s behind this one"]
    assert said[6] == ["the store's clock and this one agree again, within 2.5 s"]
    assert said[9] == ["the store's clock is 7200.0 s ahead of this one"]
    assert [one for index, one in enumerate(said) if index not in (1, 6, 9)] == [[]] * 7
