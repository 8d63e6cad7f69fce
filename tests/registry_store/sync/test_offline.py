"""Agents that no sidecar serves are suspended: once, over all stores, and not for a time that nobody watched."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry_store.metrics import Metrics
from registry_store.offline import INTERRUPTION, REFRESH, OfflineWatch
from registry_store.sync import presence
from registry_store.sync.presence import Served as LastServed
from registry_store.sync.sidecars import Sidecar, Sidecars
from registry_store.sync.subscriptions import Subscription
from tests.registry_store.serving import Rest, Served

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
REGISTRY = "/api/agents/registry"
WATCHED: dict[str, Any] = {"auto_suspend_enabled": True, "auto_suspend_on_offline_minutes": 2}


class Watch:
    """A further store on the database, whose time and sidecars are the test's."""

    def __init__(self, store: Served) -> None:
        self.sidecars = Sidecars()
        self._store = store
        self._watch = OfflineWatch(store.running._store.database, self.sidecars, Metrics())
        self.now = datetime.now(UTC)

    def connect(self, node_id: str, subscription: Subscription) -> Sidecar:
        """A sidecar connects now."""
        one = Sidecar(node_id, "key", "pod", "1", subscription, self.now, self.now)
        self.sidecars.connected(one)
        return one

    def tick(self) -> None:
        """Watch once."""
        for one in self.sidecars.all():
            if one.connected:
                one.last_heard_at = self.now
        self._store.run(self._watch.tick(self.now))

    def pass_time(self, duration: timedelta) -> None:
        """Watch every ten seconds meanwhile."""
        end = self.now + duration
        while self.now < end:
            self.now = min(self.now + REFRESH, end)
            self.tick()


def watched(admin: Rest, *agent_ids: str, **fields: Any) -> None:
    """Agents that are active, and watched."""
    for agent_id in agent_ids:
        admin.register(agent_id, **WATCHED | fields)
        assert admin.post(f"{REGISTRY}/{agent_id}/activate").status == 200


def statuses(admin: Rest, agent_ids: Iterable[str]) -> list[str]:
    """Of these agents."""
    return [admin.get(f"{REGISTRY}/{agent_id}").body["status"] for agent_id in agent_ids]


def entries(admin: Rest, agent_id: str) -> list[dict[str, Any]]:
    """The log entries of its suspensions."""
    found: list[dict[str, Any]] = admin.get(f"{REGISTRY}/{agent_id}/activity?type=suspended").body["activities"]
    return found


@pytest.fixture
def watch(store: Served, admin: Rest) -> Watch:
    """A store; agents of other tests are watched no more."""
    for one in admin.get(f"{REGISTRY}?status=active&limit=500").body["agents"]:
        admin.put(f"{REGISTRY}/{one['agent_id']}", {"auto_suspend_enabled": False})
    return Watch(store)


def test_an_agent_that_no_sidecar_serves_is_suspended(admin: Rest, watch: Watch) -> None:
    """From the moment that its last sidecar was heard, with that moment in the entry."""
    watched(admin, "silent-agent-prod", "other-agent-prod")
    one = watch.connect("node-silent", Subscription(frozenset({"silent-agent-prod"})))
    watch.connect("node-other", Subscription(frozenset({"other-agent-prod"})))
    watch.pass_time(3 * MINUTE)
    one.connected = False
    watch.pass_time(2 * MINUTE - SECOND)
    assert statuses(admin, ["silent-agent-prod", "other-agent-prod"]) == ["active", "active"]
    watch.pass_time(SECOND)
    assert statuses(admin, ["silent-agent-prod", "other-agent-prod"]) == ["suspended", "active"]
    (entry,) = entries(admin, "silent-agent-prod")
    assert entry["activity_description"] == "auto-suspended: no sidecar has served it for 2 minutes"
    assert (entry["performed_by"], entry["performed_via"]) == ("system", "system")
    figures = {"minutes": 2, "last_served_at": one.last_heard_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    assert entry["new_state"] == {"status": "suspended", "trigger": "offline", "figures": figures, "node_id": None}


@pytest.mark.parametrize(
    "subscription",
    [
        Subscription(),
        Subscription(frozenset({"covered-agent-prod"})),
        Subscription(tags=frozenset({"blue", "green"})),
        Subscription(frozenset({"covered-agent-prod"}), frozenset({"blue"})),
    ],
)
def test_any_subscription_that_covers_an_agent_serves_it(
    store: Served, admin: Rest, watch: Watch, subscription: Subscription
) -> None:
    """All, by id, by tag, or both; at this store, and at another one, until that store is gone for a while."""
    agent_id = "covered-agent-prod"
    if admin.get(f"{REGISTRY}/{agent_id}").status == 404:
        watched(admin, agent_id, tags=["blue"])
    admin.put(f"{REGISTRY}/{agent_id}", {"auto_suspend_enabled": True})
    other = Watch(store)
    other.connect("node-covering", subscription)
    for _ in range(15):
        watch.now = other.now = other.now + REFRESH
        other.tick()
        watch.tick()
    assert statuses(admin, [agent_id]) == ["active"]
    watch.pass_time(2 * MINUTE)
    assert statuses(admin, [agent_id]) == ["active"]
    watch.pass_time(MINUTE)
    assert statuses(admin, [agent_id]) == ["suspended"]
    admin.post(f"{REGISTRY}/{agent_id}/activate")


def test_several_stores_suspend_an_agent_once(store: Served, admin: Rest, watch: Watch) -> None:
    """And after its activation it has its minutes anew."""
    watched(admin, "once-agent-prod")
    other = Watch(store)
    for _ in range(13):
        watch.now = other.now = watch.now + REFRESH
        watch.tick()
        other.tick()
    assert (statuses(admin, ["once-agent-prod"]), len(entries(admin, "once-agent-prod"))) == (["suspended"], 1)
    admin.post(f"{REGISTRY}/once-agent-prod/activate")
    store.sql(f"UPDATE agents SET activated_at = '{watch.now:%Y-%m-%d %H:%M:%S+00}' WHERE agent_id = 'once-agent-prod'")
    watch.pass_time(MINUTE)
    assert statuses(admin, ["once-agent-prod"]) == ["active"]


def test_time_in_which_nobody_watched_does_not_count(admin: Rest, watch: Watch) -> None:
    """A store that was stopped, or without its database, says nothing of who was offline meanwhile."""
    watched(admin, "paused-agent-prod")
    watch.pass_time(MINUTE)
    watch.now += INTERRUPTION + SECOND
    watch.tick()
    watch.pass_time(2 * MINUTE - SECOND)
    assert statuses(admin, ["paused-agent-prod"]) == ["active"]
    watch.pass_time(SECOND)
    assert statuses(admin, ["paused-agent-prod"]) == ["suspended"]


@pytest.mark.parametrize("fields", [{"auto_suspend_enabled": False}, {"auto_suspend_on_offline_minutes": None}])
def test_an_agent_that_is_not_watched_stays_active(admin: Rest, watch: Watch, fields: dict[str, Any]) -> None:
    """Its own switch, or that of all triggers, is off."""
    agent_id = f"unwatched-{len(fields)}-{'enabled' if 'auto_suspend_enabled' in fields else 'minutes'}-prod"
    watched(admin, agent_id, "beside-unwatched-prod" if "enabled" in agent_id else "also-unwatched-prod")
    admin.put(f"{REGISTRY}/{agent_id}", fields)
    watch.pass_time(3 * MINUTE)
    assert statuses(admin, [agent_id]) == ["active"]


def test_a_newer_time_of_another_store_stays(store: Served, watch: Watch) -> None:
    """A sidecar that moved to another store is connected there, whatever its former store writes."""
    now, database = watch.now, store.running._store.database
    moved = watch.connect("node-moved", Subscription())

    async def write(at: datetime, *, connected: bool) -> tuple[datetime, bool]:
        moved.last_heard_at, moved.connected = at, connected
        async with database.beside() as session:
            await presence.write(session, [moved])
        async with database.reading() as session:
            rows = await presence.read(session, now - MINUTE)
        return next((row.heard_at, row.connected) for row in rows if row.node_id == "node-moved")

    assert store.run(write(now, connected=True)) == (now, True)
    assert store.run(write(now - SECOND, connected=False)) == (now, True)
    assert store.run(write(now + SECOND, connected=False)) == (now + SECOND, False)


def test_the_newest_time_of_all_ways_counts() -> None:
    """By id, by tag, by both, or as one of all."""
    now, served = datetime(2026, 3, 1, tzinfo=UTC), LastServed()
    assert served.last("a", ["t"]) is None
    served.note(Subscription(), now)
    served.note(Subscription(tags=frozenset({"t"})), now + SECOND)
    served.note(Subscription(frozenset({"a"})), now + 2 * SECOND)
    served.note(Subscription(frozenset({"a"})), now)
    served.note(Subscription(frozenset({"a", "b"}), frozenset({"u"})), now + 3 * SECOND)
    found = [served.last("a", ["t"]), served.last("b", ["t"]), served.last("c", []), served.last("b", ["u"])]
    assert found == [now + 2 * SECOND, now + SECOND, now, now + 3 * SECOND]
