"""Policies of agents and of the organisation, and MCP servers, over REST."""

import pytest

from tests.registry_store.serving import Rest

REGISTRY = "/api/agents/registry"
POLICY = {"policy_name": "review", "policy_action": "require_approval", "conditions": {"amount_above": 10}}


@pytest.fixture(scope="module")
def path(admin: Rest) -> str:
    admin.register("policed-agent-prod")
    return f"{REGISTRY}/policed-agent-prod/policies"


def test_a_policy_is_added_read_changed_and_removed(admin: Rest, path: str) -> None:
    """The whole life of a policy, the fields that are not sent staying as they were."""
    added = admin.post(path, POLICY)
    assert added.status == 201
    assert {
        "priority": 100,
        "mode": "enforce",
        "on_missing": "no_match",
        "is_active": True,
    }.items() <= added.body.items()
    own = added.headers["location"]
    assert own == f"{path}/{added.body['policy_id']}"
    assert admin.get(own).body == added.body
    changed = admin.put(own, {"priority": 5}).body
    differing = {name for name in changed if changed[name] != added.body[name]}
    assert differing == {"priority", "version", "revision", "updated_at"}
    assert admin.delete(own, {"reason": "no longer needed"}).status == 204
    assert admin.get(own).status == 404


def test_policies_are_listed_in_the_order_of_evaluation(admin: Rest) -> None:
    """By priority, then older first."""
    admin.register("ordered-agent-prod")
    path = f"{REGISTRY}/ordered-agent-prod/policies"
    for name, priority in (("third", 20), ("first", 10), ("second", 10)):
        admin.post(path, {**POLICY, "policy_name": name, "priority": priority})
    body = admin.get(f"{path}?limit=2").body
    assert [policy["policy_name"] for policy in body["policies"]] == ["first", "second"]
    assert (body["agent_id"], body["total"]) == ("ordered-agent-prod", 3)


def test_a_name_is_unique_within_the_agent(admin: Rest, path: str) -> None:
    """A second policy of the name is a 409, also by renaming; another agent may use it."""
    admin.post(path, {**POLICY, "policy_name": "unique"})
    other = admin.post(path, {**POLICY, "policy_name": "other"}).body["policy_id"]
    assert admin.post(path, {**POLICY, "policy_name": "unique"}).status == 409
    assert admin.put(f"{path}/{other}", {"policy_name": "unique"}).status == 409
    admin.register("second-agent-prod")
    second = f"{REGISTRY}/second-agent-prod/policies"
    assert admin.post(second, {**POLICY, "policy_name": "unique"}).status == 201


def test_bad_conditions_are_refused_all_at_once(admin: Rest, path: str) -> None:
    """Unknown operators, wrong types and empty ranges are told together."""
    conditions = {"amount_over": 1, "risk_above": "high", "hour_after": 30}
    answer = admin.post(path, {"policy_name": "bad", "policy_action": "shrug", "conditions": conditions})
    paths = {error["path"] for error in answer.body["errors"]}
    assert answer.status == 422
    assert paths == {"policy_action", "conditions.amount_over", "conditions.risk_above", "conditions.hour_after"}


def test_an_agents_policy_is_found_under_that_agent_alone(admin: Rest, path: str) -> None:
    """The same id under another agent, or under the organisation, is a 404."""
    policy_id = admin.post(path, {**POLICY, "policy_name": "mine"}).body["policy_id"]
    admin.register("stranger-agent-prod")
    assert admin.get(f"{REGISTRY}/stranger-agent-prod/policies/{policy_id}").status == 404
    assert admin.get(f"/api/agents/policies/{policy_id}").status == 404
    assert admin.get(f"{REGISTRY}/nobody-here/policies").status == 404
    assert admin.post(f"{REGISTRY}/nobody-here/policies", POLICY).status == 404


def test_an_organisation_policy_has_a_selector(admin: Rest) -> None:
    """applies_to is kept, checked, and of no use in an agent's policy."""
    body = {**POLICY, "policy_name": "pci", "applies_to": {"tags": ["pci"], "agent_types": ["autonomous"]}}
    added = admin.post("/api/agents/policies", body)
    assert added.status == 201
    assert added.body["applies_to"] == body["applies_to"]
    assert admin.put(added.headers["location"], {"applies_to": {"tags": []}}).body["applies_to"] == {
        "tags": [],
        "agent_types": [],
    }
    assert admin.post("/api/agents/policies", {**body, "applies_to": {"tag": []}}).status == 422
    assert admin.post(f"{REGISTRY}/policed-agent-prod/policies", body).status == 422
    assert admin.delete(added.headers["location"]).status == 204


def test_if_match_guards_policies(admin: Rest, path: str) -> None:
    """A stale ETag neither changes nor removes a policy."""
    added = admin.post(path, {**POLICY, "policy_name": "guarded"})
    own, tag = added.headers["location"], added.headers["etag"]
    assert admin.put(own, {"priority": 7}, If_Match=tag).status == 200
    assert admin.put(own, {"priority": 8}, If_Match=tag).status == 412
    assert admin.delete(own, If_Match=tag).status == 412
    assert admin.get(own).body["priority"] == 7


def test_an_mcp_server_is_added_read_changed_and_removed(admin: Rest) -> None:
    """The whole life of a server; a tool in both lists is refused; the name stays."""
    servers = "/api/agents/mcp/servers"
    body = {"server_name": "files", "blocked_tools": ["rm"], "tool_risk_overrides": {"write": 60}}
    added = admin.post(servers, body)
    own = added.headers["location"]
    assert body.items() <= added.body.items()
    assert admin.post(servers, body).status == 409
    assert admin.put(own, {"auto_approve_tools": ["rm"]}).status == 422
    assert admin.put(own, {"server_name": "other"}).status == 422
    assert admin.put(own, {"governance_enabled": False}).body["governance_enabled"] is False
    assert [server["server_name"] for server in admin.get(servers).body["servers"]] == ["files"]
    assert admin.delete(own).status == 204
    assert admin.get(own).status == 404
