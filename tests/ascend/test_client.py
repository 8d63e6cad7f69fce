"""The client against a real sidecar and a real registry."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent import futures
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

import ascend
from ascend import AgentAction, AscendClient, AsyncAscendClient, Decision, Outcome, RateRemaining, RegistryError
from pdp.endpoints.service import SERVICE
from pdp.serving.addresses import Address
from pdp.v1 import decision_pb2 as pb
from tests.ascend.running import KINDS, Either, unanswered
from tests.ascend.ways import NOWHERE, offered, on_socket
from tests.waiting import eventually, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Beside, Central, settings, sidecar, store

ALLOWED = pb.EvaluateResponse(outcome=pb.OUTCOME_ALLOW, reason=pb.REASON_RISK_BELOW_AUTO_APPROVE)
WHOLE = pb.EvaluateResponse(
    outcome=pb.OUTCOME_ESCALATE,
    reason=pb.REASON_RATE_LIMIT_EXCEEDED,
    message="größer",
    decision_id="d",
    risk_score=7,
    policy=pb.PolicyReference(id="p", name="P", priority=1),
    retry_after=1.5,
    approval_id="a",
    approval_pending=True,
    agent_version="1.0.0",
    registry_revision=3,
    staleness=0.5,
    source=pb.SOURCE_CACHED,
)
ALONE = NOWHERE["grpc"]
"""The address of a client that is not to find a sidecar."""
T = TypeVar("T")


@pytest.fixture
async def central(tmp_path: Path) -> AsyncIterator[Central]:
    async with store(tmp_path) as central:
        yield central


@pytest.fixture
async def beside(tmp_path: Path, central: Central) -> AsyncIterator[Beside]:
    listen = (Address("127.0.0.1", 0), Address(path=str(tmp_path / "grpc.sock")))
    http = (Address("127.0.0.1", 0), Address(path=str(tmp_path / "http.sock")))
    async with sidecar(settings(tmp_path, central.grpc_address, listen=listen, http=http)) as beside:
        yield beside


def at(beside: Beside, way: str) -> str:
    """The address of a running sidecar, for a client that reaches it in this way."""
    running = beside.sidecar
    addresses = running.http_addresses if way.startswith("http") else running.grpc_addresses
    address = addresses[way.endswith("+unix")]
    return address if way.startswith("grpc") else f"{'http+' if way.endswith('+unix') else 'http://'}{address}"


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


async def test_a_decision_is_truthy_only_for_allow(way: str, central: Central, beside: Beside) -> None:
    """It has the fields of the sidecar's answer."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    await central.rest.call("POST", f"/api/agents/registry/{AGENT}/policies", HIGH_VALUE)
    await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
    with client(at(beside, way)) as agent:
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


async def test_every_field_of_an_action_reaches_the_sidecar(way: str) -> None:
    """The sidecar's request has the same fields."""
    async with recording(way) as (address, requests):
        with client(address) as agent:
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
async def test_without_a_sidecar_the_fail_mode_decides(nowhere: str, fail_mode: str) -> None:
    """Closed blocks, open allows, and both say PDP_UNAVAILABLE."""
    with client(nowhere, fail_mode=fail_mode) as agent:
        decision = await off(lambda: agent.evaluate_action("api.read"))
    assert (decision.reason, decision.error_code) == ("PDP_UNAVAILABLE", "UNAVAILABLE")
    assert decision.outcome == ("allow" if fail_mode == "open" else "block")


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_sidecar_that_does_not_answer_in_time_is_unavailable(kind: str, scheme: str) -> None:
    """The timeout is a block like every other error; until then the client waits for a suspended sidecar."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        agent = Either(kind, f"{scheme}127.0.0.1:{mute.getsockname()[1]}", timeout=0.5)
        decision = await agent.call("evaluate_action", "api.read")
        await agent.close()
    assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)]
)
async def test_every_error_follows_the_fail_mode(way: str, code: grpc.StatusCode) -> None:
    """Whatever the status, closed blocks."""
    async with recording(way, code) as (address, _):
        with client(address) as closed, client(address, fail_mode="open") as opened:
            blocked = await off(lambda: closed.evaluate_action("api.read"))
            allowed = await off(lambda: opened.evaluate_action("api.read"))
    assert (bool(blocked), blocked.reason, blocked.error_code) == (False, "PDP_UNAVAILABLE", code.name)
    assert (bool(allowed), allowed.reason) == (True, "PDP_UNAVAILABLE")


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
@pytest.mark.parametrize("details", ["", "action.risk_score: is odd", "idempotency_key: `k` is repeated", "größer"])
async def test_both_protocols_tell_the_same(details: str, fail_mode: str) -> None:
    """The same decision for each code and text, and the same answer."""
    recorder = Recorder(WHOLE, details)
    async with offered(recorder, "grpc+unix") as by_grpc, offered(recorder, "http+unix") as by_http:
        with client(by_grpc, fail_mode=fail_mode) as one, client(by_http, fail_mode=fail_mode) as other:
            for answer in (*(code for code in grpc.StatusCode if code is not grpc.StatusCode.OK), WHOLE):
                recorder.answer = answer
                told = [await off(lambda agent=agent: agent.evaluate_action("api.read")) for agent in (one, other)]
                assert told[0] == told[1], answer


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
async def test_a_key_that_is_repeated_too_often_is_always_blocked(
    way: str, central: Central, beside: Beside, fail_mode: str
) -> None:
    """Otherwise one key would allow any number of actions if the client fails open."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    action = AgentAction(action_type="api.read")
    with client(at(beside, way), fail_mode=fail_mode) as agent:
        for _ in range(101):
            await off(lambda: agent.evaluate(action, idempotency_key=f"k-{fail_mode}"))
        decision = await off(lambda: agent.evaluate(action, idempotency_key=f"k-{fail_mode}"))
    assert (decision.outcome, decision.reason) == ("block", "PDP_UNAVAILABLE")
    assert decision.error_code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
async def test_a_malformed_action_is_always_blocked(way: str, beside: Beside, fail_mode: str) -> None:
    """Otherwise a wrong score would be allowed if the client fails open; the decision names the field."""
    await beside.sidecar.ready.wait()
    with client(at(beside, way), fail_mode=fail_mode) as agent:
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
def test_a_value_that_does_not_fit_a_message_is_a_block(nowhere: str, field: str, value: Any) -> None:
    """The client returns it without a call and without an exception."""
    with client(nowhere, fail_mode="open") as agent:
        decision = agent.evaluate_action("api.read", **{field: value})
    assert not decision
    assert decision.error_code == "INVALID_ARGUMENT"
    assert decision.field in (field, "action")


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
def test_a_closed_client_blocks(nowhere: str, fail_mode: str) -> None:
    """It raises nothing, because a stopping agent may still use it."""
    agent = client(nowhere, fail_mode=fail_mode)
    agent.close()
    decision = agent.evaluate_action("api.read")
    assert (decision.allowed, decision.error_code) == (fail_mode == "open", "CANCELLED")
    assert agent.wait_for_approval("a-1").state == "unknown"


async def test_an_answer_that_cannot_be_read_is_a_block(way: str) -> None:
    """In both fail modes, because the content of the answer is unknown."""
    answer = pb.EvaluateResponse(outcome=pb.OUTCOME_ALLOW)
    answer.approval_expires_at.seconds = 10**15
    async with recording(way, answer) as (address, _):
        with client(address, fail_mode="open") as agent:
            decision = await off(lambda: agent.evaluate_action("api.read"))
    assert (decision.allowed, decision.error_code) == (False, "INTERNAL")


async def test_an_answer_says_that_people_were_asked_before(way: str) -> None:
    """Its approval is the pending one; by default it is not."""
    for pending in (False, True):
        answer = pb.EvaluateResponse(outcome=pb.OUTCOME_ESCALATE, approval_id="a1", approval_pending=pending)
        async with recording(way, answer) as (address, _):
            with client(address) as agent:
                decision = await off(lambda agent=agent: agent.evaluate_action("api.read"))
        assert (decision.approval_id, decision.approval_pending) == ("a1", pending)


async def test_a_large_number_of_a_policy_keeps_its_size(way: str) -> None:
    """It is not converted to 309 digits."""
    answer = pb.EvaluateResponse()
    answer.action_params.update({"n": 1e308, "whole": 3600})
    async with recording(way, answer) as (address, _):
        with client(address) as agent:
            decision = await off(lambda: agent.evaluate_action("api.read"))
    assert json.dumps(decision.action_params) == '{"n": 1e+308, "whole": 3600}'


@pytest.mark.parametrize("way", ["grpc+unix", "http+unix"])
async def test_it_connects_to_a_unix_socket(way: str, tmp_path: Path) -> None:
    """The address has the form of the sidecar's flag."""
    places = {
        "listen": (Address(path=str(tmp_path / "grpc.sock")),),
        "http": (Address(path=str(tmp_path / "http.sock")),),
    }
    async with sidecar(settings(tmp_path, "127.0.0.1:1", **places)):
        with client(on_socket(way, tmp_path / f"{way.partition('+')[0]}.sock")) as agent:
            decision = await off(lambda: agent.evaluate_action("api.read"))
    assert "no registry data" in decision.message


@pytest.mark.parametrize("variable", ["PDP_ADDRESS", "PDP_HTTP_ADDRESS"])
async def test_the_environment_names_the_default_address(
    way: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An injected sidecar is found without a setting; `PDP_HTTP_ADDRESS` takes addresses of HTTP alone."""
    async with recording(way) as (address, requests):
        monkeypatch.setenv(variable, address)
        if variable == "PDP_HTTP_ADDRESS" and way.startswith("grpc"):
            with pytest.raises(ValueError, match=f"`PDP_HTTP_ADDRESS`: `{address}` is not one of"):
                AscendClient("owkai_none", AGENT, "Test")
            return
        with AscendClient("owkai_none", AGENT, "Test") as agent:
            await off(lambda: agent.evaluate_action("api.read"))
    assert len(requests) == 1


async def test_http_is_preferred_where_the_environment_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over both."""
    async with recording("grpc") as (grpc_address, by_grpc), recording("http") as (http_address, by_http):
        monkeypatch.setenv("PDP_ADDRESS", grpc_address)
        monkeypatch.setenv("PDP_HTTP_ADDRESS", http_address)
        for argument in (None, grpc_address):
            with AscendClient("owkai_none", AGENT, "Test", pdp_address=argument) as agent:
                await off(lambda agent=agent: agent.evaluate_action("api.read"))
    assert (len(by_http), len(by_grpc)) == (1, 1)


@pytest.mark.parametrize("variable", ["PDP_ADDRESS", "PDP_HTTP_ADDRESS", None])
@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://localhost", "`{}` is not one of `http://HOST:PORT`, `https://HOST:PORT` or `http+unix:PATH`"),
        ("http://localhost:8181/v1", "`{}` is not one of"),
        ("http://me@localhost:8181", "`{}` is not one of"),
        ("http://::1:8181", "`{}` is not one of"),
        ("http+unix:", "`{}` is not one of"),
        ("https://localhost:65536", "port `65536` is not within 1 to 65535"),
        ("http://localhost:0", "port `0` is not within 1 to 65535"),
        (f"http+unix:/{'x' * 107}", "the path in `{}` is longer than 107 bytes"),
    ],
)
def test_a_wrong_address_of_http_is_refused(
    variable: str | None, address: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of its argument or variable."""
    if variable is not None:
        monkeypatch.setenv(variable, address)
    with pytest.raises(ValueError) as refused:
        AscendClient("", AGENT, "Test", pdp_address=None if variable else address)
    assert str(refused.value).startswith(f"`{variable or 'pdp_address'}`: {problem.format(address)}")


def test_a_unix_socket_takes_no_files_of_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name them for other sidecars."""
    monkeypatch.setenv("PDP_CA", "/nonexistent")
    for way in ("grpc+unix", "http+unix"):
        with client(NOWHERE[way]) as agent:
            assert agent.evaluate_action("api.read").error_code == "UNAVAILABLE"


@pytest.mark.parametrize("way", ["grpc+unix", "http+unix"])
async def test_the_client_reconnects_to_a_restarted_sidecar(way: str, tmp_path: Path, central: Central) -> None:
    """The same client works with the new sidecar."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    places = {
        "listen": (Address(path=str(tmp_path / "grpc.sock")),),
        "http": (Address(path=str(tmp_path / "http.sock")),),
    }
    here = settings(tmp_path, central.grpc_address, **places)

    async def ask() -> Decision:
        return await off(lambda: agent.evaluate_action("api.read", "banking_api", risk_score=10))

    with client(on_socket(way, tmp_path / f"{way.partition('+')[0]}.sock")) as agent:
        for _ in range(2):
            assert not await ask()
            async with sidecar(here):
                await eventually_gives(ask, bool)


async def test_an_agent_registers_itself_and_a_second_time_is_no_error(central: Central) -> None:
    """The record comes back both times, and the second changes nothing."""
    with client(ALONE, api_key=await agent_key(central), registry_url=f"http://{central.rest.address}/") as agent:
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
    with (
        client(ALONE, registry_url=url) as agent,
        pytest.raises(RegistryError, match="answered 401") as refusal,
    ):
        await off(agent.register)
    assert refusal.value.status == 401
    key = await agent_key(central)
    wrong = pytest.raises(RegistryError, match="agent_type: `wizard` is not one of")
    with client(ALONE, registry_url=url, api_key=key) as agent, wrong:
        await off(lambda: agent.register(agent_type="wizard"))
    unreachable = pytest.raises(RegistryError, match="cannot reach the registry")
    with client(ALONE, registry_url=NOWHERE["http"]) as agent, unreachable as refusal:
        await off(agent.register)
    assert refusal.value.status == 0
    with client(ALONE) as agent, pytest.raises(ValueError, match="`registry_url` is required"):
        agent.register()


async def test_the_first_action_registers_an_unknown_agent(way: str, central: Central, beside: Beside) -> None:
    """The client waits until the sidecar knows the agent, and then gets a decision."""
    await beside.sidecar.ready.wait()
    key = await agent_key(central)
    with client(at(beside, way), api_key=key, registry_url=f"http://{central.rest.address}") as agent:
        decision = await off(lambda: agent.evaluate_action("api.read", risk_score=10))
    assert (decision.outcome, decision.reason) == (Outcome.ALLOW, "RISK_BELOW_AUTO_APPROVE")
    record = await central.rest.call("GET", f"/api/agents/registry/{AGENT}")
    assert record.body["display_name"] == "Test"


async def test_a_registry_that_refuses_leaves_the_block(
    way: str, central: Central, beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    """Each action is answered, and the registry is not asked again at each of them."""
    await beside.sidecar.ready.wait()
    url = f"http://{central.rest.address}"
    with client(at(beside, way), registry_url=url, fail_mode="open") as agent:
        reasons = [(await off(lambda: agent.evaluate_action("api.read"))).reason for _ in range(3)]
    assert reasons == ["AGENT_NOT_REGISTERED"] * 3
    assert sum("is not registered" in record.message for record in caplog.records) == 1


async def test_threads_may_share_a_client(way: str, central: Central, beside: Beside) -> None:
    """Each gets its own answer, and together they count exactly."""
    await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
    await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
    with client(at(beside, way)) as agent, futures.ThreadPoolExecutor(8) as threads:
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
        agent = kind("", AGENT, "Test", pdp_address=ALONE, fail_mode=argument)
        decision = agent.evaluate_action("api.read")
        assert bool(await decision if kind is AsyncAscendClient else decision) == allowed
        closing = agent.close()
        if closing is not None:
            await closing
    monkeypatch.setenv("PDP_FAIL_MODE", "ajar")
    with pytest.raises(ValueError, match="`PDP_FAIL_MODE`: `ajar` is not one of closed, open"):
        kind("", AGENT, "Test")


@pytest.mark.parametrize(
    ("address", "imported"),
    [("http+unix:/nonexistent", ""), ("http://127.0.0.1:1", ""), ("unix:/nonexistent", "asyncio grpc")],
)
def test_a_client_imports_what_it_uses(address: str, imported: str) -> None:
    """grpcio for an address of gRPC, what calls the registry where one is named, fakes where a test asks for them."""
    program = f"""
import sys, ascend
with ascend.AscendClient("", "a", "", pdp_address="{address}") as client:
    assert client.evaluate_action("api.read").error_code == "UNAVAILABLE"
print(*sorted({{"grpc", "urllib3", "asyncio", "ascend.registry", "ascend.testing"}} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == imported
    assert ascend.Registry.__module__ == "ascend.registry"
    with pytest.raises(AttributeError, match="module `ascend` has no attribute `Registries`"):
        _ = ascend.Registries


@pytest.mark.parametrize(("setting", "value"), [("fail_mode", "ajar"), ("timeout", 0), ("timeout", float("nan"))])
def test_a_wrong_setting_of_the_client_is_refused(setting: str, value: object) -> None:
    """At once, with its name."""
    with pytest.raises(ValueError, match=f"`{setting}`"):
        client(ALONE, **{setting: value})


class Recorder:
    """A decision point that keeps its requests, and gives this answer or fails with this code."""

    def __init__(self, answer: pb.EvaluateResponse | grpc.StatusCode, details: str) -> None:
        self.requests: list[pb.EvaluateRequest] = []
        self.answer = answer
        self._details = details

    def handlers(self) -> grpc.GenericRpcHandler:
        handlers = {"Evaluate": grpc.unary_unary_rpc_method_handler(self._evaluate)}
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def at_once(self, raw: bytes) -> None:
        """It answers nothing at once."""

    async def _evaluate(self, raw: bytes, context: Any) -> bytes:
        self.requests.append(pb.EvaluateRequest.FromString(raw))
        if isinstance(self.answer, grpc.StatusCode):
            await context.abort(self.answer, self._details)
        return self.answer.SerializeToString()


@asynccontextmanager
async def recording(
    way: str, answer: pb.EvaluateResponse | grpc.StatusCode = ALLOWED, details: str = "as the test says"
) -> AsyncIterator[tuple[str, list[pb.EvaluateRequest]]]:
    """The address of a `Recorder`, and its requests."""
    recorder = Recorder(answer, details)
    async with offered(recorder, way) as address:
        yield address, recorder.requests
