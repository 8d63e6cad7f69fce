"""Usage of an agent: counts, spend and the sidecars that serve it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from registry_store import retention
from registry_store.decisions import usage
from registry_store.decisions.usage import MAX_MICROS, AgentUsage
from registry_store.documents import instant
from registry_store.sync.subscriptions import Subscription
from tests.registry_store.reporting import REASONS, decision, report, tell_usage_as_of
from tests.registry_store.serving import ALL, Served, in_thread, named, never, subscriber
from tests.waiting import eventually

REGISTRY = "/api/agents/registry"


@pytest.fixture(scope="module", autouse=True)
def kept_for_ever() -> Iterator[None]:
    """No store deletes the usage of these tests, whose dates are in the past."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "run", never)
        yield


async def test_usage_tells_which_sidecars_decide_for_an_agent(fresh: Served) -> None:
    """Connected or not, with what each has acknowledged; the last heard is the last seen."""
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
        body = (await in_thread(admin.get, path)).body
    (serving,) = body["sidecars"]
    assert (serving["node_id"], serving["connected"], body["total"]) == ("serving", True, 1)
    assert body["last_seen"] == serving["last_heard_at"]
    await eventually(lambda: not admin.get(path).body["sidecars"][0]["connected"])
    assert admin.get(path).body["last_seen"] >= body["last_seen"]


def test_a_subscription_covers_its_agents_alone() -> None:
    """By name, by any of its tags, or every one."""
    by_name, by_tag = Subscription(agent_ids=frozenset({"one"})), Subscription(tags=frozenset({"red", "blue"}))
    assert (by_name.covers("one", ()), by_name.covers("two", ["red"])) == (True, False)
    assert (by_tag.covers("one", ["blue"]), by_tag.covers("one", ["green"])) == (True, False)
    assert Subscription().covers("any", ())


def usage_of(store: Served, agent_id: str, now: datetime, zone: str = "UTC") -> AgentUsage | None:
    async def work() -> AgentUsage | None:
        async with store.running._store.database.reading() as session:
            return await usage.of_agent(session, agent_id, zone, now)

    return store.run(work())


NOW = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)


def test_usage_is_null_until_something_is_reported(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first report, counts without data are zero; there is no error rate yet."""
    tell_usage_as_of(NOW, monkeypatch)
    admin = fresh.rest()
    admin.register("idle-agent-prod")
    path = f"{REGISTRY}/idle-agent-prod/usage"
    names = ("actions_last_minute", "actions_last_hour", "actions_last_day", "decisions_today", "spent_today_usd")
    assert [admin.get(path).body[name] for name in names] == [None] * 5
    report(fresh, decision("block", agent_id="idle-agent-prod", at=NOW))
    nothing = dict.fromkeys(REASONS, 0)
    assert [admin.get(path).body[name] for name in names] == [0, 0, 0, nothing | {"block": 1}, 0]
    report(fresh, decision(agent_id="idle-agent-prod", at=NOW, cost_micros=1_250_000))
    assert [admin.get(path).body[name] for name in names] == [1, 1, 1, nothing | {"block": 1, "allow": 1}, 1.25]
    assert admin.get(path).body["error_rate"] is None


@pytest.mark.parametrize(
    ("ago", "minute", "hour", "day"),
    [
        (timedelta(), 1, 1, 1),
        (timedelta(seconds=59, microseconds=999_999), 1, 1, 1),
        (timedelta(seconds=60), 0, 1, 1),
        (timedelta(minutes=59, seconds=30), 0, 1, 1),
        (timedelta(minutes=60, seconds=31), 0, 0, 1),
        (timedelta(hours=23, minutes=59, seconds=30), 0, 0, 1),
        (timedelta(hours=24, seconds=31), 0, 0, 0),
        (timedelta(seconds=-1), 0, 1, 1),
        (timedelta(minutes=-1), 0, 0, 0),
    ],
)
def test_the_spans_end_now(store: Served, ago: timedelta, minute: int, hour: int, day: int) -> None:
    """The last minute to the microsecond, the last hour and day to the minute; nothing of the future."""
    agent_id = f"span-{ago // timedelta(microseconds=1)}-prod"
    report(store, decision(agent_id=agent_id, at=NOW - ago), decision("block", agent_id=agent_id, at=NOW))
    found = usage_of(store, agent_id, NOW)
    assert found is not None
    assert (found.minute, found.hour, found.day) == (minute, hour, day)


@pytest.mark.parametrize(
    ("zone", "now", "midnight"),
    [
        ("UTC", NOW, datetime(2026, 3, 10, tzinfo=UTC)),
        ("America/New_York", NOW, datetime(2026, 3, 10, 4, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 3, 8, 20, tzinfo=UTC), datetime(2026, 3, 8, 5, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 2, 4, 59, tzinfo=UTC), datetime(2026, 11, 1, 4, tzinfo=UTC)),
        ("Asia/Kathmandu", NOW, datetime(2026, 3, 9, 18, 15, tzinfo=UTC)),
        ("Africa/Cairo", datetime(2026, 4, 24, 12, tzinfo=UTC), datetime(2026, 4, 23, 22, tzinfo=UTC)),
    ],
    ids=["utc", "new york", "23 hours", "25 hours", "quarter hour", "no midnight"],
)
def test_the_day_is_that_of_the_agents_zone(store: Served, zone: str, now: datetime, midnight: datetime) -> None:
    """Decisions and spend since local midnight, also on days of 23 and 25 hours."""
    agent_id = f"zone-{zone.replace('/', '-').lower()}-{now:%m%d}-prod"
    before, first, last = midnight - timedelta(seconds=1), midnight, now
    said = [decision(agent_id=agent_id, at=at, cost_micros=10**n) for n, at in enumerate((before, first, last))]
    report(store, *said, decision("escalate", agent_id=agent_id, at=first))
    found = usage_of(store, agent_id, now, zone)
    assert found is not None
    assert (found.today, found.today_micros) == (dict.fromkeys(REASONS, 0) | {"allow": 2, "escalate": 1}, 110)


def test_sums_are_those_of_the_decisions(store: Served) -> None:
    """Random decisions over three days, in random batches, some sent twice: the usage is correct."""
    random, agent_id, zone = Random(7), "random-agent-prod", "Europe/Berlin"
    said = [
        decision(
            random.choice(list(REASONS)),
            agent_id=agent_id,
            at=NOW - timedelta(seconds=random.uniform(0, 3 * 86_400)),
            cost_micros=random.randrange(10**9),
            dry_run=random.random() < 0.1,
        )
        for _ in range(600)
    ]
    for _ in range(6):
        report(store, *random.sample(said, 300))
    report(store, *said)
    for now in (NOW, NOW - timedelta(hours=13), NOW - timedelta(days=1, minutes=7)):
        assert usage_of(store, agent_id, now, zone) == counted(said, now, zone)


def counted(said: list[dict[str, Any]], now: datetime, zone: str) -> AgentUsage:
    """The expected usage, computed from the decisions."""
    minute = now.replace(second=0, microsecond=0)
    acted = [
        datetime.fromisoformat(one["decided_at"])
        for one in said
        if one["answer"]["outcome"] != "block" and not one["dry_run"]
    ]
    midnight = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    until = instant(minute + timedelta(minutes=1))
    today = [one for one in said if not one["dry_run"] and instant(midnight) <= one["decided_at"] < until]

    def within(hours: int) -> int:
        first = minute - timedelta(hours=hours) + timedelta(minutes=1)
        return sum(first <= at < minute + timedelta(minutes=1) for at in acted)

    return AgentUsage(
        minute=sum(now - timedelta(minutes=1) < at <= now for at in acted),
        hour=within(1),
        day=within(24),
        today={name: sum(one["answer"]["outcome"] == name for one in today) for name in REASONS},
        today_micros=sum(one["cost_micros"] for one in today),
    )


def test_the_dearest_actions_overflow_nothing(fresh: Served) -> None:
    """A sum stops at its bound, so that no agent can block its log; many such rows can be added."""
    most = 10**15
    for _ in range(2):
        report(fresh, *(decision(agent_id="dear-agent-prod", at=NOW, cost_micros=most) for _ in range(600)))
    assert fresh.sql("SELECT decisions, cost_micros FROM usage") == [(1200, MAX_MICROS)]
    report(fresh, *(decision(agent_id="dear-agent-prod", at=NOW - timedelta(minutes=n)) for n in range(1, 20)))
    fresh.sql(f"UPDATE usage SET cost_micros = {MAX_MICROS}")
    found = usage_of(fresh, "dear-agent-prod", NOW)
    assert found is not None
    assert found.today_micros == 20 * MAX_MICROS
