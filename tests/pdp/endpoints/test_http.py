"""The HTTP port over real HTTP: the JSON endpoint, the probes, and refused requests."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import urllib3

from pdp.core.json import strict_json
from pdp.endpoints import http
from pdp.endpoints.listeners import http_listener
from pdp.serving.addresses import Address, bound_address
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from pdp.settings import SettingsError
from tests.deciding import Bench
from tests.given import agent
from tests.whole import Answer, Http

LIMITS = Limits()
ACTION = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 10}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


@asynccontextmanager
async def port(bench: Bench, not_ready: str | None = None, limits: Limits = LIMITS, **how: Any) -> AsyncIterator[Http]:
    listener = http_listener("--http", Address("127.0.0.1", 0))
    app = http.application(bench.service, bench.metrics, lambda: not_ready, **how)
    async with serving(app, listener, limits):
        caller = Http(bound_address(listener))
        try:
            yield caller
        finally:
            caller.close()


async def call(bench: Bench, method: str, path: str, body: object = None, **how: Any) -> Answer:
    async with port(bench, **how) as caller:
        return await caller.call(method, path, body)


async def test_a_key_that_is_repeated_too_often_gets_retry_after(bench: Bench) -> None:
    """429, with the seconds until the key is free in `Retry-After`."""
    async with port(bench) as caller:
        asked = json.dumps({"action": ACTION, "idempotency_key": "k"}).encode()
        for _ in range(101):
            await bench.service.evaluate_json(asked)
        url = f"http://{caller.address}/v1/evaluate"
        headers = {"content-type": "application/json"}
        refused = await asyncio.to_thread(urllib3.request, "POST", url, body=asked, headers=headers, retries=False)
    assert (refused.status, refused.headers["retry-after"]) == (429, "600")
    assert refused.headers["content-type"] == "application/problem+json"


async def test_the_json_endpoint_decides(bench: Bench) -> None:
    """With the names of the contract, in lower case where they are values."""
    answer = await call(bench, "POST", "/v1/evaluate", {"action": ACTION})
    assert answer.status == 200
    assert (answer.body["outcome"], answer.body["reason"]) == ("allow", "RISK_BELOW_AUTO_APPROVE")
    assert answer.body["rate_remaining"]["minute"] == 4


async def test_a_malformed_action_names_every_field(bench: Bench) -> None:
    """As a problem of RFC 9457, and nothing is counted."""
    wrong = ACTION | {"risk_score": 101, "surprise": 1}
    answer = await call(bench, "POST", "/v1/evaluate", {"action": wrong})
    assert answer.status == 400
    assert {error["path"] for error in answer.body["errors"]} == {"action.risk_score", "action.surprise"}
    assert (await call(bench, "POST", "/v1/evaluate", {"action": ACTION})).body["rate_remaining"]["minute"] == 4


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nan", b"\xff", b"[" * 100_000])
async def test_an_invalid_request_is_a_problem(bench: Bench, body: bytes) -> None:
    """Whatever the bytes, the answer is 400 and never a decision."""
    answer = await call(bench, "POST", "/v1/evaluate", body)
    assert answer.status == 400
    assert "outcome" not in answer.body


async def test_a_body_above_the_bound_is_refused_unread(bench: Bench) -> None:
    """413, and the port goes on."""
    async with port(bench) as caller:
        answer = await caller.call("POST", "/v1/evaluate", b" " * (http.MAX_BODY_BYTES + 1))
        assert (answer.status, answer.body["status"]) == (413, 413)
        assert (await caller.call("GET", "/healthz")).status == 200


async def test_a_body_that_never_arrives_times_out(bench: Bench) -> None:
    """A client that promises a body and sends none gets 408."""
    async with port(bench, limits=Limits(body_seconds=0.05)) as caller:
        reader, writer = await asyncio.open_connection(*caller.address.split(":"))
        writer.write(b"POST /v1/evaluate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_disconnects_is_not_an_error(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A disconnect within a body is not logged as an error."""
    async with port(bench) as caller:
        _, writer = await asyncio.open_connection(*caller.address.split(":"))
        writer.write(b'POST /v1/evaluate HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\n{"a"')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await caller.call("GET", "/healthz")).status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_the_probes(bench: Bench) -> None:
    """`/healthz` always succeeds; `/readyz` gives the reason if it fails."""
    ready = Answer(200, {"status": "ready", "registry": "live", "staleness": 0.0})
    assert await call(bench, "GET", "/readyz") == ready
    assert await call(bench, "GET", "/readyz", not_ready="draining") == Answer(503, {"status": "draining"})
    assert await call(bench, "GET", "/healthz", not_ready="draining") == Answer(200, {"status": "alive"})


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/evaluate", 405), ("GET", "/nothing", 404)])
async def test_other_paths_and_methods_are_problems(bench: Bench, method: str, path: str, status: int) -> None:
    """In JSON, as everything else."""
    answer = await call(bench, method, path)
    assert (answer.status, answer.body["status"]) == (status, status)


async def test_without_registry_data_the_endpoint_is_unavailable() -> None:
    """503, and never a decision."""
    answer = await call(Bench(), "POST", "/v1/evaluate", {"action": ACTION})
    assert (answer.status, answer.body["title"]) == (503, "No decision now")


def test_a_port_in_use_is_a_wrong_setting() -> None:
    """In one line, with the address."""
    with http_listener("--http", Address("127.0.0.1", 0)) as first:
        host, port = first.getsockname()
        with pytest.raises(SettingsError, match=f"`--http`: `{host}:{port}` is in use by another process"):
            http_listener("--http", Address(host, port))


async def test_a_body_with_more_structure_than_an_action_is_refused_unparsed(bench: Bench) -> None:
    """However small each of its values is; one at the bound that is written in the longest way is decided."""
    names = b",".join(b'"%x":1' % number for number in range(45_000))
    longest = json.dumps({"action": ACTION | {"attributes": {"text": "\x01" * 10_000}}}).encode()
    async with port(bench) as caller:
        refused = await caller.call("POST", "/v1/evaluate", b"{" + names + b"}")
        decided = await caller.call("POST", "/v1/evaluate", longest)
    assert (refused.status, [error["path"] for error in refused.body["errors"]]) == (400, ["action"])
    assert decided.status == 200


async def test_a_large_body_is_read_beside_the_event_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one is not, which would take longer."""
    readers = []

    def noting(body: bytes) -> Any:
        readers.append(threading.current_thread() is threading.main_thread())
        return loads(body)

    loads = strict_json.loads
    monkeypatch.setattr(strict_json, "loads", noting)
    for size in (100, 5000):
        body = json.dumps({"action": ACTION | {"attributes": {"text": "x" * size}}}).encode()
        assert (await bench.service.evaluate_json(body))[0] == 200
    assert readers == [True, False]


FOREIGN = [
    {"host": "rebound.example"},
    {"host": "rebound.example:8181"},
    {"host": "localhost.example"},
    {"host": "127.0.0.1.example"},
    {"host": ""},
    {"host": "user@127.0.0.1"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "whatever"},
]


@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_requests_of_web_pages_are_refused(bench: Bench, headers: dict[str, str], content_type: str) -> None:
    """Whatever its content type, and nothing is counted."""
    async with port(bench) as caller:
        answer = await caller.call("POST", "/v1/evaluate", {"action": ACTION}, headers | {"content-type": content_type})
        left = (await caller.call("POST", "/v1/evaluate", {"action": ACTION})).body["rate_remaining"]["minute"]
    assert (answer.status, answer.body["status"], left) == (403, 403, 4)


OWN = [
    {"content-type": "application/x-www-form-urlencoded"},
    {"host": "localhost:8181"},
    {"host": "LOCALHOST."},
    {"host": "10.1.2.3"},
    {"host": "[::1]:8181"},
    {"host": "pdp.internal"},
    {"host": "127.0.0.1:80", "origin": "http://127.0.0.1:80", "sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
]


@pytest.mark.parametrize("headers", OWN, ids=str)
async def test_requests_of_programs_are_answered(bench: Bench, headers: dict[str, str]) -> None:
    """By an address of the machine, by localhost, by a name of the setting; also as `curl -d` sends it."""
    async with port(bench, hosts=("pdp.internal",)) as caller:
        assert (await caller.call("POST", "/v1/evaluate", {"action": ACTION}, headers)).status == 200


async def test_probes_and_metrics_check_the_host_too(bench: Bench) -> None:
    """Prometheus and the kubelet call by IP address; a page that has rebound its name reads nothing."""
    async with port(bench) as caller:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await caller.call("GET", path, headers={"host": "10.1.2.3:8181"})).status == 200
            assert (await caller.call("GET", path, headers={"host": "rebound.example"})).status == 403


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_of_another_machine_is_a_wrong_setting(host: str) -> None:
    """If it resolves, and if it does not."""
    with pytest.raises(SettingsError, match="`--http`: cannot"):
        http_listener("--http", Address(host, 0))
