"""Lists of agents at any size: right on every page, counted, in a bounded number of statements."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count, product
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from tests.registry_store.approving import record
from tests.registry_store.reporting import decision, report
from tests.registry_store.serving import Rest, Served

REGISTRY = "/api/agents/registry"
STATUSES = ("draft", "active", "suspended", "retired")
TYPES = ("supervised", "autonomous", "custom")
TAGS = ("red", "green", "blue")
AGENTS = 37


@pytest.fixture(scope="module")
def agents(admin: Rest) -> list[dict[str, Any]]:
    """Agents of every status and type, with none to three tags each, as a list of them all shows them."""
    for number in range(AGENTS):
        agent_id = f"listed-{number * 17 % AGENTS:02}-prod"
        tags = [tag for index, tag in enumerate(TAGS) if number >> index & 1]
        admin.register(agent_id, agent_type=TYPES[number % 3], tags=tags)
        for step in range(number % 4):
            call = (admin.post, admin.post, admin.delete)[step]
            path = f"{REGISTRY}/{agent_id}" + ("/activate", "/suspend", "")[step]
            assert call(path).status == 200
    found = admin.get(f"{REGISTRY}?limit=500").body["agents"]
    assert [agent["agent_id"] for agent in found] == sorted(agent["agent_id"] for agent in found)
    return found  # type: ignore[no-any-return]


def test_every_page_of_every_filter_is_right(admin: Rest, agents: list[dict[str, Any]]) -> None:
    """Status, type and tag, alone and together: each page, from either end, is what leaving out one by one gives.

    Filters of all three are asked for their last page alone.
    """
    limit = 4
    for status, agent_type, tag in product((None, *STATUSES), (None, *TYPES), (None, *TAGS)):
        query = {"status": status, "type": agent_type, "tag": tag, "limit": limit}
        asked = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        right = [
            agent["agent_id"]
            for agent in agents
            if status in (None, agent["status"])
            and agent_type in (None, agent["agent_type"])
            and (tag is None or tag in agent["tags"])
        ]
        last = max(0, len(right) - limit)
        offsets = {0, 1, len(right) // 2, last, max(0, len(right) - 1), len(right), 1000}
        for offset in {last} if status and agent_type and tag else offsets:
            body = admin.get(f"{REGISTRY}?{asked}&offset={offset}").body
            shown = [agent["agent_id"] for agent in body["agents"]]
            assert (shown, body["total"]) == (right[offset : offset + limit], len(right)), f"{asked}&offset={offset}"


def test_the_counts_follow_every_way_of_changing_agents(fresh: Served) -> None:
    """Registration, new tags, another type, status, rollback, an emergency stop: nothing is miscounted."""
    admin = fresh.rest()
    for number in range(6):
        admin.register(f"counted-{number}-prod", tags=["a", "b"][: number % 3])
        admin.post(f"{REGISTRY}/counted-{number}-prod/activate")
    path = f"{REGISTRY}/counted-2-prod"
    assert admin.put(path, {"tags": ["b", "c"], "agent_type": "autonomous"}).status == 200
    assert admin.get(f"{REGISTRY}?tag=c&type=autonomous&status=active").body["total"] == 1
    assert admin.post(f"{path}/rollback", {"target_version": "1.0.0", "reason": "x"}).status == 200
    assert admin.get(f"{REGISTRY}?tag=a&type=supervised").body["total"] == 4
    stop = admin.post("/api/agents/emergency-stop", {"tags": ["a"], "reason": "incident 7"}).body["stop_id"]
    assert admin.get(f"{REGISTRY}?tag=a&status=suspended").body["total"] == 4
    assert admin.get(f"{REGISTRY}?status=active").body["total"] == 2
    assert admin.post("/api/agents/emergency-stop/release", {"stop_id": stop, "reason": "over"}).status == 200
    assert admin.get(f"{REGISTRY}?tag=b&status=active").body["total"] == 2
    assert admin.delete(path).status == 200
    assert admin.get(f"{REGISTRY}?status=retired&tag=a").body["total"] == 1
    assert admin.get(f"{REGISTRY}?tag=").body["total"] == 0


def test_type_and_tags_change_together(fresh: Served) -> None:
    """New tags refer to the new type, whichever of the two is written first."""
    admin = fresh.rest()
    admin.register("changing-agent-prod", tags=["t0"])
    for number, agent_type in enumerate(TYPES * 4, 1):
        body = {"tags": [f"t{number}", f"u{number}"], "agent_type": agent_type}
        assert admin.put(f"{REGISTRY}/changing-agent-prod", body).status == 200
        assert admin.get(f"{REGISTRY}?tag=u{number}&type={agent_type}").body["total"] == 1


def test_a_tag_never_differs_from_its_agent(fresh: Served) -> None:
    """The database itself brings its copies of status and type along, after a repair by hand too, or refuses."""
    admin = fresh.rest()
    admin.register("repaired-agent-prod", tags=["a"])
    fresh.sql("UPDATE agents SET status = 'suspended', agent_type = 'custom' WHERE agent_id = 'repaired-agent-prod'")
    assert admin.get(f"{REGISTRY}?tag=a&status=suspended&type=custom").body["total"] == 1
    with pytest.raises(IntegrityError):
        fresh.sql("UPDATE agent_tags SET status = 'active'")


def test_what_a_refused_request_counted_is_taken_back(fresh: Served) -> None:
    """A count is of the same transaction as what it counts."""
    admin, agent = fresh.rest(), fresh.rest("agent")
    agent.register("own-agent-prod")
    assert agent.post(REGISTRY, {"agent_id": "other-agent-prod", "display_name": "x"}).status == 409
    assert admin.get(REGISTRY).body["total"] == 1


@pytest.mark.parametrize("before", [None, 1, 5, 14, 10_000])
def test_a_page_of_the_whole_log_is_found_by_its_place(admin: Rest, agents: list[Any], before: int | None) -> None:
    """Every page has the entries that leaving out one by one gives, newest first, with the same total."""
    bound = "" if before is None else f"&before={before}"
    kept = admin.get(f"/api/activity?type=registered&limit=500{bound}").body["activities"]
    newest = admin.get("/api/activity?limit=1").body["total"]
    right = list(range(newest if before is None else min(newest, before - 1), 0, -1))
    for limit, offset in product((1, 7, 500), (0, 1, 3, len(right) - 1, len(right), len(right) + 5)):
        body = admin.get(f"/api/activity?limit={limit}&offset={max(0, offset)}{bound}").body
        shown = [entry["sequence"] for entry in body["activities"]]
        assert (shown, body["total"]) == (right[max(0, offset) :][:limit], len(right))
    assert {entry["sequence"] for entry in kept} <= set(right)


@contextmanager
def statements(store: Served, of: str = "run_asgi") -> Iterator[list[str]]:
    """The SQL statements that the store executes meanwhile, in tasks that run a coroutine of this name.

    A transaction ends in a task of its own, so what a connection executes there belongs to the task before. What runs
    in a thread belongs to the task that waits for it.
    """
    database, seen = store.running._store.database, []
    is_of: dict[Any, bool] = {}

    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        name = _task_name() or waiting.get()
        if "_AsyncSessionContextManager" not in name:
            is_of[connection] = of in name
        if is_of.get(connection) and not statement.startswith("BEGIN"):
            seen.append(statement)

    def named(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def calling(work: Any) -> Any:
            waiting.set(_task_name())
            return await call(work)

        return calling

    waiting: ContextVar[str] = ContextVar("waiting", default="")
    engines = {id(engine): engine.sync_engine for engine in (database._reader, database._writer)}
    if database.is_sqlite:
        engines |= {id(each): each.engine for each in (database._blocking_reader, database._blocking_writer)}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("apart", "read_apart"):
            patch.setattr(database, name, named(getattr(database, name)))
        for engine in engines.values():
            event.listen(engine, "before_cursor_execute", note)
        yield seen
        for engine in engines.values():
            event.remove(engine, "before_cursor_execute", note)


def _task_name() -> str:
    """What the current task runs; empty in a thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return ""
    return "" if task is None else repr(task.get_coro())


VALUES = count(100)
REQUESTS: dict[str, tuple[int, Callable[[Rest, str], Any]]] = {
    "list": (4, lambda admin, path: admin.get(f"{REGISTRY}?limit=500")),
    "list by tag": (4, lambda admin, path: admin.get(f"{REGISTRY}?tag=counted&limit=500")),
    "read": (2, lambda admin, path: admin.get(path)),
    "versions": (4, lambda admin, path: admin.get(f"{path}/versions?limit=500")),
    "policies": (4, lambda admin, path: admin.get(f"{path}/policies?limit=500")),
    "activity": (4, lambda admin, path: admin.get(f"{path}/activity?limit=500")),
    "decisions": (6, lambda admin, path: admin.get("/api/decisions?limit=500")),
    "decisions of one": (6, lambda admin, path: admin.get("/api/decisions?agent_id=counted-00-prod&outcome=allow")),
    "approvals": (4, lambda admin, path: admin.get("/api/approvals?limit=500&status=pending&mine=true")),
    "usage": (5, lambda admin, path: admin.get(f"{path}/usage")),
    "update": (11, lambda admin, path: admin.put(path, {"max_actions_per_day": next(VALUES), "tags": ["counted"]})),
}
"""What is counted: how many statements it may take, the one that finds the key included, and the request."""


def test_a_request_takes_the_same_statements_for_one_as_for_many(fresh: Served) -> None:
    """No query is made for each agent, policy, version, tag or entry of what is shown or changed."""
    admin, path = fresh.rest(), f"{REGISTRY}/counted-00-prod"
    admin.register("counted-00-prod", tags=["counted", "gone"])
    report(fresh, decision(agent_id="counted-00-prod"), record())
    few = {name: taken(fresh, admin, path, name) for name in REQUESTS}
    for number in range(1, 12):
        admin.register(f"counted-{number:02}-prod", tags=["counted", f"other-{number}"])
        admin.put(path, {"auto_approve_below": number, "tags": ["counted", *map(str, range(number))]})
        admin.post(f"{path}/policies", {"policy_name": f"p{number}", "policy_action": "block"})
        others = decision("block", agent_id=f"counted-{number:02}-prod")
        report(fresh, decision(agent_id="counted-00-prod"), others, record(amount=number))
    many = {name: taken(fresh, admin, path, name) for name in REQUESTS}
    for name, (most, _) in REQUESTS.items():
        assert len(few[name]) == len(many[name]) <= most, "\n".join([name, *many[name]])


def taken(store: Served, admin: Rest, path: str, name: str) -> list[str]:
    """The statements that one request takes."""
    with statements(store) as seen:
        assert REQUESTS[name][1](admin, path).status == 200
    return seen
