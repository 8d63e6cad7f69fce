"""Versions of policies, of agents and of the organisation: listed, compared, restored, also after a removal."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from registry_store.records.policies import BODY_OF_AGENT, BODY_OF_ORGANISATION
from tests.registry_store.serving import Answer, Rest, Served

REGISTRY = "/api/agents/registry"
ORGANISATION = "/api/agents/policies"
NUMBERS = count()


def add(admin: Rest, path: str, **fields: Any) -> Answer:
    body = {"policy_name": f"policy {next(NUMBERS)}", "policy_action": "block", **fields}
    answer = admin.post(path, body)
    assert answer.status == 201, answer.body
    return answer


def states(admin: Rest, own: str) -> list[tuple[str, bool, str]]:
    versions = admin.get(f"{own}/versions").body["versions"]
    return [(one["version"], one["is_active"], one["version_notes"]) for one in versions]


@pytest.fixture(params=["agent", "organisation"])
def path(admin: Rest, request: pytest.FixtureRequest) -> str:
    """Where policies of an agent, or of the organisation, are."""
    if request.param == "organisation":
        return ORGANISATION
    agent_id = f"history-{next(NUMBERS)}-prod"
    admin.register(agent_id)
    return f"{REGISTRY}/{agent_id}/policies"


@pytest.fixture
def own(admin: Rest, path: str) -> Iterator[str]:
    """A policy with versions 1.0.0 (priority 100), 1.1.0 (priority 10, "SEC-1") and 1.2.0 (priority 20, shadow)."""
    own = add(admin, path).headers["location"]
    admin.put(own, {"priority": 10, "version_notes": "SEC-1"})
    admin.put(own, {"priority": 20, "mode": "shadow"})
    yield own


def test_each_change_of_a_policy_makes_a_version(admin: Rest, own: str) -> None:
    """Newest first, with the caller's note or the changed fields, time and author; a page is cut as every list."""
    assert states(admin, own) == [
        ("1.2.0", True, "Updated: priority, mode"),
        ("1.1.0", False, "SEC-1"),
        ("1.0.0", False, "Initial version"),
    ]
    listed = admin.get(f"{own}/versions?limit=1&offset=1").body
    assert ([one["version"] for one in listed["versions"]], listed["total"]) == (["1.1.0"], 3)
    assert (listed["policy_id"], listed["versions"][0]["created_by"]) == (own.rpartition("/")[2], "tester")
    assert admin.get(own).body["version"] == "1.2.0"


def test_a_change_of_nothing_makes_no_version(admin: Rest, own: str) -> None:
    """Also with a note: there is nothing that it would be about."""
    before = admin.get(own).body
    assert admin.put(own, {"priority": 20, "version_notes": "SEC-9"}).body == before
    assert len(states(admin, own)) == 3


def test_a_new_policy_may_have_a_note(admin: Rest, path: str) -> None:
    """The note is of the version and of the activity entry, and no field of the policy."""
    added = add(admin, path, version_notes="SEC-2")
    assert "version_notes" not in added.body
    assert states(admin, added.headers["location"]) == [("1.0.0", True, "SEC-2")]
    (entry,) = admin.get(f"/api/activity?subject_id={added.body['policy_id']}").body["activities"]
    assert entry["activity_description"] == f"policy `{added.body['policy_name']}` added: SEC-2"
    assert "version_notes" not in entry["new_state"]
    assert admin.post(path, {"policy_name": "x", "policy_action": "block", "version_notes": 5}).status == 422


def test_a_version_stores_the_whole_policy(admin: Rest, own: str) -> None:
    """Every field, as it was then."""
    stored = admin.get(f"{own}/versions/1.1.0").body
    fields = BODY_OF_AGENT if stored["agent_id"] else BODY_OF_ORGANISATION
    assert stored["configuration"].keys() == fields.keys()
    assert (stored["configuration"]["priority"], stored["configuration"]["mode"]) == (10, "enforce")
    assert (stored["version_notes"], stored["is_active"]) == ("SEC-1", False)


def test_a_difference_shows_the_changed_fields(admin: Rest, own: str) -> None:
    """With both values; none between a version and itself."""
    shown = admin.get(f"{own}/versions/1.0.0/diff/1.2.0").body
    assert shown["changes"] == [
        {"field": "priority", "before": 100, "after": 20},
        {"field": "mode", "before": "enforce", "after": "shadow"},
    ]
    assert (shown["from_version"], shown["to_version"]) == ("1.0.0", "1.2.0")
    assert admin.get(f"{own}/versions/1.1.0/diff/1.1.0").body["changes"] == []


def test_a_rollback_restores_the_stored_policy(admin: Rest, own: str) -> None:
    """The stored version is active again; the next change goes on from the highest number ever used."""
    before = admin.get(own)
    rolled = admin.post(f"{own}/rollback", {"target_version": "1.0.0", "reason": "SEC-3"})
    assert (rolled.status, rolled.body) == (200, admin.get(own).body)
    assert (rolled.body["version"], rolled.body["priority"], rolled.body["mode"]) == ("1.0.0", 100, "enforce")
    assert rolled.headers["etag"] != before.headers["etag"]
    assert [name for name, active, _ in states(admin, own) if active] == ["1.0.0"]
    assert admin.put(own, {"priority": 30}).body["version"] == "1.3.0"


def test_a_rollback_is_an_entry_with_what_it_changed(admin: Rest, own: str) -> None:
    """The reason, both versions, and the fields that differ; a rollback to what is active changes nothing."""
    admin.post(f"{own}/rollback", {"target_version": "1.1.0", "reason": "SEC-4"})
    entries = f"/api/activity?subject_id={own.rpartition('/')[2]}"
    entry = admin.get(entries).body["activities"][0]
    assert (entry["activity_type"], entry["activity_description"]) == ("policy_rolled_back", "SEC-4")
    assert entry["previous_state"] == {"version": "1.2.0", "priority": 20, "mode": "shadow"}
    assert entry["new_state"] == {"version": "1.1.0", "priority": 10, "mode": "enforce"}
    before = admin.get(own).body
    assert admin.post(f"{own}/rollback", {"target_version": "1.1.0"}).body == before
    assert admin.get(entries).body["total"] == 4


def test_a_removed_policy_keeps_its_versions(admin: Rest, own: str) -> None:
    """They are read, listed and compared as before; none of them is active."""
    admin.delete(own, {"reason": "SEC-5"})
    assert admin.get(own).status == 404
    assert [active for _, active, _ in states(admin, own)] == [False, False, False]
    assert admin.get(f"{own}/versions/1.1.0").body["configuration"]["priority"] == 10
    assert len(admin.get(f"{own}/versions/1.0.0/diff/1.2.0").body["changes"]) == 2


def test_a_rollback_brings_a_removed_policy_back(admin: Rest, path: str) -> None:
    """With its id and its place among policies of the same priority, which depends on its age."""
    first, second = (add(admin, path, priority=555).body["policy_id"] for _ in range(2))
    admin.delete(f"{path}/{first}")
    back = admin.post(f"{path}/{first}/rollback", {"target_version": "1.0.0", "reason": "SEC-6"})
    assert (back.status, back.body["policy_id"], back.body["version"]) == (200, first, "1.0.0")
    listed = [one["policy_id"] for one in admin.get(f"{path}?limit=500").body["policies"] if one["priority"] == 555]
    assert [one for one in listed if one in (first, second)] == [first, second]
    entry = admin.get(f"/api/activity?subject_id={first}&limit=1").body["activities"][0]
    assert (entry["previous_state"], entry["new_state"]["version"]) == ({"version": None}, "1.0.0")
    assert entry["new_state"]["priority"] == 555
    assert admin.put(f"{path}/{first}", {"priority": 556}).body["version"] == "1.1.0"


def test_a_new_policy_of_the_name_has_a_history_of_its_own(admin: Rest, path: str) -> None:
    """The removed one cannot come back while the name is taken, and can under a name that it had before."""
    old = add(admin, path)
    name = old.body["policy_name"]
    admin.put(old.headers["location"], {"policy_name": f"{name}, renamed"})
    admin.delete(old.headers["location"])
    new = add(admin, path, policy_name=name)
    assert states(admin, new.headers["location"]) == [("1.0.0", True, "Initial version")]
    refused = admin.post(f"{old.headers['location']}/rollback", {"target_version": "1.0.0"})
    assert (refused.status, new.body["policy_id"] in refused.body["detail"]) == (409, True)
    assert admin.get(old.headers["location"]).status == 404
    assert admin.post(f"{old.headers['location']}/rollback", {"target_version": "1.1.0"}).status == 200


def test_a_rollback_honours_if_match(admin: Rest, own: str) -> None:
    """A stale ETag is a 412, and so is any of a removed policy; both change nothing."""
    stale = admin.get(own).headers["etag"]
    admin.put(own, {"priority": 40})
    target = {"target_version": "1.0.0"}
    assert admin.post(f"{own}/rollback", target, If_Match=stale).status == 412
    assert admin.get(own).body["priority"] == 40
    assert admin.post(f"{own}/rollback", target, If_Match=admin.get(own).headers["etag"]).status == 200
    admin.delete(own)
    assert admin.post(f"{own}/rollback", target, If_Match="*").status == 412
    assert admin.get(own).status == 404


@pytest.mark.parametrize("version", ["1.9.0", "2.0.0", "latest", f"1.{10**30}.0"])
def test_a_version_that_never_was_is_not_found(admin: Rest, own: str, version: str) -> None:
    """404 wherever it is named; a rollback refuses what is no version at all."""
    assert admin.get(f"{own}/versions/{version}").status == 404
    assert admin.get(f"{own}/versions/1.0.0/diff/{version}").status == 404
    assert admin.post(f"{own}/rollback", {"target_version": version}).status in (404, 422)


def test_versions_are_found_under_their_owner_alone(admin: Rest, own: str) -> None:
    """The same id under another agent, or the other kind of owner, is a 404, also for a rollback of a removed one."""
    policy_id = own.rpartition("/")[2]
    agent_id = f"stranger-{next(NUMBERS)}-prod"
    admin.register(agent_id)
    admin.delete(own)
    others = [f"{REGISTRY}/{agent_id}/policies/{policy_id}", f"{ORGANISATION}/{policy_id}"]
    for other in (other for other in others if other != own):
        assert admin.get(f"{other}/versions").status == 404
        assert admin.get(f"{other}/versions/1.0.0").status == 404
        assert admin.post(f"{other}/rollback", {"target_version": "1.0.0"}).status == 404


def test_a_retired_agents_policies_are_not_rolled_back(admin: Rest) -> None:
    """409; their versions stay readable."""
    admin.register("retired-history-prod")
    own = add(admin, f"{REGISTRY}/retired-history-prod/policies").headers["location"]
    admin.put(own, {"priority": 1})
    admin.delete(f"{REGISTRY}/retired-history-prod")
    assert admin.post(f"{own}/rollback", {"target_version": "1.0.0"}).status == 409
    assert len(states(admin, own)) == 2


def test_only_admins_roll_back_and_an_agent_reads_its_own(store: Served, admin: Rest, own: str) -> None:
    """An agent's key changes no policy, and does not see the organisation's."""
    assert store.rest("viewer").get(f"{own}/versions").status == 200
    for role in ("viewer", "approver", "agent"):
        assert store.rest(role).post(f"{own}/rollback", {"target_version": "1.0.0"}).status == 403
    assert store.rest("agent").get(f"{own}/versions").status == 403


def test_a_stored_policy_that_breaks_the_rules_of_today_is_not_restored(store: Served, admin: Rest, own: str) -> None:
    """409 says what is wrong with it, and the policy stays as it is."""
    policy_id = own.rpartition("/")[2]
    broken = '{"policy_name": "broken", "policy_action": "block", "priority": -1}'
    store.sql(f"UPDATE policy_versions SET configuration = '{broken}' WHERE policy_id = '{policy_id}' AND minor = 0")
    answer = admin.post(f"{own}/rollback", {"target_version": "1.0.0"})
    assert (answer.status, "priority" in answer.body["detail"]) == (409, True)
    assert admin.get(own).body["version"] == "1.2.0"


def test_what_an_older_store_wrote_has_versions_from_its_next_change_on(store: Served, admin: Rest, own: str) -> None:
    """A store from before versions may run on after the migration: what it adds has no version, and stays usable."""
    policy_id = own.rpartition("/")[2]
    store.sql(f"DELETE FROM policy_versions WHERE policy_id = '{policy_id}'")
    store.sql(f"UPDATE policies SET version = '1.0.0' WHERE policy_id = '{policy_id}'")
    assert (admin.get(f"{own}/versions").status, states(admin, own)) == (200, [])
    assert admin.put(own, {"priority": 30}).body["version"] == "1.1.0"
    assert states(admin, own) == [("1.1.0", True, "Updated: priority")]
    changed = '{"policy_name": "changed", "policy_action": "block"}'
    store.sql(f"UPDATE policies SET policy_name = 'changed', body = '{changed}' WHERE policy_id = '{policy_id}'")
    assert admin.post(f"{own}/rollback", {"target_version": "1.1.0"}).body["priority"] == 30


def test_a_declaration_makes_versions_too(admin: Rest) -> None:
    """Its note is that of each new version, and the reason of a removal; what it leaves as it is has none."""
    kept, changed, dropped = (
        {"policy_name": name, "policy_action": "block"} for name in ("kept", "changed", "dropped")
    )
    path, policies = "/api/agents/declarations/declared-history-prod", f"{REGISTRY}/declared-history-prod/policies"
    body = {"display_name": "x", "version_notes": "GIT-1", "policies": [kept, changed, dropped]}
    assert admin.put(path, body).status == 201
    ids = {one["policy_name"]: one["policy_id"] for one in admin.get(policies).body["policies"]}
    body = {"display_name": "x", "version_notes": "GIT-2", "policies": [kept, changed | {"priority": 5}]}
    assert admin.put(path, body).status == 200
    assert states(admin, f"{policies}/{ids['kept']}") == [("1.0.0", True, "GIT-1")]
    assert states(admin, f"{policies}/{ids['changed']}") == [("1.1.0", True, "GIT-2"), ("1.0.0", False, "GIT-1")]
    assert states(admin, f"{policies}/{ids['dropped']}") == [("1.0.0", False, "GIT-1")]
    removed = admin.get(f"/api/activity?subject_id={ids['dropped']}&limit=1").body["activities"][0]
    assert (removed["activity_type"], removed["activity_description"]) == ("policy_removed", "GIT-2")
