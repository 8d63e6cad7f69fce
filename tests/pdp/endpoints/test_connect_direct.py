"""Calls by Connect that come without ASGI: which do, and that nobody can tell by the answer."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ascend.calls import connect as client
from pdp.endpoints import http
from pdp.serving.http1.plain import Heads
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench
from tests.given import agent
from tests.pdp.serving.http1.both_ways import by_asgi, served, without_dates

EVALUATE = "/pdp.v1.PolicyDecisionPoint/Evaluate"
ACTION = {"agentId": "billing-reader-test", "actionType": "api.read", "riskScore": 10}
PROTO = {"content-type": "application/proto"}
JSON = {"content-type": "application/json"}
CALLERS: Mapping[str, Mapping[str, str]] = {
    "h2load": PROTO | {"user-agent": "h2load nghttp2/1.52.0"},
    "curl": JSON | {"user-agent": "curl/7.88.1", "accept": "*/*"},
    "curl --compressed": PROTO | {"accept": "*/*", "accept-encoding": "deflate, gzip, br, zstd"},
    "connect-go": PROTO | {"accept-encoding": "gzip", "connect-protocol-version": "1", "connect-timeout-ms": "500"},
    "connect-node": JSON | {"connect-protocol-version": "1", "connect-timeout-ms": "60000", "connection": "keep-alive"},
    "charset": {"content-type": "Application/JSON; charset=utf-8"},
    "identity": PROTO | {"content-encoding": "identity"},
    "a trace": PROTO | {"traceparent": "00-00000000000000000000000000000001-0000000000000001-01"},
    "its own page": JSON | {"origin": "http://127.0.0.1:8181", "sec-fetch-site": "same-origin"},
    "localhost": PROTO | {"host": "localhost"},
    "IPv6": PROTO | {"host": "[::1]:8181"},
}
LEFT: Mapping[str, Mapping[str, str]] = {
    "a foreign host": PROTO | {"host": "evil.example"},
    "a foreign origin": JSON | {"origin": "https://evil.example"},
    "a null origin": JSON | {"origin": "null"},
    "a foreign site": JSON | {"sec-fetch-site": "cross-site"},
    "a form": {"content-type": "application/x-www-form-urlencoded"},
    "no content type": {},
    "a stream": {"content-type": "application/connect+proto"},
    "gzip": PROTO | {"content-encoding": "gzip"},
    "brotli": PROTO | {"content-encoding": "br"},
    "another version": PROTO | {"connect-protocol-version": "2"},
    "no time": PROTO | {"connect-timeout-ms": "0"},
    "too much time": PROTO | {"connect-timeout-ms": "10000000000"},
}
OTHER_PATHS = ("/v1/evaluate", "/metrics", "/pdp.v1.PolicyDecisionPoint/Nothing", EVALUATE + "/", f"/{EVALUATE}")
STREAMS = ("WaitForApproval", "EvaluateStream")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


def application(bench: Bench) -> Any:
    return http.application(bench.service, bench.metrics, lambda: None)


def post(headers: Mapping[str, str], body: bytes = b"", path: str = EVALUATE) -> bytes:
    sent = {"host": "127.0.0.1:8181"} | dict(headers) | {"content-length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("headers", CALLERS.values(), ids=CALLERS.keys())
async def test_what_clients_send_comes_without_asgi(bench: Bench, headers: Mapping[str, str]) -> None:
    """To each unary RPC."""
    heads = Heads(application(bench).direct)
    for name in ("Evaluate", "EvaluateBatch", "Explain", "ReportOutcome"):
        assert heads.route(post(headers, path=f"/pdp.v1.PolicyDecisionPoint/{name}")) is not None


async def test_what_our_client_sends_comes_without_asgi(bench: Bench) -> None:
    """On TCP and on a Unix socket."""
    heads = Heads(application(bench).direct)
    for authority in ("127.0.0.1:8181", "localhost"):
        assert heads.route(client.request(authority, "Evaluate", "application/proto", b"", 0.5)) is not None


@pytest.mark.parametrize("headers", LEFT.values(), ids=LEFT.keys())
async def test_what_is_refused_or_large_is_left_to_asgi(bench: Bench, headers: Mapping[str, str]) -> None:
    """Where each refusal is written once."""
    assert Heads(application(bench).direct).route(post(headers)) is None


async def test_other_paths_are_left_to_asgi(bench: Bench) -> None:
    """So are streams."""
    heads = Heads(application(bench).direct)
    for path in (*OTHER_PATHS, *(f"/pdp.v1.PolicyDecisionPoint/{name}" for name in STREAMS)):
        assert heads.route(post(PROTO, path=path)) is None


def in_json(fields: object) -> bytes:
    return json.dumps(fields).encode()


def in_proto(**fields: Any) -> bytes:
    return pb.EvaluateRequest(dry_run=True, **fields).SerializeToString()


ALLOWED = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 10}
BODIES = [
    (PROTO, in_proto(action=pb.Action(**ALLOWED))),
    (PROTO, in_proto(action=pb.Action(**ALLOWED | {"risk_score": 90}))),
    (PROTO, in_proto(action=pb.Action(**ALLOWED | {"risk_score": 101}))),
    (PROTO, in_proto(action=pb.Action(agent_id="unknown-agent", action_type="api.read"))),
    (PROTO, b""),
    (PROTO, b"\xff\xff"),
    (PROTO | {"accept-encoding": "gzip"}, in_proto(action=pb.Action(**ALLOWED))),
    (PROTO | {"connect-timeout-ms": "500"}, in_proto(action=pb.Action(**ALLOWED))),
    (JSON, in_json({"action": ACTION, "dryRun": True})),
    (JSON, in_json({"action": ACTION | {"attributes": {"a": [1, {"b": None}]}}, "dryRun": True})),
    (JSON, in_json({"action": ACTION | {"surprise": 1}})),
    (JSON, in_json([])),
    (JSON, b"{"),
    (JSON, b""),
    *((headers, in_json({"action": ACTION, "dryRun": True})) for headers in LEFT.values()),
]


@pytest.mark.parametrize(("headers", "body"), BODIES, ids=range(len(BODIES)))
async def test_an_answer_is_the_same_with_and_without_asgi(
    bench: Bench, tmp_path: Path, headers: Mapping[str, str], body: bytes
) -> None:
    """Its status, its headers and its body, but for the decision's id; and the counted refusals."""
    answers = []
    app = application(bench)
    for one in (app, by_asgi(app)):
        async with served(one, tmp_path) as connect:
            connection = connect()
            await connection.send(post(headers, body))
            answers.append(without_ids(without_dates(await connection.answers())))
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 ")


def without_ids(answer: bytes) -> bytes:
    """Without the ids of decisions, which are those of UUIDs in version 7."""
    return re.sub(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", b"ID", answer)


async def test_each_call_without_asgi_is_counted(bench: Bench, tmp_path: Path) -> None:
    """In the limits of its agent, and in the log."""
    body = pb.EvaluateRequest(action=pb.Action(**ALLOWED)).SerializeToString()
    async with served(application(bench), tmp_path) as connect:
        connection = connect()
        await connection.send(post(PROTO, body) * 7)
        answers = await connection.answers()
    sizes = [int(size) for size in re.findall(rb"content-length: (\d+)", answers)]
    heads = [match.end() for match in re.finditer(rb"\r\n\r\n", answers)]
    messages = [pb.EvaluateResponse.FromString(answers[at : at + size]) for at, size in zip(heads, sizes, strict=True)]
    assert [message.outcome for message in messages] == [pb.OUTCOME_ALLOW] * 5 + [pb.OUTCOME_BLOCK] * 2
    assert len(bench.log.entries) == len({message.decision_id for message in messages}) == 7


async def test_a_call_that_waits_for_the_log_holds_nobody_up(bench: Bench, tmp_path: Path) -> None:
    """It is answered once there is room; another connection and a probe are answered meanwhile."""
    room = asyncio.Event()

    async def until_room() -> None:
        async with asyncio.timeout(3600):
            await room.wait()

    bench.log.crowded = True
    bench.log.room = until_room  # type: ignore[method-assign]
    body = in_proto(action=pb.Action(**ALLOWED))
    async with served(application(bench), tmp_path) as connect:
        waiting, other = connect(), connect()
        await waiting.send(post(PROTO, body))
        assert await waiting.answers() == b""
        bench.log.crowded = False
        await other.send(post(PROTO, body))
        assert (await other.answers()).startswith(b"HTTP/1.1 200 OK")
        await other.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await other.answers()).startswith(b"HTTP/1.1 200 OK")
        assert await waiting.answers() == b""
        room.set()
        assert (await waiting.answers()).startswith(b"HTTP/1.1 200 OK")
