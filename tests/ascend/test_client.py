"""The client against a real sidecar and a real registry."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

import ascend
from ascend import AgentAction, AscendClient, AsyncAscendClient, Decision, Outcome, RateRemaining, RegistryError
from pdp.serving.addresses import Address
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointServicer, add_PolicyDecisionPointServicer_to_server
from tests.waiting import eventually, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Beside, Central, settings, sidecar, store

NOWHERE = "127.0.0.1:1"
T = TypeVar("T")


@pytest.fixture
async def central(tmp_path: Path) -> AsyncIterator[Central]:
    async with store(tmp_path) as central:
        yield central


@pytest.fixture
async def beside(tmp_path: Path, central: Central) -> AsyncIterator[Beside]:
    async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
        yield beside


async def agent_key(central: Central) -> str:
    answer = await central.rest.call("POST", "/api/keys", {"role": "agent", "name": AGENT, "agent_id": AGENT})
    assert answer.status == 201, answer
    key: str = answer.body["key"]
    return key


async def off(call: Callable[[], T]) -> T:
    """The result of a blocking call, made where it does not block the servers of this test."""
    return await asyncio.to_thread(call)


def client(address: str, **changes: Any) -> AscendClient:
    return AscendClient(
        **(
            {"api_key": "owkai_none", "agent_id": AGENT, "agent_name": "Test", "pdp_address": address, "timeout": 60.0}
            | changes
        )
    )


async def test_a_decision_is_truthy_only_for_allow(central: Central, beside: Beside) -> None:
    """It has the fields of the sidecar's answer."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    await central.rest.call("POST", f"/api/agents/registry/{AGENT}/policies", HIGH_VALUE)
    await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
    with client(beside.sidecar.grpc_address) as agent:
        allowed = await off(lambda: agent.evaluate_action("api.read", "banking_api", risk_score=10))
        held = await off(lambda: agent.evaluate_action("transaction.process", "banking_api", amount=15000))
        escalated = await off(
            lambda: agent.evaluate(AgentAction(action_type="api.read", resource="banking_api", risk_score=85))
        )
        blocked = await off(lambda: agent.evaluate_action("api.read", "production_secrets"))
    assert [one.outcome for one in (allowed, held, escalated, blocked)] == [
        "allow",
        "require_approval",
        "escalate",
        "block",
    ]
    assert [bool(one) for one in (allowed, held, escalated, blocked)] == [True, False, False, False]
    assert allowed.rate_remaining == RateRemaining(99, 999, 9999)
    assert (allowed.reason, allowed.source, allowed.error_code) == ("RISK_BELOW_AUTO_APPROVE", "live", "")
    assert held.policy is not None
    assert (held.policy.name, held.policy.priority) == ("High-Value Transaction Review", 10)
    assert json.dumps(held.action_params, sort_keys=True) == (
        '{"approvers": ["finance-approvers"], "timeout_seconds": 3600}'
    ), "a whole number stays whole"


async def test_every_field_of_an_action_reaches_the_sidecar() -> None:
    """The sidecar's request has the same fields."""
    with recording() as (address, requests), client(address) as agent:
        action = AgentAction(
            action_type="tool.call",
            resource="files",
            resource_id="7",
            risk_score=12,
            amount=0.0,
            estimated_cost_usd=0.25,
            data_classifications=("pii",),
            mcp_server="server",
            tool="rm",
            environment="production",
            attributes={"a": {"b": [1, None, True]}},
            mfa_verified=True,
        )
        await off(lambda: agent.evaluate(action, idempotency_key="k", approval_id="ap", dry_run=True))
        await off(lambda: agent.evaluate_action("tool.call", risk_score=12.0))  # type: ignore[arg-type]
    sent, plain = requests
    assert (sent.idempotency_key, sent.approval_id, sent.dry_run) == ("k", "ap", True)
    assert (sent.action.agent_id, sent.action.resource_id, sent.action.risk_score) == (AGENT, "7", 12)
    assert sent.action.HasField("amount")
    assert (sent.action.amount, sent.action.estimated_cost_usd) == (0.0, 0.25)
    assert (list(sent.action.data_classifications), sent.action.mcp_server, sent.action.tool) == (
        ["pii"],
        "server",
        "rm",
    )
    assert (sent.action.environment, sent.action.mfa_verified) == ("production", True)
    assert sent.action.attributes["a"]["b"][2] is True
    assert plain.action.risk_score == 12
    assert not plain.action.HasField("amount")


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
async def test_without_a_sidecar_the_fail_mode_decides(fail_mode: str) -> None:
    """Closed blocks, open allows, and both say PDP_UNAVAILABLE."""
    with client(NOWHERE, fail_mode=fail_mode) as agent:
        decision = await off(lambda: agent.evaluate_action("api.read"))
    assert (decision.reason, decision.error_code) == ("PDP_UNAVAILABLE", "UNAVAILABLE")
    assert decision.outcome == ("allow" if fail_mode == "open" else "block")


async def test_a_sidecar_that_does_not_answer_in_time_is_unavailable() -> None:
    """The timeout is a block like every other error; until then the client waits for a suspended sidecar."""
    mute = socket.create_server(("127.0.0.1", 0))
    with mute, client(f"127.0.0.1:{mute.getsockname()[1]}", timeout=0.5) as agent:
        decision = await off(lambda: agent.evaluate_action("api.read"))
    assert not decision
    assert (decision.reason, decision.error_code) == ("PDP_UNAVAILABLE", "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)]
)
async def test_every_grpc_error_follows_the_fail_mode(code: grpc.StatusCode) -> None:
    """Whatever the status, closed blocks."""
    with recording(code) as (address, _), client(address) as closed, client(address, fail_mode="open") as opened:
        blocked = await off(lambda: closed.evaluate_action("api.read"))
        allowed = await off(lambda: opened.evaluate_action("api.read"))
    assert (bool(blocked), blocked.reason, blocked.error_code) == (False, "PDP_UNAVAILABLE", code.name)
    assert (bool(allowed), allowed.reason) == (True, "PDP_UNAVAILABLE")


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
async def test_a_key_that_is_repeated_too_often_is_always_blocked(
    central: Central, beside: Beside, fail_mode: str
) -> None:
    """Otherwise one key would allow any number of actions if the client fails open."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    action = AgentAction(action_type="api.read")
    with client(beside.sidecar.grpc_address, fail_mode=fail_mode) as agent:
        for _ in range(101):
            await off(lambda: agent.evaluate(action, idempotency_key=f"k-{fail_mode}"))
        decision = await off(lambda: agent.evaluate(action, idempotency_key=f"k-{fail_mode}"))
    assert (decision.outcome, decision.reason) == ("block", "PDP_UNAVAILABLE")
    assert decision.error_code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
async def test_a_malformed_action_is_always_blocked(beside: Beside, fail_mode: str) -> None:
    """Otherwise a wrong score would be allowed if the client fails open; the decision names the field."""
    await beside.sidecar.ready.wait()
    with client(beside.sidecar.grpc_address, fail_mode=fail_mode) as agent:
        decision = await off(lambda: agent.evaluate_action("api.read", risk_score=101))
    assert not decision
    assert (decision.reason, decision.error_code, decision.field) == (
        "PDP_UNAVAILABLE",
        "INVALID_ARGUMENT",
        "risk_score",
    )
    assert "is not within 0 to 100" in decision.message


class Odd(Mapping[str, Any]):
    """A mapping that raises when it is read or tested for emptiness."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("odd")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("odd")

    def __len__(self) -> int:
        raise RuntimeError("odd")


def itself() -> list[Any]:
    """A list that contains itself twice."""
    one: list[Any] = []
    one += [one, one]
    return one


def within(levels: int) -> list[Any]:
    """A list within a list, and so on."""
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


def doubled(times: int) -> list[Any]:
    """A small object that expands to a very large value."""
    inner: list[Any] = [1]
    for _ in range(times):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("risk_score", 2**40),
        ("risk_score", 50.5),
        ("risk_score", "high"),
        ("amount", "much"),
        ("resource", 5),
        ("resource", "\ud800"),
        ("data_classifications", "pii"),
        ("data_classifications", [1]),
        ("attributes", {"a": object()}),
        ("attributes", {"a": "\ud800"}),
        ("attributes", {1: 2}),
        ("attributes", {"a": "x" * (5 << 20)}),
        ("attributes", {"a": 10**400}),
        ("attributes", {"a": {1, 2}}),
        ("attributes", {"a": b"x"}),
        ("attributes", {"a": Decimal("1.5")}),
        ("attributes", {"\ud800": 1}),
        ("attributes", {"a": itself()}),
        ("attributes", {"a": within(50_000)}),
        ("attributes", {"a": doubled(14)}),
        ("attributes", {"a": doubled(99)}),
        ("attributes", Odd()),
        ("attributes", {"a": Odd()}),
        ("attributes", 5),
        ("amount", 10**400),
        ("estimated_cost_usd", 10**400),
        ("data_classifications", Odd()),
        ("data_classifications", 5),
        ("mfa_verified", 10**400),
        ("mfa_verified", "yes"),
        ("dry_run", 10**400),
        ("dry_run", "yes"),
        ("idempotency_key", 5),
        ("approval_id", "\ud800"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else ascii(value),
)
def test_a_value_that_does_not_fit_a_message_is_a_block(field: str, value: Any) -> None:
    """The client returns it without a call and without an exception."""
    with client(NOWHERE, fail_mode="open") as agent:
        decision = agent.evaluate_action("api.read", **{field: value})
    assert not decision
    assert decision.error_code == "INVALID_ARGUMENT"
    assert decision.field in (field, "action")


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
def test_a_closed_client_blocks(fail_mode: str) -> None:
    """It raises nothing, because a stopping agent may still use it."""
    agent = client(NOWHERE, fail_mode=fail_mode)
    agent.close()
    decision = agent.evaluate_action("api.read")
    assert (decision.allowed, decision.error_code) == (fail_mode == "open", "CANCELLED")
    assert agent.wait_for_approval("a-1").state == "unknown"


async def test_an_answer_that_cannot_be_read_is_a_block() -> None:
    """In both fail modes, because the content of the answer is unknown."""
    answer = pb.EvaluateResponse(outcome=pb.OUTCOME_ALLOW)
    answer.approval_expires_at.seconds = 10**15
    with recording(answer) as (address, _), client(address, fail_mode="open") as agent:
        decision = await off(lambda: agent.evaluate_action("api.read"))
    assert (decision.allowed, decision.error_code) == (False, "INTERNAL")


async def test_an_answer_says_that_people_were_asked_before() -> None:
    """Its approval is the pending one; by default it is not."""
    for pending in (False, True):
        answer = pb.EvaluateResponse(outcome=pb.OUTCOME_ESCALATE, approval_id="a1", approval_pending=pending)
        with recording(answer) as (address, _), client(address) as agent:
            decision = await off(lambda agent=agent: agent.evaluate_action("api.read"))
        assert (decision.approval_id, decision.approval_pending) == ("a1", pending)


async def test_a_large_number_of_a_policy_keeps_its_size() -> None:
    """It is not converted to 309 digits."""
    answer = pb.EvaluateResponse()
    answer.action_params.update({"n": 1e308, "whole": 3600})
    with recording(answer) as (address, _), client(address) as agent:
        decision = await off(lambda: agent.evaluate_action("api.read"))
    assert json.dumps(decision.action_params) == '{"n": 1e+308, "whole": 3600}'


async def test_it_connects_to_a_unix_socket(tmp_path: Path) -> None:
    """The address has the form of the sidecar's flag; the environment sets the default."""
    path = tmp_path / "pdp.sock"
    async with sidecar(settings(tmp_path, NOWHERE, listen=(Address(path=str(path)),))):
        with client(f"unix:{path}") as agent:
            decision = await off(lambda: agent.evaluate_action("api.read"))
    assert "no registry data" in decision.message


async def test_the_environment_names_the_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An injected sidecar is found without a setting."""
    with recording() as (address, requests):
        monkeypatch.setenv("PDP_ADDRESS", address)
        with AscendClient("owkai_none", AGENT, "Test") as agent:
            await off(lambda: agent.evaluate_action("api.read"))
    assert len(requests) == 1


async def test_the_client_reconnects_to_a_restarted_sidecar(tmp_path: Path, central: Central) -> None:
    """The same client works with the new sidecar."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    listen = (Address(path=str(tmp_path / "pdp.sock")),)
    here = settings(tmp_path, central.grpc_address, listen=listen)

    async def ask() -> Decision:
        return await off(lambda: agent.evaluate_action("api.read", "banking_api", risk_score=10))

    with client(f"unix:{tmp_path / 'pdp.sock'}") as agent:
        for _ in range(2):
            assert not await ask()
            async with sidecar(here):
                await eventually_gives(ask, bool)


async def test_an_agent_registers_itself_and_a_second_time_is_no_error(central: Central) -> None:
    """The record comes back both times, and the second changes nothing."""
    with client(NOWHERE, api_key=await agent_key(central), registry_url=f"http://{central.rest.address}/") as agent:
        first = await off(
            lambda: agent.register(
                agent_type="autonomous",
                capabilities=["api.read"],
                allowed_resources=["banking_api"],
                metadata={"owner": "tests"},
            )
        )
        second = await off(lambda: agent.register(agent_type="advisory", capabilities=["everything"]))
    for record in (first, second):
        assert (record["agent_id"], record["display_name"], record["agent_type"]) == (AGENT, "Test", "autonomous")
        assert (record["allowed_action_types"], record["allowed_resources"]) == (["api.read"], ["banking_api"])
        assert record["metadata"] == {"owner": "tests"}


async def test_a_refusal_of_the_registry_is_an_error_with_its_reason(central: Central) -> None:
    """A wrong key, a wrong value, and no server."""
    url = f"http://{central.rest.address}"
    with client(NOWHERE, registry_url=url) as agent, pytest.raises(RegistryError, match="answered 401") as refusal:
        await off(agent.register)
    assert refusal.value.status == 401
    key = await agent_key(central)
    wrong = pytest.raises(RegistryError, match="agent_type: `wizard` is not one of")
    with client(NOWHERE, registry_url=url, api_key=key) as agent, wrong:
        await off(lambda: agent.register(agent_type="wizard"))
    unreachable = pytest.raises(RegistryError, match="cannot reach the registry")
    with client(NOWHERE, registry_url=f"http://{NOWHERE}") as agent, unreachable as refusal:
        await off(agent.register)
    assert refusal.value.status == 0
    with client(NOWHERE) as agent, pytest.raises(ValueError, match="`registry_url` is required"):
        agent.register()


async def test_the_first_action_registers_an_unknown_agent(central: Central, beside: Beside) -> None:
    """The client waits until the sidecar knows the agent, and then gets a decision."""
    await beside.sidecar.ready.wait()
    key = await agent_key(central)
    with client(beside.sidecar.grpc_address, api_key=key, registry_url=f"http://{central.rest.address}") as agent:
        decision = await off(lambda: agent.evaluate_action("api.read", risk_score=10))
    assert (decision.outcome, decision.reason) == (Outcome.ALLOW, "RISK_BELOW_AUTO_APPROVE")
    record = await central.rest.call("GET", f"/api/agents/registry/{AGENT}")
    assert record.body["display_name"] == "Test"


async def test_a_registry_that_refuses_leaves_the_block(
    central: Central, beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    """Each action is answered, and the registry is not asked again at each of them."""
    await beside.sidecar.ready.wait()
    url = f"http://{central.rest.address}"
    with client(beside.sidecar.grpc_address, registry_url=url, fail_mode="open") as agent:
        reasons = [(await off(lambda: agent.evaluate_action("api.read"))).reason for _ in range(3)]
    assert reasons == ["AGENT_NOT_REGISTERED"] * 3
    assert sum("is not registered" in record.message for record in caplog.records) == 1


async def test_threads_may_share_a_client(central: Central, beside: Beside) -> None:
    """Each gets its own answer, and together they count exactly."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    with client(beside.sidecar.grpc_address) as agent, futures.ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(agent.evaluate_action, "api.read", "banking_api", risk_score=10) for _ in range(40)]
        await eventually(lambda: all(call.done() for call in calls))
    left = sorted(call.result().rate_remaining.minute or 0 for call in calls)
    assert left == list(range(60, 100))


@pytest.mark.parametrize("fail_mode", ["closed", "open", ""])
@pytest.mark.parametrize("kind", [AscendClient, AsyncAscendClient])
async def test_the_environment_sets_the_default_fail_mode(
    kind: type[Any], fail_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sidecar that is injected brings it; the argument of a client wins, and a wrong value is refused."""
    monkeypatch.setenv("PDP_FAIL_MODE", fail_mode)
    for argument, allowed in ((None, fail_mode == "open"), ("closed", False)):
        agent = kind("", AGENT, "Test", pdp_address=NOWHERE, fail_mode=argument)
        decision = agent.evaluate_action("api.read")
        assert bool(await decision if kind is AsyncAscendClient else decision) == allowed
        closing = agent.close()
        if closing is not None:
            await closing
    monkeypatch.setenv("PDP_FAIL_MODE", "ajar")
    with pytest.raises(ValueError, match="`PDP_FAIL_MODE`: `ajar` is not one of closed, open"):
        kind("", AGENT, "Test")


def test_a_client_imports_grpc_and_generated_code_alone() -> None:
    """What calls the registry is imported where a registry is named, and fakes where a test asks for them."""
    program = "import sys, ascend; print(*{'urllib3', 'ascend.registry', 'ascend.testing'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
    assert ascend.Registry.__module__ == "ascend.registry"
    with pytest.raises(AttributeError, match="module `ascend` has no attribute `Registries`"):
        _ = ascend.Registries


@pytest.mark.parametrize(("setting", "value"), [("fail_mode", "ajar"), ("timeout", 0), ("timeout", float("nan"))])
def test_a_wrong_setting_of_the_client_is_refused(setting: str, value: object) -> None:
    """At once, with its name."""
    with pytest.raises(ValueError, match=f"`{setting}`"):
        client(NOWHERE, **{setting: value})


ALLOWED = pb.EvaluateResponse(outcome=pb.OUTCOME_ALLOW, reason=pb.REASON_RISK_BELOW_AUTO_APPROVE)


@contextmanager
def recording(
    answer: pb.EvaluateResponse | grpc.StatusCode = ALLOWED,
) -> Iterator[tuple[str, list[pb.EvaluateRequest]]]:
    """A decision point that keeps its requests, and gives this answer or fails with this code."""
    requests: list[pb.EvaluateRequest] = []
    lock = threading.Lock()

    class Recorder(PolicyDecisionPointServicer):  # type: ignore[misc]  # the generated class has no annotations
        def Evaluate(  # noqa: N802 - gRPC's name
            self, request: pb.EvaluateRequest, context: grpc.ServicerContext
        ) -> pb.EvaluateResponse:
            with lock:
                requests.append(request)
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "as the test says")
            return answer

    with futures.ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_PolicyDecisionPointServicer_to_server(Recorder(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", requests
        finally:
            server.stop(None).wait(10)
