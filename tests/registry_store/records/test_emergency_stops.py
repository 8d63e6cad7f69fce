"""Emergency stops: everything of a selector suspended at once, and exactly that undone."""

from typing import Any

import pytest

from registry_store.audit.chain import Chain, Fault
from registry_store.audit.verify import verify_database
from registry_store.database.bulk import CHUNK
from tests.registry_store.rest.test_lists import statements
from tests.registry_store.serving import ALL, Rest, Served, document, in_thread, subscriber

REGISTRY = "/api/agents/registry"
STOP = "/api/agents/emergency-stop"
STOPS = "/api/agents/emergency-stops"


@pytest.fixture
def rest(fresh: Served) -> Rest:
    """An admin of a store with three active agents, a draft and a suspended one."""
    admin = fresh.rest()
    for agent_id, fields in {
        "pay-a": {"tags": ["pay"]},
        "pay-b": {"tags": ["pay", "prod"], "agent_type": "autonomous"},
        "mail-c": {"tags": ["mail"]},
        "draft-d": {"tags": ["pay"]},
        "idle-e": {"tags": ["pay"]},
    }.items():
        admin.register(agent_id, **fields)
        if agent_id != "draft-d":
            admin.post(f"{REGISTRY}/{agent_id}/activate")
    admin.post(f"{REGISTRY}/idle-e/suspend")
    return admin


def statuses(rest: Rest) -> dict[str, str]:
    return {agent["agent_id"]: agent["status"] for agent in rest.get(REGISTRY).body["agents"]}


def suspended(rest: Rest) -> set[str]:
    return {agent_id for agent_id, status in statuses(rest).items() if status == "suspended"} - {"idle-e"}


def revision(fresh: Served) -> int:
    ((newest,),) = fresh.sql("SELECT revision FROM meta")
    return int(newest)


def stop(rest: Rest, **body: Any) -> Any:
    answer = rest.post(STOP, body)
    assert answer.status == 200, answer.body
    return answer.body


def release(rest: Rest, stopped: Any) -> Any:
    answer = rest.post(f"{STOP}/release", {"stop_id": stopped["stop_id"]})
    assert answer.status == 200, answer.body
    return answer.body


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"all": True}, {"pay-a", "pay-b", "mail-c"}),
        ({"tags": ["pay"]}, {"pay-a", "pay-b"}),
        ({"tags": ["prod", "mail"]}, {"pay-b", "mail-c"}),
        ({"agent_types": ["autonomous", "custom"]}, {"pay-b"}),
        ({"agent_ids": ["pay-a", "mail-c", "draft-d"]}, {"pay-a", "mail-c"}),
        ({"tags": ["pay"], "agent_types": ["supervised"]}, {"pay-a"}),
        ({"tags": ["none"]}, set()),
    ],
)
def test_a_stop_suspends_the_active_agents_of_its_selector(
    rest: Rest, selector: dict[str, Any], expected: set[str]
) -> None:
    """Each part narrows the others; drafts and what was suspended before are left; release undoes just that."""
    before = statuses(rest)
    stopped = stop(rest, **selector)
    assert suspended(rest) == expected
    assert stopped["suspended"] == stopped["agent_count"] == len(expected)
    assert release(rest, stopped)["activated"] == len(expected)
    assert statuses(rest) == before


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"all": False, "tags": []}, ""),
        ({"all": True, "tags": ["pay"]}, "all"),
        ({"agent_types": ["robot"]}, "agent_types[0]"),
        ({"everything": True}, "everything"),
    ],
)
def test_a_selector_that_could_be_a_mistake_is_refused(rest: Rest, body: dict[str, Any], path: str) -> None:
    """An empty one is not `all`, and nothing is suspended."""
    answer = rest.post(STOP, body)
    assert (answer.status, answer.body["errors"][0]["path"]) == (422, path)
    assert suspended(rest) == set()


def test_unknown_ids_are_told_and_stop_nobody_from_stopping_the_rest(rest: Rest) -> None:
    """In an emergency a mistyped id must not be in the way of the others."""
    stopped = stop(rest, agent_ids=["pay-a", "pay-typo"])
    assert (stopped["suspended"], stopped["unknown_agent_ids"]) == (1, ["pay-typo"])


def test_the_same_stop_again_is_harmless(fresh: Served, rest: Rest) -> None:
    """One stop, nothing changed, no entry; with what became active since it is widened."""
    first = stop(rest, tags=["pay"], reason="SEC-1")
    before = revision(fresh)
    again = stop(rest, tags=["pay"])
    assert (again["stop_id"], again["suspended"], again["agent_count"]) == (first["stop_id"], 0, 2)
    assert rest.get("/api/activity?type=emergency_stop").body["total"] == 1
    rest.post(f"{REGISTRY}/draft-d/activate")
    assert (stop(rest, tags=["pay"])["agent_count"], rest.get(STOPS).body["total"]) == (3, 1)
    assert revision(fresh) == before + 2


def test_a_release_again_is_harmless(rest: Rest) -> None:
    """The second says the same and changes nothing; a stop of the selector after it is a new one."""
    stopped = stop(rest, tags=["pay"])
    released = release(rest, stopped)
    again = release(rest, stopped)
    assert (again["released_at"], again["activated"]) == (released["released_at"], 0)
    assert stop(rest, tags=["pay"])["stop_id"] != stopped["stop_id"]


def test_what_another_stop_keeps_stays_suspended(rest: Rest) -> None:
    """Only the last release of two stops that overlap lets an agent go."""
    pay, everything = stop(rest, tags=["pay"]), stop(rest, all=True)
    assert (everything["suspended"], everything["agent_count"]) == (1, 3)
    assert release(rest, pay)["activated"] == 0
    assert suspended(rest) == {"pay-a", "pay-b", "mail-c"}
    assert release(rest, everything)["activated"] == 3


def test_what_a_person_decides_on_a_stopped_agent_holds(rest: Rest) -> None:
    """Release does not activate what was suspended by hand meanwhile, nor what was retired."""
    stopped = stop(rest, all=True)
    rest.post(f"{REGISTRY}/pay-a/suspend", {"reason": "SEC-2"})
    rest.post(f"{REGISTRY}/pay-b/activate")
    rest.post(f"{REGISTRY}/pay-b/suspend")
    rest.delete(f"{REGISTRY}/mail-c")
    assert release(rest, stopped)["activated"] == 0
    assert suspended(rest) == {"pay-a", "pay-b"}
    left = rest.get(f"{REGISTRY}/pay-a/activity?type=emergency_stop_left").body["activities"]
    assert [entry["subject_id"] for entry in left] == [stopped["stop_id"]]


def test_a_stop_is_logged_for_itself_and_for_every_agent(fresh: Served, rest: Rest) -> None:
    """With the reason, in one revision."""
    before = revision(fresh)
    stopped = stop(rest, tags=["pay"], reason="SEC-3")
    assert revision(fresh) == before + 1
    entries = rest.get("/api/activity?limit=3").body["activities"]
    assert [(entry["activity_type"], entry["subject_id"]) for entry in entries] == [
        ("emergency_stop", stopped["stop_id"]),
        ("suspended", "pay-b"),
        ("suspended", "pay-a"),
    ]
    assert all("SEC-3" in entry["activity_description"] for entry in entries)
    assert entries[1]["new_state"] == {"status": "suspended"}


def test_stops_are_listed_with_those_in_force_first(rest: Rest) -> None:
    """And each tells its agents, in pages."""
    old, new = stop(rest, tags=["pay"]), stop(rest, tags=["mail"])
    release(rest, new)
    assert [one["stop_id"] for one in rest.get(STOPS).body["stops"]] == [old["stop_id"], new["stop_id"]]
    read = rest.get(f"{STOPS}/{old['stop_id']}?limit=1&offset=1").body
    assert (read["agent_ids"], read["total"], read["agent_count"]) == (["pay-b"], 2, 2)
    assert rest.get(f"{STOPS}/stop_none").status == 404
    assert rest.post(f"{STOP}/release", {"stop_id": "stop_none"}).status == 404


async def first_fault(store: Served) -> Fault | None:
    async with store.running._store.database.reading() as session:
        return await verify_database(session, Chain())


def test_many_agents_are_stopped_in_one_revision(fresh: Served) -> None:
    """All or none, more than one statement's worth of them, and by no statement for each."""
    admin = fresh.rest()
    admin.register("many-template", tags=["many"])
    admin.post(f"{REGISTRY}/many-template/activate")
    columns = "status, agent_type, configuration, version, latest_minor, revision, created_at, updated_at"
    for doubled in range(10):
        fresh.sql(f"INSERT INTO agents (agent_id, {columns}) SELECT agent_id || '-{doubled}', {columns} FROM agents")
    with statements(fresh) as seen:
        stopped = stop(admin, all=True)
    assert stopped["suspended"] == stopped["agent_count"] == 1024 > CHUNK
    assert len(seen) < 30
    assert {agent["revision"] for agent in admin.get(f"{REGISTRY}?status=suspended&limit=500").body["agents"]} == {3}
    assert admin.get("/api/activity?type=suspended").body["total"] == 1024
    with statements(fresh) as seen:
        assert release(admin, stopped)["activated"] == 1024
    assert len(seen) < 30
    assert fresh.sql("SELECT revision, count(*) FROM changes GROUP BY revision ORDER BY revision")[2:] == [
        (3, 1024),
        (4, 1024),
    ]
    assert fresh.run(first_fault(fresh)) is None


async def test_a_stop_reaches_sidecars_as_one_change(fresh: Served) -> None:
    """All that one stop suspends arrives together."""
    admin = fresh.rest()
    for agent_id in ("reach-a", "reach-b"):
        await in_thread(admin.register, agent_id)
        await in_thread(admin.post, f"{REGISTRY}/{agent_id}/activate")
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello(ALL)
        snapshot = await sidecar.snapshot()
        await in_thread(stop, admin, all=True)
        (change,) = await sidecar.changes_to(snapshot.end.revision + 1)
    assert {(record.id, document(record)["status"]) for record in change.records} == {
        ("reach-a", "suspended"),
        ("reach-b", "suspended"),
    }
