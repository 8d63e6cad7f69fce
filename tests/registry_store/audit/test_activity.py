"""The activity log: one entry a change, chained; and the revision without gaps under concurrent writers."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import select

from registry_store.database.tables import Activity
from registry_store.journal import activity, revisions
from tests.registry_store.serving import Served

REGISTRY = "/api/agents/registry"


def entries(store: Served) -> list[Activity]:
    async def read() -> list[Activity]:
        async with store.running._store.database.reading() as session:
            return list(await session.scalars(select(Activity).order_by(Activity.sequence)))

    return store.run(read())


def test_every_change_is_an_entry(fresh: Served) -> None:
    """Each says what, by whom and which way, with just the changed fields before and after."""
    admin = fresh.rest()
    admin.register("logged-agent-prod", tags=["a"])
    path = f"{REGISTRY}/logged-agent-prod"
    admin.post(f"{path}/activate", {"reason": "reviewed in SEC-9"})
    admin.put(path, {"tags": ["b"], "auto_approve_below": 20, "version_notes": "SEC-10"})
    policy = admin.post(f"{path}/policies", {"policy_name": "p", "policy_action": "block"}).body["policy_id"]
    admin.put(f"{path}/policies/{policy}", {"priority": 3}, User_Agent="ascend/0.1")
    admin.delete(f"{path}/policies/{policy}")
    admin.delete(path, {"reason": "replaced"})
    log = [entry for entry in entries(fresh) if entry.agent_id == "logged-agent-prod"]
    assert [entry.activity_type for entry in log] == [
        *("registered", "activated", "updated", "policy_added", "policy_updated", "policy_removed", "retired")
    ]
    assert [entry.performed_via for entry in log] == [*["api"] * 4, "sdk", *["api"] * 2]
    assert {entry.performed_by for entry in log} == {"tester"}
    assert (log[1].activity_description, log[2].activity_description) == ("reviewed in SEC-9", "SEC-10")
    assert json.loads(log[2].previous_state or "") == {"tags": ["a"], "auto_approve_below": 30}
    assert json.loads(log[2].new_state or "") == {"tags": ["b"], "auto_approve_below": 20}
    assert json.loads(log[4].new_state or "") == {"priority": 3}


def test_entries_are_chained(fresh: Served) -> None:
    """Each entry's hash covers its content and the hash before it."""
    fresh.rest().register("chained-agent-prod")
    log = entries(fresh)
    assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
    assert [entry.previous_hash for entry in log] == [activity.GENESIS, *(entry.hash for entry in log[:-1])]
    assert [activity.digest(entry) for entry in log] == [entry.hash for entry in log]


def test_a_refused_request_leaves_no_trace(fresh: Served) -> None:
    """What is rolled back takes its revision and its entry with it."""
    admin = fresh.rest()
    admin.register("rolled-back-prod")
    before = len(entries(fresh)), revision(fresh)
    assert admin.put(f"{REGISTRY}/rolled-back-prod", {"auto_approve_below": 101}).status == 422
    assert admin.post(f"{REGISTRY}/rolled-back-prod/suspend").status == 409
    assert admin.put(f"{REGISTRY}/rolled-back-prod", {}).status == 200
    assert (len(entries(fresh)), revision(fresh)) == before


def test_no_key_is_in_the_log(fresh: Served) -> None:
    """The entry of a key names it, and holds neither it nor its hash."""
    admin = fresh.rest()
    key = admin.post("/api/keys", {"role": "viewer", "name": "auditor"}).body["key"]
    entry = entries(fresh)[-1]
    assert (entry.activity_type, entry.subject_id) == ("key_created", key.split("_")[1])
    assert "hash" not in (entry.new_state or "")
    assert key.split("_", 2)[2] not in (entry.new_state or "")


def test_concurrent_writers_leave_no_gap(fresh: Served) -> None:
    """Eight writers over one database: every answer is kept, revisions are gapless, versions and the chain agree."""
    admin = fresh.rest()
    for number in range(4):
        admin.register(f"contended-{number}")

    def change(number: int) -> int:
        body = {"max_actions_per_day": 20_000 + number}
        return admin.put(f"{REGISTRY}/contended-{number % 4}", body).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(change, range(80))) == {200}
    minors = fresh.sql("SELECT max(minor), count(*) FROM agent_versions GROUP BY agent_id")
    assert minors == [(20, 21)] * 4
    assert fresh.sql("SELECT revision FROM changes ORDER BY revision") == [(number,) for number in range(1, 85)]
    log = entries(fresh)
    assert [entry.previous_hash for entry in log] == [activity.GENESIS, *(entry.hash for entry in log[:-1])]
    versions: list[Any] = [admin.get(f"{REGISTRY}/contended-{number}").body["version"] for number in range(4)]
    assert versions == ["1.20.0"] * 4


def revision(store: Served) -> int:
    async def read() -> int:
        async with store.running._store.database.reading() as session:
            return (await revisions.meta(session)).revision

    return store.run(read())
