"""Decisions as lines on standard output, which delay nothing else."""

import errno
import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from pdp.decision_log.echo import Echo
from pdp.log_format.batches import GENESIS, Batch, sealed
from tests.pdp.decision_log.chains import record
from tests.waiting import eventually


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe, to read from and to write to."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def batch(*numbers: int, size: int = 0) -> Batch:
    """A batch of these decisions, each of 100 bytes and two for each of `size`."""
    return sealed(GENESIS, 1, [record(number, size) for number in numbers])


def test_each_record_is_a_line_of_json(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In order; what was put is written before the end."""
    monkeypatch.setattr("pdp.decision_log.echo.CLOSE_SECONDS", 3600)
    echo = Echo(pipe[1])
    echo.put([batch(1, 2), batch(3)])
    echo.put([batch(4)])
    echo.close()
    lines = os.read(pipe[0], 1 << 16).splitlines()
    assert [json.loads(line)["decision_id"] for line in lines] == ["1", "2", "3", "4"]
    assert echo.dropped == 0


async def test_a_reader_that_does_not_read_uses_a_bounded_buffer(pipe: tuple[int, int]) -> None:
    """Dropped lines are counted; the rest comes when it reads."""
    echo = Echo(pipe[1], max_bytes=1 << 20)
    for _ in range(300):
        echo.put([batch(1, size=4_950)])
    assert echo.dropped > 150
    read = b""
    while read.count(b"\n") < 300 - echo.dropped:
        read += os.read(pipe[0], 1 << 16)
    echo.put([batch(2)])
    await eventually(lambda: echo.waiting == 0)
    assert json.loads(os.read(pipe[0], 1 << 16))["decision_id"] == "2"
    echo.close()


async def test_a_closed_pipe_is_logged_once(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """The missed lines are counted."""
    echo = Echo(pipe[1])
    os.close(pipe[0])
    echo.put([batch(1, 2)])
    await eventually(lambda: echo.dropped == 2)
    echo.put([batch(3)])
    assert echo.dropped == 3
    echo.close()
    assert [record.message for record in caplog.records if record.name == "pdp.decision_log.echo"] == [
        "cannot print decisions on standard output any more: Broken pipe"
    ]


async def test_lines_written_as_the_reader_closes_are_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where writing fails between the look at the room and the place in the queue."""
    failing = threading.Event()

    class Slow(queue.Queue[Sequence[Batch]]):
        def put(self, item: Sequence[Batch], *_: object) -> None:
            if item == [batch(2)]:
                failing.set()
                echo._thread.join(0.2)
            super().put(item)

    def write(_data: bytes) -> None:
        failing.wait()
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("pdp.decision_log.echo.queue", SimpleNamespace(SimpleQueue=Slow))
    echo = Echo(pipe[1])
    monkeypatch.setattr(echo, "_write", write)
    echo.put([batch(1)])
    echo.put([batch(2)])
    await eventually(lambda: echo.dropped == 2)
    echo.close()


def test_a_non_blocking_descriptor_is_waited_for(pipe: tuple[int, int]) -> None:
    """Another program can make a terminal non-blocking."""
    os.set_blocking(pipe[1], False)
    echo = Echo(pipe[1])
    echo.put([batch(1, size=100_000)])
    read = b""
    while not read.endswith(b"\n"):
        read += os.read(pipe[0], 1 << 16)
    echo.close()
    assert echo.dropped == 0


def test_the_end_does_not_wait_for_a_reader_for_ever(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second at most."""
    monkeypatch.setattr("pdp.decision_log.echo.CLOSE_SECONDS", 0.01)
    echo = Echo(pipe[1])
    echo.put([batch(1, size=100_000)])
    echo.close()
    while os.read(pipe[0], 1 << 16)[-1:] != b"\n":
        pass
