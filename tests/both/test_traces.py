"""Traces of decisions and changes, with `--traces`."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio

from pdp.serving.monitoring import tracing
from pdp.settings import SettingsError
from pdp.v1 import decision_pb2 as pb
from registry_store.errors import StartError
from tests import whole
from tests.both.collector import Collector, Got, collecting
from tests.waiting import BOUND_SECONDS, eventually
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Beside, Central

PARENT = "00f067aa0ba902b7"
READ: dict[str, Any] = {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api"}
LARGE: dict[str, Any] = {
    **READ,
    "action_type": "transaction.process",
    "amount": 15000,
    "attributes": {"iban": "secret"},
}
POLICIES = f"/api/agents/registry/{AGENT}/policies"
CONNECT = "/pdp.v1.PolicyDecisionPoint/Evaluate"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

_numbers = count(1)


class Traced(NamedTuple):
    """A store and a sidecar that send their spans to a collector."""

    central: Central
    beside: Beside
    collector: Collector


def new_trace() -> str:
    return f"{next(_numbers):032x}"


def headers(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{PARENT}-{flags}", "tracestate": "vendor=1"}


def metadata(trace_id: str) -> tuple[tuple[str, str], ...]:
    return (*headers(trace_id).items(),)


@contextmanager
def quickly(endpoint: str) -> Iterator[None]:
    """Spans go to this endpoint after 50 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT, endpoint)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(collecting())
        stack.enter_context(quickly(f"http://{collector.address}"))
        central = await stack.enter_async_context(whole.store(folder, traces=True))
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        assert (await central.rest.call("POST", POLICIES, HIGH_VALUE)).status == 201
        settings = whole.settings(folder, central.grpc_address, traces=True)
        beside = await stack.enter_async_context(whole.sidecar(settings))
        await beside.sidecar.reached(2)
        yield Traced(central, beside, collector)


def request(action: dict[str, Any] = READ, **fields: Any) -> pb.EvaluateRequest:
    fields_of_action = {name: value for name, value in action.items() if name != "attributes"}
    message = pb.EvaluateRequest(action=pb.Action(**fields_of_action), **fields)
    message.action.attributes.update(action.get("attributes", {}))
    return message


def follows(span: Got, trace_id: str) -> bool:
    """Whether the span has the parent that `headers` name, with what its vendor adds."""
    return (span.trace_id, span.parent_id, span.trace_state) == (trace_id, PARENT, "vendor=1")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_decision_is_a_span_under_its_callers(traced: Traced) -> None:
    """It shows what was decided, and why, and no attribute of the action."""
    trace_id = new_trace()
    answer = await traced.beside.stub.Evaluate(request(LARGE), metadata=metadata(trace_id), timeout=BOUND_SECONDS)
    [span] = await traced.collector.of(trace_id)
    assert follows(span, trace_id)
    assert (span.service, span.name, span.is_error) == ("pdp", "pdp.decision", False)
    assert span.attributes == {
        "pdp.agent.id": AGENT,
        "pdp.action.type": "transaction.process",
        "pdp.dry_run": False,
        "pdp.decision.id": answer.decision_id,
        "pdp.outcome": "REQUIRE_APPROVAL",
        "pdp.reason": "POLICY_MATCHED",
        "pdp.policy.id": answer.policy.id,
        "pdp.source": "LIVE",
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_each_decision_of_a_batch_is_a_span(traced: Traced) -> None:
    """All are under the parent of the batch."""
    trace_id = new_trace()
    batch = pb.EvaluateBatchRequest(requests=[request(dry_run=True), request(LARGE, dry_run=True)])
    answers = await traced.beside.stub.EvaluateBatch(batch, metadata=metadata(trace_id), timeout=BOUND_SECONDS)
    spans = await traced.collector.of(trace_id, 2)
    assert all(follows(span, trace_id) for span in spans)
    assert [span.attributes["pdp.decision.id"] for span in spans] == [
        result.response.decision_id for result in answers.results
    ]
    assert [span.attributes["pdp.dry_run"] for span in spans] == [True, True]


@pytest.mark.asyncio(loop_scope="module")
async def test_each_decision_of_a_stream_is_a_span(traced: Traced) -> None:
    """All are under the parent of the stream; a message that is malformed is no decision."""
    trace_id = new_trace()
    stream = traced.beside.stub.EvaluateStream(metadata=metadata(trace_id), timeout=BOUND_SECONDS)
    for action in (READ, READ | {"agent_id": ""}, LARGE):
        await stream.write(pb.EvaluateStreamRequest(request=request(action, dry_run=True)))
    await stream.done_writing()
    answers = [answer async for answer in stream]
    assert [answer.result.WhichOneof("result") for answer in answers] == ["response", "error", "response"]
    spans = await traced.collector.of(trace_id, 2)
    assert all(follows(span, trace_id) for span in spans)
    assert [span.attributes["pdp.decision.id"] for span in spans] == [
        answers[0].result.response.decision_id,
        answers[2].result.response.decision_id,
    ]


@pytest.mark.parametrize("path", [CONNECT, "/v1/evaluate"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_decision_over_http_is_a_span_under_its_callers(traced: Traced, path: str) -> None:
    """By the Connect protocol and by the JSON endpoint."""
    trace_id, body = new_trace(), {"action": READ}
    answer = await traced.beside.http.call("POST", path, body, headers(trace_id))
    assert answer.status == 200, answer
    [span] = await traced.collector.of(trace_id)
    assert follows(span, trace_id)
    decision_id = answer.body["decisionId" if path == CONNECT else "decision_id"]
    assert (span.name, span.attributes["pdp.decision.id"]) == ("pdp.decision", decision_id)


@pytest.mark.parametrize("path", [CONNECT, "/v1/evaluate"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_parent_ends_with_its_request(traced: Traced, path: str) -> None:
    """The next request on the connection, which names none, begins a trace of its own."""
    trace_id = new_trace()
    await traced.beside.http.call("POST", path, {"action": READ}, headers(trace_id))
    answer = await traced.beside.http.call("POST", path, {"action": READ})
    span = await decided(traced.collector, answer.body["decisionId" if path == CONNECT else "decision_id"])
    assert span.parent_id == ""
    assert span.trace_id != trace_id


@pytest.mark.parametrize("wrong", ["", "00-1-2-01", f"00-{0:032x}-{PARENT}-01", f"ff-{1:032x}-{PARENT}-01", "x" * 4000])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_malformed_parent_is_ignored(traced: Traced, wrong: str) -> None:
    """The decision is made, and its span begins a trace."""
    sent = (("traceparent", wrong), ("tracestate", "vendor=1"))
    answer = await traced.beside.stub.Evaluate(request(), metadata=sent, timeout=BOUND_SECONDS)
    span = await decided(traced.collector, answer.decision_id)
    assert (span.parent_id, span.trace_state) == ("", "")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_parent_that_is_not_sampled_has_no_spans(traced: Traced) -> None:
    """The caller decides."""
    trace_id, last = new_trace(), new_trace()
    await traced.beside.http.call("POST", "/v1/evaluate", {"action": READ}, headers(trace_id, flags="00"))
    await traced.beside.http.call("POST", "/v1/evaluate", {"action": READ}, headers(last))
    await traced.collector.of(last)
    assert all(span.trace_id != trace_id for span in traced.collector.spans)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_that_gets_no_decision_is_a_span_with_an_error(traced: Traced) -> None:
    """It names the kind of error, and not its text."""
    trace_id = new_trace()
    keyed = [request(idempotency_key="k"), request(LARGE, idempotency_key="k")]
    await traced.beside.stub.Evaluate(keyed[0], timeout=BOUND_SECONDS)
    with pytest.raises(grpc.aio.AioRpcError, match="was used for another action"):
        await traced.beside.stub.Evaluate(keyed[1], metadata=metadata(trace_id), timeout=BOUND_SECONDS)
    [span] = await traced.collector.of(trace_id)
    assert span.is_error
    assert span.attributes == {
        "pdp.agent.id": AGENT,
        "pdp.action.type": "transaction.process",
        "pdp.dry_run": False,
        "error.type": "InvalidActionError",
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_is_a_span_under_its_callers(traced: Traced) -> None:
    """It shows the route, not the path, and the revision that the sidecars get."""
    trace_id, rest = new_trace(), traced.central.rest
    changed = await rest.call("POST", POLICIES, HIGH_VALUE | {"policy_name": "Another"}, headers(trace_id))
    assert changed.status == 201
    [span] = await traced.collector.of(trace_id)
    assert follows(span, trace_id)
    assert (span.service, span.name, span.is_error) == ("registry-store", "registry_store.change", False)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/agents/registry/{agent_id}/policies",
        "http.response.status_code": 201,
        "registry_store.role": "admin",
        "registry_store.revision": 3,
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_that_is_refused_is_a_span_without_a_revision(traced: Traced) -> None:
    """And a request that reads is none."""
    refused, read, last = new_trace(), new_trace(), new_trace()
    for trace_id, call in ((refused, ("POST", POLICIES, {})), (read, ("GET", POLICIES)), (last, ("POST", "/none"))):
        await traced.central.rest.call(*call, headers=headers(trace_id))
    await traced.collector.of(last)
    [span] = await traced.collector.of(refused)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": "/api/agents/registry/{agent_id}/policies",
        "http.response.status_code": 422,
    }
    assert all(span.trace_id != read for span in traced.collector.spans)


async def decided(collector: Collector, decision_id: str) -> Got:
    """The span of a decision, once it is there."""

    def found() -> list[Got]:
        return [span for span in collector.spans if span.attributes.get("pdp.decision.id") == decision_id]

    await eventually(found)
    return found()[0]


async def test_what_waits_is_sent_at_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the SDK's thread would not send for a minute."""
    async with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, f"http://{collector.address}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        async with whole.sidecar(whole.settings(tmp_path, "127.0.0.1:1", traces=True)) as beside:
            await beside.http.call("POST", "/v1/evaluate", {"action": READ})
        [span] = collector.spans
    assert (span.is_error, span.attributes["error.type"]) == (True, "NoRegistryDataError")


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
async def test_without_a_collector_decisions_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, silent: bool
) -> None:
    """More than the queue holds; it is logged, and the stop does not wait until the exporter gives up."""
    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.1)
    for name, value in (("QUEUE_SIZE", "4"), ("EXPORT_BATCH_SIZE", "4")):
        monkeypatch.setenv(f"OTEL_BSP_MAX_{name}", value)
    with deaf() as address:
        monkeypatch.setenv(ENDPOINT, f"http://{address if silent else '127.0.0.1:1'}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        async with asyncio.timeout(BOUND_SECONDS / 2):
            async with whole.sidecar(whole.settings(tmp_path, "127.0.0.1:1", traces=True)) as beside:
                for _ in range(20):
                    assert (await beside.http.call("POST", "/v1/evaluate", {"action": READ})).status == 503
    assert any(record.name.startswith("opentelemetry") for record in caplog.records)


@contextmanager
def deaf() -> Iterator[str]:
    """The address of a listener that accepts no connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_without_the_flag_nothing_of_opentelemetry_is_imported() -> None:
    """By a sidecar that runs; FastAPI brings the interface of OpenTelemetry to the store, but not what sends spans."""
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)


WITHOUT = """
import asyncio, sys, tempfile
from pathlib import Path
from pdp import app
from pdp.settings import Settings


def imported(name):
    return [module for module in sys.modules if (module + ".").startswith(name + ".")]


async def main(folder):
    (folder / "key").touch(0o600)
    (folder / "key").write_text("owkai_none")
    free = ["127.0.0.1:0"]
    given = {"key_file": folder / "key", "agents": None, "tags": None, "all_agents": True, "data_dir": folder / "data"}
    async with app.running(Settings.from_text(store="127.0.0.1:1", listen=free, http=free, **given)):
        assert not imported("opentelemetry")


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(Path(folder)))
import registry_store.app
assert not imported("opentelemetry.sdk")
assert not imported("opentelemetry.exporter")
"""


async def test_without_the_extra_the_flag_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says what to install, by both programs."""
    monkeypatch.delitem(sys.modules, "pdp.serving.monitoring.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    needed = "^`--traces`: requires OpenTelemetry: install `agent-pdp\\[otel\\]`$"
    with pytest.raises(SettingsError, match=needed):
        await opened(whole.sidecar(whole.settings(tmp_path, "127.0.0.1:1", traces=True)))
    with pytest.raises(StartError, match=needed):
        await opened(whole.store(tmp_path, traces=True))


async def opened(program: Any) -> None:
    async with program:
        pass
