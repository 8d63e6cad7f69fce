"""The client over HTTP: what its connections promise, and answers that no sidecar gives."""

import asyncio
import socket
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from ascend import AgentAction, AscendClient, Decision
from ascend.calls import addresses, pool
from ascend.calls.asyncio import Suspending
from ascend.calls.http import HttpCalls
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.ascend.running import AGENT, KINDS, Either, unanswered
from tests.ascend.scripted import ALLOW, ALLOWED, Reply, answer, scripted
from tests.ascend.ways import offered
from tests.deciding import Bench, answer_in, request_in
from tests.given import agent
from tests.waiting import BOUND_SECONDS, eventually

READ = AgentAction(action_type="api.read")
DENIED = '{"code":"permission_denied","message":"agent_id: is not yours"}'
STREAM = "application/connect+proto"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def asked(client: Either, **beside: Any) -> Decision:
    decision: Decision = await client.call("evaluate", READ, **beside)
    return decision


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def chunked(*chunks: bytes, content_type: str = "application/proto") -> bytes:
    """A whole answer in chunks."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (*chunks, b""))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it is not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "it is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "it is not HTTP",
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "it has the status 101"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + ALLOW, "it has the status 100"),
        (ALLOW + ALLOW, "it is more than one answer"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000, "its head is larger than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: x\r\n" * 20_000, "its head is larger than 16384 bytes"),
        (answer(bytes(5 << 20)), "it is larger than 4194304 bytes"),
        (chunked(*[b"x"] * 800_000), "it is larger than 4194304 bytes"),
        (answer(b"<html>", content_type="text/html"), "its content type is `text/html`, not `application/proto`"),
        (answer(b"", "200 OK", "application/proto", "content-encoding: gzip"), "it is compressed"),
        (answer(b"\xff\xff"), "Error parsing message"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
async def test_an_answer_that_is_none_of_a_sidecar_is_a_block(kind: str, data: bytes, problem: str) -> None:
    """Also in the fail mode open; and its connection is not used again, for the rest of it would answer the next."""
    async with scripted(Reply(data), Reply(ALLOW)) as server:
        client = Either(kind, server.address, fail_mode="open")
        decision = await asked(client)
        assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "INTERNAL")
        assert decision.message.startswith(f"the answer cannot be read: {problem}")
        assert (await asked(client)).reason == "RISK_BELOW_AUTO_APPROVE"
        assert len(server.connections) == (1 if problem.startswith(("Error parsing", "its content type")) else 2)
        await client.close()


@pytest.mark.parametrize(
    ("status", "content_type", "body", "code", "message"),
    [
        ("403 Forbidden", "application/json", DENIED, "PERMISSION_DENIED", "no decision: agent_id: is not yours"),
        ("429 Too Many", "application/json", '{"code":"resource_exhausted"}', "RESOURCE_EXHAUSTED", "no decision: "),
        ("499 X", "application/json", '{"code":"canceled","message":5}', "CANCELLED", "no decision: "),
        ("403 Forbidden", "application/problem+json", '{"title":"no"}', "PERMISSION_DENIED", "HTTP status 403: no"),
        ("404 Not Found", "text/html", "<html>", "UNIMPLEMENTED", "HTTP status 404"),
        ("503 Busy", "application/problem+json", '{"title":"busy"}', "UNAVAILABLE", "HTTP status 503: busy"),
        ("429 Too Many", "text/plain", "[" * 100_000, "UNAVAILABLE", "HTTP status 429"),
        ("400 Bad Request", "application/json", '{"code":"odd"}', "INTERNAL", "HTTP status 400"),
        ("418 Teapot", "application/json", "[]", "UNKNOWN", "HTTP status 418"),
    ],
)
async def test_a_status_is_an_error_as_the_protocol_defines_it(  # noqa: PLR0917 - one call of each case
    kind: str, status: str, content_type: str, body: str, code: str, message: str
) -> None:
    """The connection is used again."""
    async with scripted(Reply(answer(body.encode(), status, content_type)), Reply(ALLOW)) as server:
        client = Either(kind, server.address)
        decision = await asked(client)
        assert unanswered(decision) == (False, "PDP_UNAVAILABLE", code)
        assert decision.message.endswith(message)
        assert await asked(client)
        assert len(server.connections) == 1
        await client.close()


@pytest.mark.parametrize("sent", [b"", ALLOW[:20], ALLOW[:-1], b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize(
    ("beside", "requests"), [({}, 1), ({"idempotency_key": "k"}, 2), ({"dry_run": True}, 2), ({"approval_id": "a"}, 1)]
)
async def test_a_question_is_repeated_only_if_it_counts_once(
    kind: str, sent: bytes, beside: dict[str, Any], requests: int
) -> None:
    """Where its connection breaks: then the sidecar may have counted it. It is repeated once."""
    async with scripted(*[Reply(sent, closes=True)] * 3) as server:
        client = Either(kind, server.address)
        decision = await asked(client, **beside)
        assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "UNAVAILABLE")
        assert (len(server.requests), len(server.connections)) == (requests, requests)
        await client.close()


async def test_a_repeated_question_gets_its_answer(kind: str) -> None:
    """On a new connection, with what is left of the time."""
    async with scripted(Reply(b"", closes=True), Reply(ALLOW)) as server:
        client = Either(kind, server.address)
        assert await asked(client, idempotency_key="k")
        first, second = (int(one.partition(b"timeout-ms: ")[2].split()[0]) for one in server.requests)
        assert 0 < second <= first <= BOUND_SECONDS * 1000
        await client.close()


async def test_a_connection_that_was_closed_meanwhile_is_replaced(kind: str) -> None:
    """Nothing was sent on it, so nothing is repeated."""
    async with scripted(*[Reply(ALLOW)] * 3) as server:
        client = Either(kind, server.address)
        assert await asked(client)
        assert await asked(client)
        assert len(server.connections) == 1
        server.connections[0].close()
        await server.connections[0].wait_closed()
        assert await asked(client)
        assert (len(server.connections), len(server.requests)) == (2, 3)
        await client.close()


async def test_what_nobody_asked_for_answers_nothing(kind: str) -> None:
    """An answer that is there before its question belongs to another."""
    async with scripted(Reply(answer(b"", "503 Busy")), Reply(answer(b"", "503 Busy"))) as server:
        client = Either(kind, server.address)
        assert not await asked(client)
        server.connections[0].write(ALLOW)
        await server.connections[0].drain()
        assert not await asked(client)
        assert len(server.connections) == 2
        await client.close()


async def test_a_connection_that_was_idle_too_long_is_replaced(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar may be about to close it."""
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.0)
    async with scripted(*[Reply(ALLOW)] * 2) as server:
        client = Either(kind, server.address)
        for _ in range(2):
            assert await asked(client)
        assert len(server.connections) == 2
        await client.close()


async def test_an_answer_that_ends_the_connection_is_followed_by_another_connection(kind: str) -> None:
    """Both are answers."""
    closing = answer(ALLOWED.SerializeToString(), "200 OK", "application/proto", "connection: close")
    async with scripted(Reply(closing), Reply(ALLOW)) as server:
        client = Either(kind, server.address)
        for _ in range(2):
            assert await asked(client)
        assert len(server.connections) == 2
        await client.close()


@pytest.mark.parametrize("sent", [b"", ALLOW[:20], ALLOW[:-1]])
async def test_an_answer_that_does_not_end_in_time_is_none(kind: str, sent: bytes) -> None:
    """The time is that of the whole call, and nothing is repeated after it."""
    async with scripted(*[Reply(sent)] * 2) as server:
        client = Either(kind, server.address, timeout=0.3)
        decision = await asked(client, idempotency_key="k")
        assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert len(server.requests) <= 1
        await client.close()


class Watched(Suspending):
    """Sockets that keep the deadlines that they are given."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []

    async def connect(self, one: socket.socket, address: Any, deadline: float) -> None:
        self.deadlines.append(deadline)
        await super().connect(one, address, deadline)

    async def send(self, one: socket.socket, data: bytes, deadline: float) -> None:
        self.deadlines.append(deadline)
        await super().send(one, data, deadline)

    async def receive(self, one: socket.socket, deadline: float) -> bytes:
        self.deadlines.append(deadline)
        return await super().receive(one, deadline)


async def test_one_deadline_bounds_the_whole_call() -> None:
    """It does not begin anew with each piece that arrives, nor with the second attempt."""
    async with scripted(Reply(ALLOW[:-1], closes=True), Reply(answer(bytes(200_000)))) as server:
        sockets = Watched()
        calls = HttpCalls(addresses.read(server.address), sockets, None)
        assert len(await calls.unary("Evaluate", b"", BOUND_SECONDS, repeatable=True)) == 200_000
        await calls.close()
    assert len(sockets.deadlines) >= 2 * 3
    assert len(set(sockets.deadlines)) == 1


async def test_a_request_names_its_host_and_its_time(kind: str) -> None:
    """On a Unix socket the host is `localhost`, which every sidecar takes for its own."""
    async with scripted(Reply(ALLOW)) as server:
        client = Either(kind, server.address, timeout=86_400.0 * 365)
        assert await asked(client)
        head = server.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")
        await client.close()
    assert head[:3] == [
        "POST /pdp.v1.PolicyDecisionPoint/Evaluate HTTP/1.1",
        f"host: {server.address.removeprefix('http://')}",
        "connect-protocol-version: 1",
    ]
    assert head[4] == "content-type: application/proto"


async def test_a_host_may_have_a_name(kind: str) -> None:
    """One that cannot be resolved is a sidecar that cannot be reached."""
    async with scripted(Reply(ALLOW)) as server:
        client = Either(kind, server.address.replace("127.0.0.1", "localhost"))
        assert await asked(client)
        await client.close()
    client = Either(kind, f"http://{'x' * 64}.invalid:1")
    decision = await asked(client)
    await client.close()
    assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "UNAVAILABLE")


async def test_a_unix_socket_without_a_place_is_waited_for(kind: str, tmp_path: Path) -> None:
    """As long as there is time; then it is answered like every other."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as before:
        listener.bind(str(tmp_path / "pdp.sock"))
        listener.listen(0)
        before.connect(str(tmp_path / "pdp.sock"))
        client = Either(kind, f"http+unix:{tmp_path / 'pdp.sock'}", timeout=0.3)
        decision = await asked(client)
        await client.close()
    assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "DEADLINE_EXCEEDED")


async def test_two_questions_never_share_a_connection() -> None:
    """Each of many threads gets its own answers; connections are opened for those at work, and kept for the next."""
    bench = Bench()
    bench.put(agent(AGENT, max_actions_per_minute=10_000))
    async with offered(bench.service, "http+unix") as address:
        with AscendClient("", AGENT, "Test", pdp_address=address, timeout=BOUND_SECONDS) as client:
            for _ in range(2):
                with futures.ThreadPoolExecutor(8) as threads:
                    calls = [threads.submit(client.evaluate, READ, idempotency_key=str(n)) for n in range(200)]
                    await eventually(lambda calls=calls: all(call.done() for call in calls))
                ids = [call.result().decision_id for call in calls]
                assert len(set(ids)) == 200
    logged = {request_in(entry).idempotency_key: answer_in(entry).decision_id for entry in bench.log.entries}
    assert [logged[str(n)] for n in range(200)] == ids


async def test_tasks_ask_at_the_same_time() -> None:
    """Each on its own connection; at most so many are kept as fit."""
    bench = Bench()
    bench.put(agent(AGENT, max_actions_per_minute=10_000))
    async with offered(bench.service, "http+unix") as address:
        client = Either("asyncio", address).client
        before = descriptors()
        decisions = await asyncio.gather(*(client.evaluate(READ, idempotency_key=str(n)) for n in range(100)))
        assert len({one.decision_id for one in decisions}) == 100
        assert descriptors() < before + 2 * pool.MAX_IDLE + 10
        await client.close()


async def test_a_cancelled_question_leaves_no_answer_behind() -> None:
    """The answer that comes after all is not that of the next question."""
    async with scripted(Reply(b""), Reply(answer(b"", "503 Busy"))) as server:
        client = Either("asyncio", server.address).client
        asking = asyncio.ensure_future(client.evaluate(READ))
        await eventually(lambda: bool(server.requests))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not await client.evaluate(READ)
        assert len(server.connections) == 2
        await client.close()


async def test_closing_ends_a_wait_in_another_thread() -> None:
    """With the state `unknown`; a question that counts once is not repeated."""
    bench = Bench()
    bench.put(agent(AGENT))
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    async with offered(bench.service, "http+unix") as address:
        client = AscendClient("", AGENT, "Test", pdp_address=address)
        waiting = asyncio.ensure_future(asyncio.to_thread(client.wait_for_approval, "a1", 3600))
        await eventually(lambda: bench.service.approvals.waiting == 1)
        client.close()
        assert (await waiting).comment == "the client is closed"
        assert (await asyncio.to_thread(client.evaluate, READ)).error_code == "CANCELLED"


FORKS = """
import os, sys, ascend
with ascend.AscendClient("", "a", "", pdp_address=sys.argv[1]) as client:
    assert client.evaluate_action("x")
    child = os.fork()
    assert client.evaluate_action("x")
    if child:
        assert os.waitpid(child, 0)[1] == 0
        assert client.evaluate_action("x")
"""


async def test_a_forked_process_has_connections_of_its_own() -> None:
    """That of the parent is not used in the child, and goes on in the parent."""
    async with scripted(*[Reply(ALLOW)] * 4) as server:
        ended = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", FORKS, server.address, stderr=subprocess.PIPE
        )
        _, err = await ended.communicate()
        assert ended.returncode == 0, err.decode()
        assert (len(server.connections), len(server.requests)) == (2, 4)


@pytest.mark.parametrize(
    ("data", "comment"),
    [
        (chunked(content_type="text/html"), "its content type is `text/html`, not `application/connect+proto`"),
        (chunked(b"\x01\x00\x00\x00\x00", content_type=STREAM), "an envelope has the flags 0b00000001"),
        (chunked(b"\x02\x00\x00\x00\x01x", content_type=STREAM), "the end of the stream cannot be read"),
        (chunked(b"\x00\x00\x00\x00\x01\xff", content_type=STREAM), "an update cannot be read"),
        (chunked(b"\x00\xff\xff\xff\xff", *[bytes(60_000)] * 80, content_type=STREAM), "it is larger than"),
        (answer(DENIED.encode(), "403 X", "application/json"), "agent_id: is not yours"),
        (chunked(b"\x02\x00\x00\x00\x18" + b'{"error":{"code":"odd"}}', content_type=STREAM), ""),
    ],
)
async def test_a_stream_that_cannot_be_read_ends_the_wait(kind: str, data: bytes, comment: str) -> None:
    """The approval is unknown."""
    async with scripted(Reply(data)) as server:
        client = Either(kind, server.address)
        approval = await client.call("wait_for_approval", "a1", BOUND_SECONDS)
        await client.close()
    assert approval.state == "unknown"
    assert approval.comment.startswith(comment)


async def test_a_stream_that_breaks_is_opened_again(kind: str) -> None:
    """The pieces of a message may come one by one."""
    update = pb.ApprovalUpdate(approval_id="a1", state=pb.APPROVAL_STATE_APPROVED).SerializeToString()
    message = b"\x00" + len(update).to_bytes(4, "big") + update
    pieces = [bytes((byte,)) for byte in message + b"\x02\x00\x00\x00\x02{}"]
    broken = chunked(content_type=STREAM)
    async with scripted(Reply(broken), Reply(chunked(*pieces, content_type=STREAM))) as server:
        client = Either(kind, server.address)
        assert await client.call("wait_for_approval", "a1", BOUND_SECONDS)
        assert len(server.requests) == 2
        await client.close()
