"""Two sidecars and a store: what one sidecar sees suspends the agent at both, once, until a person activates it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from pdp.core.model import Reason
from pdp.settings import Subscription
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from registry_store.metrics import Metrics
from registry_store.offline import REFRESH, OfflineWatch
from tests import whole
from tests.registry_store.serving import Rest, Served
from tests.waiting import eventually, eventually_gives

REGISTRY = "/api/agents/registry"
ALLOWED, SUSPENDED = "RISK_BELOW_AUTO_APPROVE", "AGENT_NOT_ACTIVE"
FREE = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")} | {"auto_suspend_enabled": True}


class Two(NamedTuple):
    """Two sidecars that serve an agent, which is active."""

    agent_id: str
    stubs: tuple[PolicyDecisionPointStub, PolicyDecisionPointStub]
    node_ids: tuple[str, str]
    stops: tuple[AsyncExitStack, AsyncExitStack]
    admin: Rest

    async def decide(self, at: int, **fields: Any) -> pb.EvaluateResponse:
        """A decision of one of them."""
        dry_run = fields.pop("dry_run", False)
        action = pb.Action(**{"agent_id": self.agent_id, "action_type": "api.read", "risk_score": 1} | fields)
        return await self.stubs[at].Evaluate(pb.EvaluateRequest(action=action, dry_run=dry_run))

    async def reason(self, at: int, **fields: Any) -> str:
        """Why one of them would decide as it does."""
        return Reason((await self.decide(at, **{"dry_run": True} | fields)).reason).name

    async def until(self, reason: str) -> None:
        """Both give this reason."""
        for at in (0, 1):
            await eventually_gives(lambda at=at: self.reason(at), lambda given: given == reason)

    async def end(self, at: int, *, failures: int) -> None:
        """Actions at one of them that fail."""
        for _ in range(failures):
            decision_id = (await self.decide(at)).decision_id
            report = pb.ReportOutcomeRequest(decision_id=decision_id, result=pb.ACTION_RESULT_FAILED)
            await self.stubs[at].ReportOutcome(report)

    async def get(self, path: str = "") -> Any:
        """What the store tells of the agent."""
        return (await asyncio.to_thread(self.admin.get, f"{REGISTRY}/{self.agent_id}{path}")).body

    async def activate(self) -> None:
        """A person activates the agent."""
        answer = await asyncio.to_thread(self.admin.post, f"{REGISTRY}/{self.agent_id}/activate")
        assert answer.status == 200

    async def causes(self) -> list[dict[str, Any]]:
        """What the log says of suspensions, newest first: trigger, figures, and the sidecar that saw it."""
        entries = (await self.get("/activity?type=suspended"))["activities"]
        assert {(one["performed_by"], one["performed_via"]) for one in entries} <= {("system", "system")}
        return [{name: one["new_state"][name] for name in ("trigger", "figures", "node_id")} for one in entries]


@asynccontextmanager
async def two(store: Served, admin: Rest, folder: Path, **fields: Any) -> AsyncIterator[Two]:
    """An active agent with these fields, and two sidecars for it alone."""
    agent_id = f"watched-{secrets.token_hex(4)}-prod"
    key = await asyncio.to_thread(store.key, "sidecar")
    await asyncio.to_thread(lambda: admin.register(agent_id, **FREE | fields))
    await asyncio.to_thread(admin.post, f"{REGISTRY}/{agent_id}/activate")
    stubs, stops, node_ids = [], [], []
    async with AsyncExitStack() as all_of_them:
        for name in ("one", "two"):
            place = folder / name
            place.mkdir()
            (place / "sidecar.key").touch(0o600)
            (place / "sidecar.key").write_text(key)
            settings = whole.settings(place, store.running.grpc_address, subscription=Subscription(agents=(agent_id,)))
            stop = await all_of_them.enter_async_context(AsyncExitStack())
            beside = await stop.enter_async_context(whole.sidecar(settings))
            stubs.append(beside.stub)
            stops.append(stop)
            node_ids.append((place / "sidecar" / "node-id").read_text().strip())
        made = Two(agent_id, (stubs[0], stubs[1]), (node_ids[0], node_ids[1]), (stops[0], stops[1]), admin)
        for at in (0, 1):
            await eventually_gives(lambda at=at: _served(made, at), bool)
        yield made


async def _served(made: Two, at: int) -> bool:
    try:
        return await made.reason(at) == ALLOWED
    except grpc.aio.AioRpcError:
        return False


async def test_a_rate_that_is_exceeded_at_one_suspends_at_both(store: Served, admin: Rest, tmp_path: Path) -> None:
    """Once, with its figures; after the activation what was counted before suspends no more."""
    limited = {"max_actions_per_hour": 2, "auto_suspend_on_rate_exceeded": True}
    async with two(store, admin, tmp_path, **limited) as both:
        for reason in (ALLOWED, ALLOWED, "RATE_LIMIT_EXCEEDED", SUSPENDED):
            assert await both.reason(0, dry_run=False) == reason
        await both.until(SUSPENDED)
        figures = {"window": "hour", "actions": 2, "limit": 2}
        expected = [{"trigger": "rate_exceeded", "figures": figures, "node_id": both.node_ids[0]}]
        assert await both.causes() == expected
        await both.activate()
        await eventually_gives(lambda: both.reason(1), lambda given: given == ALLOWED)
        await eventually_gives(lambda: both.reason(0), lambda given: given == "RATE_LIMIT_EXCEEDED")
        assert await both.reason(0, dry_run=False) == "RATE_LIMIT_EXCEEDED"
        assert (await both.get())["status"] == "active"
        for reason in (ALLOWED, ALLOWED, "RATE_LIMIT_EXCEEDED"):
            assert await both.reason(1, dry_run=False) == reason
        await both.until(SUSPENDED)
        assert await both.causes() == [expected[0] | {"node_id": both.node_ids[1]}, *expected]


async def test_a_budget_that_is_exceeded_at_one_suspends_at_both(store: Served, admin: Rest, tmp_path: Path) -> None:
    """With what was spent, would have been spent, and might be."""
    async with two(store, admin, tmp_path, max_daily_budget_usd=10, auto_suspend_on_budget_exceeded=True) as both:
        await both.decide(1, estimated_cost_usd=8.0)
        assert await both.reason(1, dry_run=False, estimated_cost_usd=3.0) == "BUDGET_EXCEEDED"
        await both.until(SUSPENDED)
        await eventually_gives(both.causes, bool)
        figures = {"spent_micros": 8_000_000, "cost_micros": 3_000_000, "budget_micros": 10_000_000}
        assert await both.causes() == [{"trigger": "budget_exceeded", "figures": figures, "node_id": both.node_ids[1]}]


async def test_failures_at_both_add_up(store: Served, admin: Rest, tmp_path: Path) -> None:
    """Neither saw twenty outcomes; the store did. After the activation both start anew."""
    async with two(store, admin, tmp_path, auto_suspend_on_error_rate=0.5) as both:
        await both.end(0, failures=10)
        await both.end(1, failures=9)
        await eventually_gives(lambda: both.get("/usage"), lambda usage: usage["error_rate"] == 1.0)
        assert (await both.get())["status"] == "active"
        await both.end(1, failures=1)
        await both.until(SUSPENDED)
        figures = {"failed": 20, "reported": 20, "limit": 0.5}
        assert await both.causes() == [{"trigger": "error_rate", "figures": figures, "node_id": None}]
        await both.activate()
        await both.until(ALLOWED)
        await both.end(0, failures=10)
        await both.end(1, failures=9)
        assert await both.reason(0) == await both.reason(1) == ALLOWED
        await both.end(0, failures=1)
        await both.until(SUSPENDED)
        assert len(await both.causes()) == 2


async def test_failures_at_one_suspend_at_both(store: Served, admin: Rest, tmp_path: Path) -> None:
    """There at once, at the other one through the store."""
    async with two(store, admin, tmp_path, auto_suspend_on_error_rate=0.5) as both:
        await both.end(0, failures=20)
        assert await both.reason(0) == SUSPENDED
        await both.until(SUSPENDED)
        (cause,) = await both.causes()
    assert (cause["trigger"], cause["figures"]["reported"]) == ("error_rate", 20)


async def test_an_agent_whose_last_sidecar_stops_is_suspended(store: Served, admin: Rest, tmp_path: Path) -> None:
    """Not while one of two serves it; the store's time is the test's."""
    async with two(store, admin, tmp_path, auto_suspend_on_offline_minutes=10) as both:
        sidecars = store.running._store.sidecars
        watch, now = OfflineWatch(store.running._store.database, sidecars, Metrics()), datetime.now(UTC)
        for at, status in ((0, "active"), (1, "suspended")):
            await both.stops[at].aclose()
            serving = sidecars.serving(both.agent_id, [])
            await eventually(lambda serving=serving, at=at: sum(one.connected for one in serving) == 1 - at)
            for _ in range(61):
                now += REFRESH
                store.run(watch.tick(now))
            assert (await both.get())["status"] == status
        (cause,) = await both.causes()
        assert (cause["trigger"], cause["figures"]["minutes"]) == ("offline", 10)
        assert now - datetime.fromisoformat(cause["figures"]["last_served_at"]) > timedelta(minutes=10)
