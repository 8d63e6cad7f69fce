"""Decisions as lines on standard output, which delay nothing else."""

import errno
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from pdp.decision_log.echo import Echo
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


def test_each_document_is_a_line(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In order; what was put is written before the end."""
    monkeypatch.setattr("pdp.decision_log.echo.CLOSE_SECONDS", 3600)
    echo = Echo(pipe[1])
    echo.put([b"one", b"two"])
    echo.put([b"three"])
    echo.close()
    assert os.read(pipe[0], 1000) == b"one\ntwo\nthree\n"
    assert echo.dropped == 0


async def test_a_reader_that_does_not_read_uses_a_bounded_buffer(pipe: tuple[int, int]) -> None:
    """Dropped lines are counted; the rest comes when it reads."""
    echo = Echo(pipe[1], max_bytes=1 << 20)
    for _ in range(300):
        echo.put([b"x" * 9_999])
    assert echo.dropped > 150
    read = 0
    while read < (300 - echo.dropped) * 10_000:
        read += len(os.read(pipe[0], 1 << 16))
    echo.put([b"again"])
    await eventually(lambda: echo.waiting == 0)
    assert os.read(pipe[0], 1 << 16) == b"again\n"
    echo.close()


async def test_a_closed_pipe_is_logged_once(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """The missed lines are counted."""
    echo = Echo(pipe[1])
    os.close(pipe[0])
    echo.put([b"one", b"two"])
    await eventually(lambda: echo.dropped == 2)
    echo.put([b"three"])
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

    class Slow(queue.Queue[Sequence[bytes]]):
        def put(self, item: Sequence[bytes], *_: object) -> None:
            if item == [b"two"]:
                failing.set()
                echo._thread.join(0.2)
            super().put(item)

    def write(_data: bytes) -> None:
        failing.wait()
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("pdp.decision_log.echo.queue", SimpleNamespace(SimpleQueue=Slow))
    echo = Echo(pipe[1])
    monkeypatch.setattr(echo, "_write", write)
    echo.put([b"one"])
    echo.put([b"two"])
    await eventually(lambda: echo.dropped == 2)
    echo.close()


def test_a_non_blocking_descriptor_is_waited_for(pipe: tuple[int, int]) -> None:
    """Another program can make a terminal non-blocking."""
    os.set_blocking(pipe[1], False)
    echo = Echo(pipe[1])
    echo.put([b"x" * 200_000])
    read = 0
    while read < 200_001:
        read += len(os.read(pipe[0], 1 << 16))
    echo.close()
    assert echo.dropped == 0


def test_the_end_does_not_wait_for_a_reader_for_ever(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second at most."""
    monkeypatch.setattr("pdp.decision_log.echo.CLOSE_SECONDS", 0.01)
    echo = Echo(pipe[1])
    echo.put([b"x" * 200_000])
    echo.close()
    while os.read(pipe[0], 1 << 16)[-1:] != b"\n":
        pass
