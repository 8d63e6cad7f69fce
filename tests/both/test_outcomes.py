"""Outcomes from a real sidecar to a real store, through restarts and while the store is away."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from pdp.v1 import decision_pb2 as pb
from tests.ports import reserved
from tests.waiting import eventually_gives
from tests.whole import AGENT, FINANCIAL, Answer, Beside, Central, settings, sidecar, store

REGISTRY = f"/api/agents/registry/{AGENT}"
BUDGET = {"max_daily_budget_usd": 100, "auto_suspend_enabled": True, "auto_suspend_on_budget_exceeded": True}


async def register(central: Central) -> None:
    """The agent, with a budget that suspends it."""
    answer = await central.rest.call("POST", "/api/agents/registry", FINANCIAL | BUDGET)
    assert answer.status == 201, answer


async def report(beside: Beside, decision_id: str, result: str = "succeeded", **fields: Any) -> Answer:
    """An outcome, over HTTP."""
    return await beside.http.call("POST", "/v1/outcomes", {"decision_id": decision_id, "result": result, **fields})


async def test_an_outcome_is_at_the_store_and_in_the_usage(tmp_path: Path) -> None:
    """The action cost more than was estimated, and failed."""
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(1)
            answer = await beside.evaluate(risk_score=10, estimated_cost_usd=2.0)
            failed = {"actual_cost_usd": 2.5, "error": "timed out"}
            taken = await report(beside, answer.decision_id, "failed", **failed)
            again = await report(beside, answer.decision_id)
            assert (taken.body, again.body) == ({"repeated": False}, {"repeated": True})
            assert (await beside.evaluate(dry_run=True)).budget_remaining_usd == 97.5

            async def told() -> Answer:
                return await central.rest.call("GET", f"/api/decisions/{answer.decision_id}")

            found = await eventually_gives(told, lambda one: one.status == 200 and one.body["outcome"])
            usage = (await central.rest.call("GET", f"{REGISTRY}/usage")).body
    assert failed.items() <= found.body["outcome"].items()
    assert (found.body["outcome"]["result"], usage["error_rate"], usage["spent_today_usd"]) == ("failed", 1.0, 2.5)


async def test_a_restarted_sidecar_takes_the_outcome_of_an_earlier_decision(tmp_path: Path) -> None:
    """Its budget is settled, without the store too; what was reported is still a repeat."""
    async with store(tmp_path) as central:
        await register(central)
        given = settings(tmp_path, central.grpc_address)
        async with sidecar(given) as beside:
            await beside.sidecar.reached(1)
            open_one = await beside.evaluate(risk_score=10, estimated_cost_usd=10.0)
            reported = await beside.evaluate(risk_score=10, estimated_cost_usd=10.0)
            await report(beside, reported.decision_id, actual_cost_usd=1.0)
    async with sidecar(given) as beside:
        assert (await beside.evaluate(dry_run=True)).budget_remaining_usd == 89.0
        assert (await report(beside, open_one.decision_id, actual_cost_usd=20.0)).body == {"repeated": False}
        assert (await report(beside, reported.decision_id)).body == {"repeated": True}
        assert (await beside.evaluate(dry_run=True)).budget_remaining_usd == 79.0


async def test_a_suspension_survives_a_restart_without_the_store(tmp_path: Path) -> None:
    """The agent stays suspended there; once the store is back, it is suspended everywhere, once."""
    with reserved() as address:
        async with store(tmp_path, address) as central:
            await register(central)
            given = settings(tmp_path, central.grpc_address)
            async with sidecar(given) as beside:
                await beside.sidecar.reached(1)
                await beside.evaluate(dry_run=True)
        async with sidecar(given) as beside:
            refused = await beside.evaluate(risk_score=10, estimated_cost_usd=100.01)
            assert refused.reason == pb.REASON_BUDGET_EXCEEDED
            assert await beside.reason() == "AGENT_NOT_ACTIVE"
        async with sidecar(given) as beside:
            assert await beside.reason() == "AGENT_NOT_ACTIVE"
        async with store(tmp_path, address) as central, sidecar(given) as beside:

            async def agent() -> Answer:
                return await central.rest.call("GET", REGISTRY)

            await eventually_gives(agent, lambda answer: answer.body["status"] == "suspended")
            assert await beside.reason() == "AGENT_NOT_ACTIVE"
            await central.rest.call("POST", f"{REGISTRY}/activate")
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
            log = await central.rest.call("GET", f"{REGISTRY}/activity?type=suspended")
            assert log.body["total"] == 1


async def test_a_decision_of_another_sidecar_is_not_this_ones(tmp_path: Path) -> None:
    """The store knows it; what nobody decided is unknown to both."""
    async with store(tmp_path) as central:
        await register(central)
        one = settings(tmp_path, central.grpc_address)
        other = settings(tmp_path, central.grpc_address, data_dir=tmp_path / "other")
        async with sidecar(one) as beside, sidecar(other) as elsewhere:
            await beside.sidecar.reached(1)
            await elsewhere.sidecar.reached(1)
            answer = await beside.evaluate(risk_score=10)
            blocked = await beside.evaluate(resource="production_secrets")

            async def status(decision_id: str) -> str:
                request = pb.ReportOutcomeRequest(decision_id=decision_id, result=pb.ACTION_RESULT_SUCCEEDED)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await elsewhere.stub.ReportOutcome(request)
                return str(raised.value.code().name)

            for decision_id in (answer.decision_id, blocked.decision_id):
                await eventually_gives(lambda of=decision_id: status(of), lambda name: name == "PERMISSION_DENIED")
            assert await status("019ca6b1-dc00-7000-8000-000000000000") == "NOT_FOUND"
            assert (await report(beside, answer.decision_id)).body == {"repeated": False}
