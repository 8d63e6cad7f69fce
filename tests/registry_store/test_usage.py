"""What is known of an agent at work."""

from registry_store.subscriptions import Subscription
from tests.registry_store.serving import ALL, Served, in_thread, named, subscriber
from tests.waiting import eventually

REGISTRY = "/api/agents/registry"


async def test_usage_tells_which_sidecars_decide_for_an_agent(fresh: Served) -> None:
    """Connected or not, with what each has acknowledged; the last heard is the last seen; the rest is null."""
    admin = fresh.rest()
    await in_thread(admin.register, "usage-agent-prod", tags=["usage"])
    path = f"{REGISTRY}/usage-agent-prod/usage"
    assert (await in_thread(admin.get, path)).body["last_seen"] is None
    key = fresh.key("sidecar")
    async with (
        subscriber(fresh.running.grpc_address, key) as sidecar,
        subscriber(fresh.running.grpc_address, key) as other,
    ):
        await sidecar.hello(ALL, node_id="serving")
        await sidecar.snapshot()
        await other.hello(named("another-agent-prod"), node_id="not-serving")
        await other.snapshot()
        told = (await in_thread(admin.get, path)).body
    (serving,) = told["sidecars"]
    assert (serving["node_id"], serving["connected"], told["total"]) == ("serving", True, 1)
    assert told["last_seen"] == serving["last_heard_at"]
    assert {told[name] for name in ("actions_last_minute", "spent_today_usd", "error_rate")} == {None}
    await eventually(lambda: not admin.get(path).body["sidecars"][0]["connected"])
    assert admin.get(path).body["last_seen"] >= told["last_seen"]


def test_a_subscription_covers_its_agents_alone() -> None:
    """By name, by any of its tags, or every one."""
    by_name, by_tag = Subscription(agent_ids=frozenset({"one"})), Subscription(tags=frozenset({"red", "blue"}))
    assert (by_name.covers("one", ()), by_name.covers("two", ["red"])) == (True, False)
    assert (by_tag.covers("one", ["blue"]), by_tag.covers("one", ["green"])) == (True, False)
    assert Subscription().covers("any", ())
