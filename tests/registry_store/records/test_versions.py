"""Versions of an agent: listed, compared, and made active again."""

from collections.abc import Iterator
from itertools import count

import pytest

from registry_store.records.agents import DEFAULTS
from tests.registry_store.serving import Rest, Served

REGISTRY = "/api/agents/registry"
NUMBERS = count()


@pytest.fixture
def path(admin: Rest) -> Iterator[str]:
    """An agent with versions 1.0.0, 1.1.0 (minute limit 10) and 1.2.0 (minute limit 20, other tags)."""
    agent_id = f"versions-{next(NUMBERS)}-prod"
    admin.register(agent_id, tags=["first"])
    admin.put(f"{REGISTRY}/{agent_id}", {"max_actions_per_minute": 10, "version_notes": "SEC-1"})
    admin.put(f"{REGISTRY}/{agent_id}", {"max_actions_per_minute": 20, "tags": ["second"]})
    yield f"{REGISTRY}/{agent_id}"


def test_versions_are_listed_newest_first(admin: Rest, path: str) -> None:
    """Each with its note, time and author; one is active; limit and offset cut the list."""
    listed = admin.get(f"{path}/versions").body
    assert [(one["version"], one["is_active"], one["version_notes"]) for one in listed["versions"]] == [
        ("1.2.0", True, "Updated: tags, max_actions_per_minute"),
        ("1.1.0", False, "SEC-1"),
        ("1.0.0", False, "Initial registration"),
    ]
    assert {one["created_by"] for one in listed["versions"]} == {"tester"}
    assert (listed["total"], listed["agent_id"]) == (3, path.rpartition("/")[2])
    cut = admin.get(f"{path}/versions?limit=1&offset=1").body
    assert ([one["version"] for one in cut["versions"]], cut["total"]) == (["1.1.0"], 3)


def test_a_version_stores_the_whole_configuration(admin: Rest, path: str) -> None:
    """Every field, as it was then."""
    first = admin.get(f"{path}/versions/1.0.0").body
    assert first["configuration"].keys() == DEFAULTS.keys()
    assert (first["configuration"]["max_actions_per_minute"], first["configuration"]["tags"]) == (100, ["first"])


def test_a_difference_shows_the_changed_fields_alone(admin: Rest, path: str) -> None:
    """With both values, in either direction; none between a version and itself."""
    forth = admin.get(f"{path}/versions/1.0.0/diff/1.2.0").body
    assert forth["changes"] == [
        {"field": "tags", "before": ["first"], "after": ["second"]},
        {"field": "max_actions_per_minute", "before": 100, "after": 20},
    ]
    back = admin.get(f"{path}/versions/1.2.0/diff/1.0.0").body["changes"]
    assert [(one["before"], one["after"]) for one in back] == [(["second"], ["first"]), (20, 100)]
    assert admin.get(f"{path}/versions/1.1.0/diff/1.1.0").body["changes"] == []


@pytest.mark.parametrize("version", ["1.9.0", "1.0.1", "2.0.0", "1.00.0", "latest", f"1.{10**30}.0"])
def test_a_version_that_never_was_is_not_found(admin: Rest, path: str, version: str) -> None:
    """404 wherever it is named."""
    assert admin.get(f"{path}/versions/{version}").status == 404
    assert admin.get(f"{path}/versions/1.0.0/diff/{version}").status == 404
    if len(version) <= 32:
        assert admin.post(f"{path}/rollback", {"target_version": version}).status in (404, 422)


def test_rollback_restores_the_stored_configuration(admin: Rest, path: str) -> None:
    """The stored version is active again with all that it held; the next change goes on from the highest number."""
    tag = admin.get(path).headers["etag"]
    rolled = admin.post(f"{path}/rollback", {"target_version": "1.0.0", "reason": "SEC-2"})
    assert (rolled.body["version"], rolled.body["max_actions_per_minute"]) == ("1.0.0", 100)
    assert rolled.headers["etag"] != tag
    listed = admin.get(f"{path}/versions").body["versions"]
    assert [one["version"] for one in listed if one["is_active"]] == ["1.0.0"]
    assert len(listed) == 3
    assert admin.put(path, {"max_actions_per_minute": 30}).body["version"] == "1.3.0"


def test_rollback_moves_the_agent_between_tags(admin: Rest, path: str) -> None:
    """A list by tag finds the agent where its restored configuration puts it."""
    agent_id = path.rpartition("/")[2]
    admin.post(f"{path}/rollback", {"target_version": "1.1.0"})

    def tagged(tag: str) -> bool:
        return agent_id in [agent["agent_id"] for agent in admin.get(f"{REGISTRY}?tag={tag}&limit=500").body["agents"]]

    assert (tagged("first"), tagged("second")) == (True, False)


def test_rollback_is_an_entry_with_what_it_changed(admin: Rest, path: str) -> None:
    """The reason, both versions, and the fields that differ, before and after."""
    admin.post(f"{path}/rollback", {"target_version": "1.1.0", "reason": "SEC-3"})
    entry = admin.get(f"{path}/activity?limit=1").body["activities"][0]
    assert (entry["activity_type"], entry["activity_description"]) == ("rolled_back", "SEC-3")
    assert entry["previous_state"] == {"version": "1.2.0", "max_actions_per_minute": 20, "tags": ["second"]}
    assert entry["new_state"] == {"version": "1.1.0", "max_actions_per_minute": 10, "tags": ["first"]}


def test_rollback_to_what_is_in_force_changes_nothing(admin: Rest, path: str) -> None:
    """The same revision, and no entry; where an unversioned field differs it is put back."""
    before = admin.get(path).body
    assert before.items() <= admin.post(f"{path}/rollback", {"target_version": "1.2.0"}).body.items()
    assert admin.get(path).body == before
    admin.put(path, {"description": "later"})
    assert admin.post(f"{path}/rollback", {"target_version": "1.2.0"}).body["description"] == ""


def test_rollback_says_what_it_leaves_as_it_is(admin: Rest, path: str) -> None:
    """Status and policies are not part of a version: the answer shows them as they are, and they stay so."""
    admin.post(f"{path}/policies", {"policy_name": "later", "policy_action": "block"})
    admin.post(f"{path}/activate")
    admin.post(f"{path}/suspend")
    rolled = admin.post(f"{path}/rollback", {"target_version": "1.0.0"}).body
    assert rolled["left_unchanged"] == {"status": "suspended", "policies": 1}
    assert admin.get(path).body["status"] == "suspended"
    assert admin.get(f"{path}/policies").body["policies"][0]["version"] == "1.0.0"


def test_rollback_honours_if_match(admin: Rest, path: str) -> None:
    """A stale ETag is a 412 and changes nothing."""
    stale = admin.get(path).headers["etag"]
    admin.put(path, {"description": "meanwhile"})
    assert admin.post(f"{path}/rollback", {"target_version": "1.0.0"}, If_Match=stale).status == 412
    assert admin.get(path).body["version"] == "1.2.0"


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, ["target_version"]),
        ({"target_version": "one"}, ["target_version"]),
        ({"target_version": 1, "reason": 2}, ["target_version", "reason"]),
        ({"target_version": "1.0.0", "to": "1.0.0"}, ["to"]),
        ([], ["", "target_version"]),
    ],
)
def test_a_malformed_rollback_is_refused(admin: Rest, path: str, body: object, paths: list[str]) -> None:
    """422 names every bad field."""
    answer = admin.post(f"{path}/rollback", body)
    assert answer.status == 422
    assert [error["path"] for error in answer.body["errors"]] == paths


def test_a_retired_agent_is_not_rolled_back(admin: Rest, path: str) -> None:
    """409; its versions stay readable."""
    admin.delete(path)
    assert admin.post(f"{path}/rollback", {"target_version": "1.0.0"}).status == 409
    assert admin.get(f"{path}/versions").body["total"] == 3


def test_a_stored_version_that_breaks_the_rules_of_today_is_not_restored(fresh: Served) -> None:
    """409 says what is wrong with it, and the agent stays as it is."""
    admin = fresh.rest()
    admin.register("broken-past-prod")
    path = f"{REGISTRY}/broken-past-prod"
    admin.put(path, {"max_actions_per_minute": 10})
    fresh.sql("""UPDATE agent_versions SET configuration = '{"agent_id": "broken-past-prod"}' WHERE minor = 0""")
    answer = admin.post(f"{path}/rollback", {"target_version": "1.0.0"})
    assert answer.status == 409
    assert "display_name" in answer.body["detail"]
    assert admin.get(path).body["version"] == "1.1.0"
