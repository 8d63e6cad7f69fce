"""Connections of the HTTP port over real sockets: silent, half-sent, idle, too many, badly framed."""

import asyncio
import json
import resource
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pdp.endpoints.listeners import http_listener
from pdp.serving.accepting import Accepting
from pdp.serving.addresses import Address
from pdp.serving.connections import Connections, Limits, raise_descriptor_limit, share_of_descriptors
from pdp.serving.http1.server import serving
from pdp.serving.requests import read_body
from tests.waiting import BOUND_SECONDS

PATIENT = Limits(connections=100, head_seconds=3600, body_seconds=3600, idle_seconds=3600)
HEAD = "HTTP/1.1\r\nhost: 127.0.0.1\r\n"
CHUNKED = f"POST / {HEAD}transfer-encoding: chunked\r\n\r\n".encode()


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, raw: str | bytes) -> None:
        self._writer.write(raw.encode() if isinstance(raw, str) else raw)
        await self._writer.drain()

    async def status(self) -> int:
        """The status of the next answer, which is read to its end."""
        async with asyncio.timeout(BOUND_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.decode().lower().split("\r\n")
            (length,) = (int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            await self._reader.readexactly(length)
        return int(head.split()[1])

    async def get(self, path: str = "/") -> int:
        await self.send(f"GET {path} {HEAD}\r\n")
        return await self.status()

    async def rest(self) -> bytes:
        """All bytes until the server closes."""
        async with asyncio.timeout(BOUND_SECONDS):
            return await self._reader.read()

    async def end(self) -> None:
        """Close, and wait for the server to do the same; `ConnectionError` if it resets the connection."""
        async with asyncio.timeout(BOUND_SECONDS):
            self._writer.close()
            await self._writer.wait_closed()

    async def close(self) -> None:
        self._writer.transport.abort()


class Port:
    """An HTTP port that a test connects to."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection(*self.address)))
        return self.clients[-1]


async def _size(request: Request) -> Response:
    return Response(str(len(await read_body(request, 1 << 20))))


def answering(answer: Callable[[Request], Awaitable[Response]] = _size) -> ASGIApp:
    """An application that gives every request to one function."""

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        try:
            response = await answer(Request(scope, receive))
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    return app


@asynccontextmanager
async def port(limits: Limits = PATIENT, app: ASGIApp | None = None) -> AsyncIterator[Port]:
    listener = http_listener("--http", Address("127.0.0.1", 0))
    found = Port(listener.getsockname())
    async with serving(app or answering(), listener, limits):
        try:
            yield found
        finally:
            for client in found.clients:
                await client.close()


async def test_a_silent_connection_is_closed() -> None:
    """Without an answer, because there is no request."""
    async with port(Limits(head_seconds=0.05)) as here:
        assert await (await here.connect()).rest() == b""


@pytest.mark.parametrize(
    "raw", ["G", f"GET / {HEAD}", f"GET / {HEAD}\r\nGET / {HEAD}"], ids=["a byte", "head", "later"]
)
async def test_an_incomplete_head_times_out(raw: str) -> None:
    """With 408, after any number of earlier requests on the connection."""
    async with port(Limits(head_seconds=0.05, idle_seconds=3600)) as here:
        client = await here.connect()
        await client.send(raw)
        if "\r\n\r\n" in raw:
            assert await client.status() == 200
        assert await client.status() == 408
        assert await client.rest() == b""


async def test_a_head_that_arrives_byte_by_byte_times_out_too() -> None:
    """A byte does not extend the time."""
    async with port(Limits(head_seconds=0.2)) as here:
        client = await here.connect()

        async def drip() -> None:
            while True:
                await client.send("x")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        assert await client.status() == 408
        dripping.cancel()


async def test_an_incomplete_body_times_out() -> None:
    """With 408, instead of the application's answer."""
    async with port(Limits(body_seconds=0.05)) as here:
        client = await here.connect()
        await client.send(f"POST / {HEAD}content-length: 10\r\n\r\n12345")
        assert await client.status() == 408
        assert await client.rest() == b""


async def test_an_unread_body_is_not_waited_for() -> None:
    """The request has its answer, and the connection ends with the time for the body."""
    async with port(Limits(body_seconds=0.05, idle_seconds=3600), answering(_nothing)) as here:
        client = await here.connect()
        await client.send(f"GET / {HEAD}content-length: 10\r\n\r\n12345")
        assert await client.status() == 200
        assert await client.rest() == b""


async def _nothing(_request: Request) -> Response:
    return Response()


async def test_an_answer_before_the_end_of_the_body_is_not_lost() -> None:
    """The server closes only once it has read the rest; until then a reset could take the answer with it."""
    async with port(Limits(end_seconds=3600), answering(_nothing)) as here:
        client = await here.connect()
        body = b"x" * (1 << 20)
        await client.send(f"POST / {HEAD}connection: close\r\ncontent-length: {len(body)}\r\n\r\n")
        await client.send(body[: 64 << 10])
        assert await client.status() == 200
        await client.send(body[64 << 10 :])
        assert await client.rest() == b""
        await client.end()


@pytest.mark.parametrize(
    ("limits", "piece"),
    [(Limits(end_seconds=0.05), b"x"), (Limits(end_seconds=3600), b"x" * 4096)],
    ids=["time", "bytes"],
)
async def test_what_follows_the_last_answer_is_bounded(limits: Limits, piece: bytes) -> None:
    """In time and in bytes: then the connection is reset."""
    async with port(limits, answering(_nothing)) as here:
        client = await here.connect()
        await client.send(f"POST / {HEAD}connection: close\r\ncontent-length: {1 << 40}\r\n\r\n")
        assert await client.status() == 200
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(BOUND_SECONDS):
                while True:
                    await client.send(piece)
                    await asyncio.sleep(0)  # the server has the same loop, and sending alone does not yield to it


async def test_a_connection_is_kept_between_two_requests() -> None:
    """For its own time, which is longer than that for a head; after it, it is closed."""
    async with port(Limits(head_seconds=0.05, idle_seconds=3600)) as here:
        client = await here.connect()
        assert await client.get() == 200
        await asyncio.sleep(0.2)
        assert await client.get() == 200
    async with port(Limits(idle_seconds=0.05)) as here:
        client = await here.connect()
        assert await client.get() == 200
        assert await client.rest() == b""


async def test_an_answer_that_is_not_read_times_out() -> None:
    """Its connection is closed before all of it is sent."""

    asked = asyncio.Event()

    async def much(_request: Request) -> Response:
        asked.set()
        return Response(b"x" * (32 << 20))

    async with port(Limits(reader_seconds=0.05, end_seconds=0.05), answering(much)) as here:
        client = await here.connect()
        client._writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(f"GET / {HEAD}\r\n")
        await asked.wait()
        await asyncio.sleep(0.5)
        client._writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await client.rest()) < 32 << 20


async def test_the_longest_silent_connection_is_closed_first() -> None:
    """A new connection is always answered; later silent ones stay."""
    async with port(Limits(connections=3, head_seconds=3600, idle_seconds=3600)) as here:
        first, second, third = [await here.connect() for _ in range(3)]
        for client in (first, second, third):
            assert await client.get() == 200
        assert await first.get() == 200
        newcomer = await here.connect()
        assert await newcomer.get() == 200
        assert await second.rest() == b""
        for client in (first, third):
            assert await client.get() == 200


async def test_any_number_of_silent_connections_leaves_room() -> None:
    """For probes and for other requests, one after the other."""
    async with port(Limits(connections=20, head_seconds=3600, body_seconds=3600)) as here:
        for number in range(200):
            silent = await here.connect()
            await silent.send(["", "G", f"POST / {HEAD}content-length: 10\r\n\r\n1"][number % 3])
            if number % 50 == 49:
                for path in ("/", "/healthz"):
                    assert await (await here.connect()).get(path) == 200


async def test_probes_have_reserved_room() -> None:
    """At the limit of requests one more gets 503, but a probe does not."""
    going = asyncio.Event()
    busy = asyncio.Semaphore(0)

    async def slow(request: Request) -> Response:
        if request.url.path == "/slow":
            busy.release()
            await going.wait()
        return Response("done")

    limits = Limits(connections=10)
    async with port(limits, answering(slow)) as here:
        waiting = [await here.connect() for _ in range(limits.requests)]
        for client in waiting:
            await client.send(f"GET /slow {HEAD}\r\n")
            await busy.acquire()
        assert await (await here.connect()).get("/slow") == 503
        for path in ("/healthz", "/readyz", "/metrics"):
            assert await (await here.connect()).get(path) == 200
        going.set()
        assert [await client.status() for client in waiting] == [200] * limits.requests


AMBIGUOUS = f"POST / {HEAD}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / {HEAD}\r\n"
BADLY_FRAMED = {
    "both lengths": (AMBIGUOUS.encode(), 400),
    "tiny chunks": (CHUNKED + b"1\r\nx\r\n" * 1000, 400),
    "many headers": (f"GET / {HEAD}".encode() + b"a:\r\n" * 3000, 431),
    "a long header": (f"GET / {HEAD}a: ".encode() + b"x" * 40_000, 431),
    "a long target": (b"GET /" + b"x" * 40_000, 431),
    "another encoding": (CHUNKED.replace(b"chunked", b"gzip"), 501),
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
}


@pytest.mark.parametrize(("raw", "status"), BADLY_FRAMED.values(), ids=BADLY_FRAMED.keys())
async def test_a_badly_framed_request_is_refused_and_closed(
    raw: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Later bytes are not a request, and nothing is logged."""
    async with port() as here:
        client = await here.connect()
        await client.send(raw)
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1
    assert not caplog.records


async def test_a_body_in_pieces_is_accepted() -> None:
    """Chunks of a usual size, and a few small ones."""
    async with port() as here:
        client = await here.connect()
        await client.send(CHUNKED + b"1\r\nx\r\n" * 100 + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"0\r\n\r\n")
        assert await client.status() == 200


async def test_a_bad_chunk_after_the_answer_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing left to answer; the connection is closed."""
    async with port(app=answering(_nothing)) as here:
        client = await here.connect()
        await client.send(CHUNKED)
        assert await client.status() == 200
        await client.send("not a chunk\r\n")
        assert await client.rest() == b""
    assert not caplog.records


async def test_a_stop_as_a_connection_arrives_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The wait for connections is cancelled in the turn of the loop in which one has arrived."""
    loop = asyncio.get_running_loop()
    listener = http_listener("--http", Address("127.0.0.1", 0))
    listener.setblocking(False)
    task = asyncio.create_task(Accepting(listener, asyncio.Protocol, Connections(PATIENT, set())).run())
    await asyncio.sleep(0)
    with socket.create_connection(listener.getsockname()):
        loop.call_soon(task.cancel)
        await asyncio.gather(task, return_exceptions=True)
    listener.close()
    assert task.cancelled()
    assert caplog.records == []


@pytest.mark.parametrize("half", [CHUNKED, f"POST / {HEAD}content-length: 10\r\n\r\nhalf".encode()])
async def test_a_stop_while_bodies_are_half_sent_leaves_no_traceback(
    half: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Their requests are cancelled once the time that a stop may take is over."""
    reading = asyncio.Event()

    async def read(request: Request) -> Response:
        reading.set()
        return await _size(request)

    listener = http_listener("--http", Address("127.0.0.1", 0))
    async with serving(answering(read), listener, replace(PATIENT, stop_seconds=0.01)):
        client = Client(*await asyncio.open_connection(*listener.getsockname()))
        await client.send(half)
        await reading.wait()
    await client.close()
    assert caplog.records == []


async def test_a_stop_answers_open_requests_and_waits_for_nothing_else() -> None:
    """Neither for silent connections nor for half a request."""
    going = asyncio.Event()
    asked = asyncio.Event()

    async def slow(_request: Request) -> Response:
        asked.set()
        await going.wait()
        return Response("done")

    listener = http_listener("--http", Address("127.0.0.1", 0))
    here = Port(listener.getsockname())
    async with serving(answering(slow), listener, Limits(head_seconds=3600, stop_seconds=3600)):
        _silent, half, busy = [await here.connect() for _ in range(3)]
        await half.send("GET")
        await busy.send(f"GET / {HEAD}\r\n")
        await asked.wait()
        asyncio.get_running_loop().call_soon(going.set)
    assert await busy.status() == 200
    for client in here.clients:
        assert await client.rest() == b""
        await client.close()


STARVED = """
import asyncio, logging, resource, sys
from starlette.responses import PlainTextResponse
from pdp.endpoints.listeners import http_listener
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from pdp.serving.addresses import Address

async def main():
    logging.basicConfig(format="%(message)s")
    listener = http_listener("--http", Address("127.0.0.1", 0))
    async with serving(PlainTextResponse("here"), listener, Limits(connections=1000, head_seconds=3600)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        print(listener.getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_a_server_without_file_descriptors_keeps_running() -> None:
    """Silent connections are closed; it logs one line, where asyncio logs a thousand tracebacks a second."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STARVED,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    here = Port(("127.0.0.1", int(await process.stdout.readline())))
    try:
        for number in range(100):
            silent = await here.connect()
            if number % 25 == 24:
                assert await silent.get() == 200
    finally:
        process.stdin.close()
        _, output = await process.communicate()
        for client in here.clients:
            await client.close()
    assert output.decode().splitlines() == ["connections have to wait: Too many open files"]


def test_connections_leave_file_descriptors_for_other_uses() -> None:
    """At most a part of those that the process may have, of which it takes all that the system grants."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        assert share_of_descriptors(1000, 1 / 4) == 256
        assert share_of_descriptors(100, 1 / 4) == 100
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_refusal_is_a_problem() -> None:
    """In JSON, as everything else."""
    async with port(Limits(body_seconds=0.05)) as here:
        client = await here.connect()
        await client.send(f"POST / {HEAD}content-length: 10\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Request Timeout",
        "status": 408,
        "detail": "the body of a request did not come within 0.05 s",
    }
