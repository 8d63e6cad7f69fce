"""Approvals and the decision log end to end: a real store and sidecar, people over REST, the runtime over gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ascend import AgentAction, Approval, AscendClient, Decision
from tests.ports import reserved
from tests.waiting import BOUND_SECONDS, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Beside, Central, settings, sidecar, store

PAYMENT = AgentAction(action_type="transaction.process", resource="banking_api", amount=15000)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of the machine does not make the store seem unreachable."""
    for name in ("FIND_SECONDS", "USE_SECONDS"):
        monkeypatch.setattr(f"pdp.sync.uplink.{name}", BOUND_SECONDS)


@pytest.fixture
async def central(tmp_path: Path) -> AsyncIterator[Central]:
    async with store(tmp_path) as central:
        await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
        await central.rest.call("POST", f"/api/agents/registry/{AGENT}/policies", HIGH_VALUE)
        yield central


@pytest.fixture
async def beside(tmp_path: Path, central: Central) -> AsyncIterator[Beside]:
    async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        yield beside


class Runtime:
    """An agent's client, called where it does not block the servers of this test."""

    def __init__(self, beside: Beside) -> None:
        self._client = AscendClient("", AGENT, "Test", pdp_address=beside.sidecar.grpc_address, timeout=BOUND_SECONDS)

    async def ask(self, action: AgentAction = PAYMENT, **beside: Any) -> Decision:
        return await asyncio.to_thread(lambda: self._client.evaluate(action, **beside))

    async def wait(self, decision: Decision, seconds: float = BOUND_SECONDS) -> Approval:
        return await asyncio.to_thread(self._client.wait_for_approval, decision, seconds)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
async def runtime(beside: Beside) -> AsyncIterator[Runtime]:
    runtime = Runtime(beside)
    yield runtime
    runtime.close()


async def shown(central: Central, approval_id: str) -> dict[str, Any]:
    """The approval as the registry shows it, once it is there."""
    path = f"/api/approvals/{approval_id}"
    answer = await eventually_gives(lambda: central.rest.call("GET", path), lambda answer: answer.status == 200)
    found: dict[str, Any] = answer.body
    return found


async def decide(central: Central, approval_id: str, how: str, comment: str) -> None:
    await shown(central, approval_id)
    answer = await central.rest.call("POST", f"/api/approvals/{approval_id}/{how}", {"comment": comment})
    assert answer.status == 200, answer.body


async def test_an_approved_action_passes_once(central: Central, runtime: Runtime) -> None:
    """From the first decision and the approval to the allow; then the approval is used up."""
    held = await runtime.ask()
    assert (held.outcome, held.reason) == ("require_approval", "POLICY_MATCHED")
    approval = await shown(central, held.approval_id)
    assert (approval["status"], approval["agent_id"], approval["decision_id"]) == ("pending", AGENT, held.decision_id)
    assert (approval["action"]["amount"], approval["approvers"]) == (15000, ["finance-approvers"])
    waiting = asyncio.create_task(runtime.wait(held))
    await decide(central, held.approval_id, "approve", "checked")
    approved = await waiting
    assert (bool(approved), approved.comment, approved.decided_by) == (True, "checked", "test")
    first = await runtime.ask(approval_id=held.approval_id)
    second = await runtime.ask(approval_id=held.approval_id)
    assert (first.outcome, first.reason) == ("allow", "APPROVED")
    assert (second.outcome, second.approval_id) == ("require_approval", held.approval_id)
    assert (await shown(central, held.approval_id))["status"] == "used"


async def test_a_denied_action_does_not_pass(central: Central, runtime: Runtime) -> None:
    """Its runtime gets the comment."""
    held = await runtime.ask()
    waiting = asyncio.create_task(runtime.wait(held))
    await decide(central, held.approval_id, "deny", "paid already")
    denied = await waiting
    assert (bool(denied), denied.state, denied.comment) == (False, "denied", "paid already")
    again = await runtime.ask(approval_id=held.approval_id)
    assert again.outcome == "require_approval"
    assert again.message.endswith("paid already")


async def test_a_changed_action_is_not_approved(central: Central, runtime: Runtime) -> None:
    """It is blocked, and the approval stays usable for its action."""
    held = await runtime.ask()
    await decide(central, held.approval_id, "approve", "checked")
    larger = AgentAction(action_type="transaction.process", resource="banking_api", amount=15000.01)
    assert (await runtime.ask(larger, approval_id=held.approval_id)).reason == "APPROVAL_MISMATCH"
    assert (await runtime.ask(approval_id=held.approval_id)).reason == "APPROVED"


async def test_an_approval_is_valid_at_the_sidecar_of_the_next_pod(
    tmp_path: Path, central: Central, beside: Beside
) -> None:
    """The first pod may be gone by then."""
    first = Runtime(beside)
    held = await first.ask()
    await decide(central, held.approval_id, "approve", "checked")
    first.close()
    other = settings(tmp_path, central.grpc_address, data_dir=tmp_path / "other")
    async with sidecar(other) as next_one:
        await next_one.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        second = Runtime(next_one)
        assert await second.wait(held)
        assert (await second.ask(approval_id=held.approval_id)).reason == "APPROVED"
        second.close()


async def test_an_approval_opened_during_an_outage_reaches_the_store_later(tmp_path: Path) -> None:
    """Decisions continue, the request waits on disk, and the runtime's wait survives the outage."""
    folder = tmp_path / "central"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        address = stack.enter_context(reserved())
        async with store(folder, address) as central:
            await central.rest.call("POST", "/api/agents/registry", FINANCIAL)
            await central.rest.call("POST", f"/api/agents/registry/{AGENT}/policies", HIGH_VALUE)
            beside = await stack.enter_async_context(sidecar(settings(tmp_path, address, key_file=central.key_file)))
            await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        runtime = Runtime(beside)
        stack.callback(runtime.close)
        held = await runtime.ask()
        waiting = asyncio.create_task(runtime.wait(held, 3 * BOUND_SECONDS))
        assert (await runtime.ask(approval_id=held.approval_id)).message.endswith("cannot be used now")
        async with store(folder, address) as central:
            await decide(central, held.approval_id, "approve", "late, but well")
            assert (await waiting).comment == "late, but well"
            assert (await runtime.ask(approval_id=held.approval_id)).reason == "APPROVED"


async def test_every_decision_is_in_the_registry(central: Central, runtime: Runtime) -> None:
    """With its action, answer and cost; a repeated key is one decision, and a dry run is marked."""
    began = time.monotonic()
    allowed = await runtime.ask(AgentAction(action_type="api.read", resource="banking_api", risk_score=10))
    kept, repeated = [await runtime.ask(idempotency_key="k") for _ in range(2)]
    assert kept == repeated
    tried = await runtime.ask(dry_run=True)
    took = time.monotonic() - began
    wanted = {allowed.decision_id, kept.decision_id, tried.decision_id}

    async def found() -> dict[str, Any]:
        listed = (await central.rest.call("GET", f"/api/decisions?agent_id={AGENT}&limit=500")).body["decisions"]
        return {one["decision_id"]: one for one in listed}

    decisions = await eventually_gives(found, lambda found: wanted <= found.keys())
    assert decisions[allowed.decision_id]["action"]["risk_score"] == 10
    assert decisions[kept.decision_id]["answer"]["approval_id"] == kept.approval_id
    assert [decisions[one.decision_id]["dry_run"] for one in (allowed, kept, tried)] == [False, False, True]
    assert all(0 < decisions[decision_id]["latency_seconds"] < took for decision_id in wanted)
