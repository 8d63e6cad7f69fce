"""Plain requests whose answers wait, fail or are not read, and connections that a server closes."""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pdp.serving.http1.both_ways import (
    PATIENT,
    SOCKET,
    BothWays,
    Client,
    advance,
    by_asgi,
    digest,
    post,
    served,
    without_dates,
)
from tests.waiting import BOUND_SECONDS, eventually_gives


class Waiting(BothWays):
    """Its answers to `wait` are ready once `going` is set."""

    def __init__(self) -> None:
        super().__init__(self._when_going)
        self.going = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def _when_going(self, body: bytes) -> bytes:
        self.begun += 1
        if body.startswith(b"wait"):
            try:
                await self.going.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return body


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of answers, none of which has a line break."""
    return [one.rpartition(b"\r\n\r\n")[2] for one in answers.split(b"HTTP/1.1 200 OK")[1:]]


async def ended(client: Client) -> bytes:
    """What the server sends until it closes the connection."""
    got = b""
    async with asyncio.timeout(BOUND_SECONDS):
        while not client.is_closed:
            got += client.read()
            await asyncio.sleep(0.001)
    return got


async def test_requests_behind_one_that_waits_are_answered_after_it(tmp_path: Path) -> None:
    """In their order, whether they came with it or later, plain or not."""
    app = Waiting()
    async with served(app, tmp_path) as connect:
        client = connect()
        await client.send(post(b"wait") + post(b"1"))
        assert await client.answers() == b""
        await client.send(post(b"2", path="/?a=b") + post(b"3")[:-1])
        await client.send(b"3")
        assert (await client.answers(), app.begun) == (b"", 1)
        app.going.set()
        assert bodies(await client.answers()) == [b"wait", b"1", b"2", b"3"]
        await client.send(post(b"4"))
        assert bodies(await client.answers()) == [b"4"]
    assert app.ways == ["direct", "direct", "asgi", "asgi", "direct"]


async def test_a_refusal_behind_one_that_waits_comes_after_its_answer(tmp_path: Path) -> None:
    """Although h11 refuses at once, and the answer is sent at the end of the turn."""
    app = Waiting()
    async with served(app, tmp_path) as connect:
        client = connect()
        await client.send(post(b"wait") + b"nonsense\r\n\r\n")
        app.going.set()
        answers = await ended(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"400"]


async def test_what_is_sent_behind_one_that_waits_is_bounded(tmp_path: Path) -> None:
    """The server reads no more, and the rest stays with the sender."""
    app = Waiting()
    async with served(app, tmp_path) as connect:
        client = connect()
        await client.send(post(b"wait"))
        sending = asyncio.create_task(client.send(post(b"x" * 1000) * 4000))
        for _ in range(3000):  # three times as many reads as all of it takes
            await asyncio.sleep(0)
        assert (sending.done(), app.begun) == (False, 1)
        app.going.set()
        got = []
        async with asyncio.timeout(BOUND_SECONDS):
            while not sending.done() or len(got) < 4001:
                got += bodies(client.read())
                await asyncio.sleep(0)
        assert app.begun == 4001


async def test_a_stop_answers_what_waits_and_tells_that_the_connection_ends(tmp_path: Path) -> None:
    """What was sent behind it is not answered: the client knows."""
    app = Waiting()
    with ExitStack() as stack:
        async with served(app, tmp_path, replace(PATIENT, stop_seconds=3600, end_seconds=0.01)):
            client, idle, half = (stack.enter_context(closing(Client(tmp_path / SOCKET))) for _ in range(3))
            await client.send(post(b"wait") + post(b"1"))
            await half.send(post(b"half")[:-1])
            asyncio.get_running_loop().call_later(0.01, app.going.set)
        got = await ended(client)
        assert (bodies(got), b"\r\nconnection: close\r\n" in got) == ([b"wait"], True)
        assert await ended(idle) + await ended(half) == b""
    assert (app.begun, app.cancelled) == (1, 0)


async def test_a_stop_amid_many_requests_tells_where_the_connection_ends(tmp_path: Path) -> None:
    """The next answer is the last, and what follows it was not decided."""
    app = Waiting()
    with ExitStack() as stack:
        async with served(app, tmp_path, replace(PATIENT, stop_seconds=3600, end_seconds=0.01)):
            client = stack.enter_context(closing(Client(tmp_path / SOCKET)))
            await client.send(b"".join(post(b"%d" % number) for number in range(30)))
            assert 0 < app.begun < 30
        got = await ended(client)
    assert bodies(got) == [b"%d" % number for number in range(app.begun)]
    assert [b"connection: close" in head for head in got.split(b"HTTP/1.1 200 OK")[1:]] == [False] * (app.begun - 1) + [
        True
    ]


@pytest.mark.parametrize("before", range(10))
@pytest.mark.parametrize("last", [post(b"half")[:-1], post(b"other", path="/?a=b")], ids=["half", "other"])
async def test_a_stop_waits_for_no_request_that_follows(tmp_path: Path, before: int, last: bytes) -> None:
    """At whichever of them it comes, also if the last is half a request, or one that h11 reads."""
    with ExitStack() as stack:
        async with asyncio.timeout(BOUND_SECONDS):
            async with served(Waiting(), tmp_path, replace(PATIENT, stop_seconds=3600, end_seconds=0.01)):
                client = stack.enter_context(closing(Client(tmp_path / SOCKET)))
                await client.send(b"".join(post(b"%d" % number) for number in range(before)) + last)
            got = bodies(await ended(client))
    assert got == [*(b"%d" % number for number in range(before)), b"other"][: len(got)]


async def test_many_requests_at_once_hold_nobody_up(tmp_path: Path) -> None:
    """Connections take turns, request by request."""
    made: list[bytes] = []

    async def make(body: bytes) -> bytes:
        made.append(body)
        return body

    async with served(BothWays(make), tmp_path) as connect:
        many, one = connect(), connect()
        for client in (many, one):
            await client.send(post(b"first"))
        await many.send(post(b"many") * 30)
        await one.send(post(b"one"))
        await many.answers()
    assert made.count(b"many") == 30
    assert made.index(b"one") < 20


async def test_a_stop_whose_time_is_over_cancels_what_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without an answer, and without a line in the log."""
    app = Waiting()
    with ExitStack() as stack:
        async with served(app, tmp_path, replace(PATIENT, stop_seconds=0.01)):
            client = stack.enter_context(closing(Client(tmp_path / SOCKET)))
            await client.send(post(b"wait"))
        assert (await ended(client), app.cancelled, caplog.records) == (b"", 1, [])


async def test_a_client_that_goes_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its answer is made and dropped; the place that it took is free again."""
    app = Waiting()
    async with served(app, tmp_path, replace(PATIENT, connections=2)) as connect:
        gone = connect()
        await gone.send(post(b"wait"))
        gone.close()
        await asyncio.sleep(0.01)
        app.going.set()
        for _ in range(3):
            client = connect()
            await client.send(post(b"here"))
            assert bodies(await client.answers()) == [b"here"]
    assert (app.begun, caplog.records) == (4, [])


async def test_requests_that_wait_are_limited_in_number(tmp_path: Path) -> None:
    """As those by ASGI are, together with them; one more gets 503, and a probe its answer."""
    app = Waiting()
    limits = replace(PATIENT, connections=4)
    async with served(app, tmp_path, limits) as connect:
        waiting = [connect() for _ in range(limits.requests)]
        for number, client in enumerate(waiting):
            await client.send(post(b"wait", *(["expect: 100-continue"] * (number == 0))))
        one_more = connect()
        await one_more.send(post(b"one more"))
        assert (await one_more.answers()).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        await one_more.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await one_more.answers()).startswith(b"HTTP/1.1 200 OK\r\n")
        app.going.set()
        assert [bodies(await client.answers()) for client in waiting] == [[b"wait"]] * limits.requests
        await one_more.send(post(b"one more"))
        assert bodies(await one_more.answers()) == [b"one more"]


@pytest.mark.parametrize("waits", [False, True])
async def test_a_fault_is_answered_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, waits: bool) -> None:
    """As by ASGI: with 500, and the connection ends; the server goes on."""

    async def fail(_body: bytes) -> bytes:
        if waits:
            await asyncio.sleep(0)
        raise ZeroDivisionError

    answers = []
    for app in (BothWays(fail), by_asgi(BothWays(fail))):
        async with served(app, tmp_path) as connect:
            client = connect()
            await client.send(post(b"body") + post(b"next"))
            answers.append(without_dates(await client.answers()))
    assert answers[0].startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert answers[0].count(b"HTTP/1.1") == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_a_reader_that_does_not_read_is_waited_for_and_left(tmp_path: Path) -> None:
    """Its requests stay unanswered once the system's buffers are full, and its connection ends with the time for it."""

    async def much(_body: bytes) -> bytes:
        return b"x" * (1 << 20)

    app = BothWays(much)
    async with served(app, tmp_path, replace(PATIENT, reader_seconds=0.05)) as connect:
        client = connect()
        await client.send(post() * 20)
        assert 0 < len(app.ways) < 10
        await asyncio.sleep(0.2)
        assert len(await ended(client)) < 10 << 20


async def test_a_reader_that_reads_at_last_gets_every_answer(tmp_path: Path) -> None:
    """In order, and the connection is good for more."""

    async def much(body: bytes) -> bytes:
        return body * 100_000

    app = BothWays(much)
    async with served(app, tmp_path) as connect:
        client = connect()
        await client.send(b"".join(post(b"%d" % (number % 10)) for number in range(60)))
        assert 0 < len(app.ways) < 60
        got, idle = b"", 0
        while idle < 50:
            more = client.read()
            got, idle = got + more, 0 if more else idle + 1
            await asyncio.sleep(0)
        assert bodies(got) == [b"%d" % (number % 10) * 100_000 for number in range(60)]
        await client.send(post(b"x"))
        assert len(await client.answers()) > 100_000


HALVES: dict[str, Callable[[bytes], bytes]] = {
    "a byte": lambda raw: raw[:1],
    "half a head": lambda raw: raw[:40],
    "half a body": lambda raw: raw[:-1],
    "no body": lambda raw: raw[:-4],
}


@pytest.mark.parametrize("cut", HALVES.values(), ids=HALVES.keys())
@pytest.mark.parametrize("before", [b"", post(b"before")], ids=["first", "later"])
async def test_half_a_request_times_out(tmp_path: Path, cut: Callable[[bytes], bytes], before: bytes) -> None:
    """With 408 and the same words as by ASGI."""
    limits = replace(PATIENT, head_seconds=0.02, body_seconds=0.03)
    answers = []
    for app in (BothWays(), by_asgi(BothWays())):
        async with served(app, tmp_path, limits) as connect:
            client = connect()
            await client.send(before + cut(post(b"body")))
            answers.append(without_dates(await ended(client)))
    assert answers[0] == answers[1]
    assert b"HTTP/1.1 408 Request Timeout\r\n" in answers[0]


async def test_a_byte_does_not_extend_the_time_of_half_a_request(tmp_path: Path) -> None:
    """Each comes well within the time; all of them do not."""
    async with served(BothWays(), tmp_path, replace(PATIENT, body_seconds=100)) as connect:
        client = connect()
        await client.send(post(b"body")[:-4])
        for byte in (b"b", b"o"):
            advance(40)
            await client.send(byte)
            assert await client.answers() == b""
        advance(40)
        assert (await ended(client)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_each_answer_gives_an_idle_connection_its_full_time(tmp_path: Path) -> None:
    """It ends that much after the last answer, not after the first."""
    async with served(BothWays(), tmp_path, replace(PATIENT, idle_seconds=100)) as connect:
        client = connect()
        for _ in range(4):
            await client.send(post(b"body"))
            assert bodies(await client.answers()) == [await digest(b"body")]
            advance(60)
        assert await client.answers() == b""
        assert not client.is_closed
        advance(60)
        assert await ended(client) == b""


async def test_the_connection_that_asked_longest_ago_gives_way(tmp_path: Path) -> None:
    """Plain requests count as others do."""
    async with served(BothWays(), tmp_path, replace(PATIENT, connections=3)) as connect:
        clients = [connect() for _ in range(3)]
        for client in [*clients, clients[0]]:
            await client.send(post(b"body"))
            assert bodies(await client.answers())
        newcomer = connect()
        await newcomer.send(post(b"body"))
        assert await eventually_gives(newcomer.answers, bool)
        assert await ended(clients[1]) == b""
        for client in (clients[0], clients[2]):
            await client.send(post(b"body"))
            assert bodies(await client.answers())
