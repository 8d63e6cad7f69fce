"""Sidecars with a wrong wall clock, set by libfaketime."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.hostile.faketime import skewed
from tests.hostile.installation import BUDGET_DOLLARS, HONEST, SPENDER, Installation, installed
from tests.waiting import eventually_gives


async def evaluate(installation: Installation, agent_id: str, **fields: object) -> pb.EvaluateResponse:
    address, _ = installation.sidecar_addresses[0]
    async with grpc.aio.insecure_channel(address) as channel:
        action = pb.Action(agent_id=agent_id, **{"action_type": "api.read", "risk_score": 1} | fields)
        return await PolicyDecisionPointStub(channel).Evaluate(pb.EvaluateRequest(action=action), timeout=30)


async def restart(installation: Installation, environment: Mapping[str, str]) -> None:
    """Stop the sidecar, and start it under another clock."""
    sidecar, (_, http_address) = installation.sidecars[0], installation.sidecar_addresses[0]
    await sidecar.stop()
    sidecar.set_environment(environment)
    sidecar.start()
    await installation.until_ready(http_address)


async def test_a_clock_in_the_future_does_not_change_todays_budget(tmp_path: Path) -> None:
    """What was spent today still counts after a clock that was 400 days ahead; what was spent then does not."""
    async with installed(tmp_path, sidecars=1) as installation:
        today = await evaluate(installation, SPENDER, estimated_cost_usd=1.0)
        await restart(installation, skewed("+400d"))
        ahead = await evaluate(installation, SPENDER, estimated_cost_usd=BUDGET_DOLLARS)
        await restart(installation, {})
        again = await evaluate(installation, SPENDER, estimated_cost_usd=1.0)
        whole = await evaluate(installation, SPENDER, estimated_cost_usd=BUDGET_DOLLARS - 1.0)
    assert today.budget_remaining_usd == BUDGET_DOLLARS - 1
    assert ahead.outcome == pb.OUTCOME_ALLOW
    assert again.outcome == pb.OUTCOME_ALLOW
    assert again.budget_remaining_usd == BUDGET_DOLLARS - 2
    assert whole.reason == pb.REASON_BUDGET_EXCEEDED
    assert today.decision_id < again.decision_id < ahead.decision_id


async def test_a_sidecar_two_hours_behind_opens_approvals_that_can_be_given(tmp_path: Path) -> None:
    """The store's clock decides how long people have."""
    async with installed(tmp_path, sidecars=1) as installation:
        await restart(installation, skewed("-2h"))
        asked = await evaluate(installation, HONEST, risk_score=50)
        path = f"/api/approvals/{asked.approval_id}"
        _, approval = await eventually_gives(
            lambda: installation.admin.answer("GET", path), lambda answer: answer[0] == 200
        )
        expires_at = datetime.fromisoformat(approval["expires_at"])
        assert approval["status"] == "pending"
        assert expires_at > datetime.now(UTC) + timedelta(minutes=30)
        await asyncio.sleep(1.5)  # the store marks what has expired each second
        assert (await installation.admin.call("POST", f"{path}/approve", {"comment": "x"}))["status"] == "approved"
