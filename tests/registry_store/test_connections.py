"""What silent, slow and greedy callers can hold of a store: nothing for long."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from pdp.serving import calls, turns
from registry_store import app
from registry_store.rest.exchange import bodies
from registry_store.rest.exchange.answers import page
from registry_store.settings import Settings
from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncStub
from tests.registry_store.serving import WAIT_SECONDS, Rest, served
from tests.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(f"sqlite:///{tmp_path / 'registry.db'}", http="127.0.0.1:0", grpc="127.0.0.1:0")


def connected(rest: Rest) -> socket.socket:
    host, _, port = rest.address.rpartition(":")
    return socket.create_connection((host, int(port)), WAIT_SECONDS)


def test_half_a_body_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 408, and the connection is closed."""
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    with served(settings) as store:
        rest = store.rest()
        with connected(rest) as half:
            head = f"POST /api/agents/registry HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {rest.key}\r\n"
            half.sendall(f'{head}content-length: 100\r\n\r\n{{"agent_id"'.encode())
            answer = b"".join(iter(lambda: half.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert rest.get("/api/agents/registry").body["total"] == 0


def test_silent_connections_leave_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """For probes and for the API, however many there are."""
    monkeypatch.setattr(app, "MAX_HTTP_CONNECTIONS", 20)
    with served(settings) as store:
        silent = [connected(store.rest(None)) for _ in range(100)]
        for path in ("/healthz", "/readyz", "/metrics", "/api/agents/registry"):
            assert store.rest().get(path).status == 200
        for connection in silent:
            connection.close()


def test_a_body_of_more_values_than_a_record_has_is_refused_unparsed(settings: Settings) -> None:
    """413, within the bound of bytes too."""
    names = b",".join(b'"%x":1' % number for number in range(bodies.MAX_VALUES + 2))
    assert len(names) < bodies.MAX_BYTES
    with served(settings) as store:
        answer = store.rest().post("/api/agents/registry", b"{" + names + b"}")
    assert (answer.status, answer.body["detail"]) == (413, f"the body has more than {bodies.MAX_VALUES} values")


async def test_a_page_is_rendered_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it would say at once, and others have their turn between its items."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    items = [{"id": number, "name": "é"} for number in range(50)]
    sent: list[Any] = []
    turn = 0

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def send(message: Any) -> None:
        sent.append(message)

    counting = asyncio.create_task(count())
    await page("things", items, 50, 50, 0, beside="x")({"type": "http"}, None, send)  # type: ignore[arg-type]
    counting.cancel()
    assert turn >= 50
    told = {"beside": "x", "things": items, "total": 50, "limit": 50, "offset": 0}
    assert sent[1]["body"] == json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()


async def test_no_call_in_flight_is_cancelled_by_a_stop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks one thing after the other has each answered, or is told to ask elsewhere."""
    monkeypatch.setattr(calls, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(calls, "MAX_HOLD_SECONDS", WAIT_SECONDS)
    answered, ended = 0, []
    use = pb.UseApprovalRequest(approval_id="none", agent_id="agent", use_id="use", action_sha256=b"x" * 32)

    async def ask(stub: RegistrySyncStub, metadata: list[tuple[str, str]]) -> None:
        nonlocal answered
        while True:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.UseApproval(use, metadata=metadata, timeout=WAIT_SECONDS)
            if error.value.code() is not grpc.StatusCode.NOT_FOUND:
                ended.append(error.value.code())
                return
            answered += 1

    async with AsyncExitStack() as life:
        store = await life.enter_async_context(app.running(settings))
        metadata = [("authorization", f"Bearer {await store.create_key('sidecar', 'tester')}")]
        async with grpc.aio.insecure_channel(store.grpc_address) as channel:
            asking = [asyncio.create_task(ask(RegistrySyncStub(channel), metadata)) for _ in range(32)]
            await eventually(lambda: answered > 100)
            await life.aclose()
            await asyncio.gather(*asking)
    assert set(ended) == {grpc.StatusCode.UNAVAILABLE}
