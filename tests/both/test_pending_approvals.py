"""One approval, five sidecars, two stores: asked once, found by all, used once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pdp.v1 import decision_pb2 as pb
from tests.both.test_approvals import decide, shown
from tests.waiting import BOUND_SECONDS, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Beside, Central, settings, sidecar, store

SIDECARS, USES = 5, 50
PAYMENT = {"agent_id": AGENT, "action_type": "transaction.process", "resource": "banking_api", "amount": 15000}


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of the machine does not make the store seem slow."""
    for name in ("FIND_SECONDS", "USE_SECONDS"):
        monkeypatch.setattr(f"pdp.sync.uplink.{name}", BOUND_SECONDS)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Central, Central]]:
    """Two stores on one database."""
    async with store(tmp_path) as one, store(tmp_path) as other:
        await one.rest.call("POST", "/api/agents/registry", FINANCIAL)
        await one.rest.call("POST", f"/api/agents/registry/{AGENT}/policies", HIGH_VALUE)
        yield one, other


@pytest.fixture
async def pods(tmp_path: Path, stores: tuple[Central, Central]) -> AsyncIterator[list[Beside]]:
    """Sidecars of both stores that decide by the policy."""
    async with AsyncExitStack() as stack:
        pods = []
        for number in range(SIDECARS):
            wanted = settings(tmp_path, stores[number % 2].grpc_address, data_dir=tmp_path / f"sidecar-{number}")
            pods.append(await stack.enter_async_context(sidecar(wanted)))
        for pod in pods:
            await pod.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        yield pods


async def ask(pod: Beside, **beside: Any) -> pb.EvaluateResponse:
    return await pod.stub.Evaluate(pb.EvaluateRequest(action=pb.Action(**PAYMENT), **beside), timeout=BOUND_SECONDS)


async def pending(central: Central) -> list[str]:
    found = (await central.rest.call("GET", "/api/approvals?status=pending")).body["approvals"]
    return [one["approval_id"] for one in found]


async def test_every_sidecar_gives_the_approval_that_is_pending(
    stores: tuple[Central, Central], pods: list[Beside]
) -> None:
    """Once the store has it, whichever sidecar opened it; it is asked anew after people have decided."""
    first = await ask(pods[0])
    await shown(stores[0], first.approval_id)
    others = await asyncio.gather(*(ask(pod) for pod in pods))
    assert {(one.approval_id, one.approval_pending) for one in others} == {(first.approval_id, True)}
    assert await pending(stores[1]) == [first.approval_id]
    await decide(stores[1], first.approval_id, "deny", "paid already")
    anew = await ask(pods[1])
    assert (anew.approval_pending, anew.approval_id != first.approval_id) == (False, True)


async def test_fifty_uses_by_five_sidecars_of_two_stores_are_one_allow(
    stores: tuple[Central, Central], pods: list[Beside]
) -> None:
    """All ask at once at first, and whatever id each got is the same approval, that allows the action once."""
    asked = {one.approval_id for one in await asyncio.gather(*(ask(pod) for pod in pods))}
    for approval_id in asked:
        await shown(stores[0], approval_id)
    (opened,) = await eventually_gives(lambda: pending(stores[0]), lambda found: len(found) == 1)
    await decide(stores[0], opened, "approve", "checked")
    names = sorted(asked)
    uses = [ask(pods[number % SIDECARS], approval_id=names[number % len(names)]) for number in range(USES)]
    answers = await asyncio.gather(*uses)
    allowed = [answer for answer in answers if answer.outcome == pb.OUTCOME_ALLOW]
    assert [answer.reason for answer in allowed] == [pb.REASON_APPROVED]
    assert {answer.outcome for answer in answers if answer not in allowed} == {pb.OUTCOME_REQUIRE_APPROVAL}
