"""Values at the edge of what JSON and the databases can hold: the same on SQLite and PostgreSQL."""

import json
from typing import Any

import pytest

from tests.registry_store.serving import Rest

REGISTRY = "/api/agents/registry"
KEPT: dict[str, Any] = {
    "unicode": "😀 é \u202e \ud7ff \ue000",
    "escapes": '"\\\b\f\n\r\t\u0001\u001f\u007f',
    "whole": 2**53 + 1,
    "large": 10**30,
    "small": 1e-300,
    "negative": -0.5,
    "empty": {"": [], "a": {}, "b": "", "c": None},
    "like a date": "2026-11-20T10:00:00Z",
    "like sql": "'; DROP TABLE agents; --",
    "deep": [[[[[[[["x"]]]]]]]],
}
FIELDS = ("metadata", "display_name", "tags", "mcp_capabilities", "action_risk_scores", "unknown \\ud800")
REFUSED = [r'"\u0000"', r'{"\u0000": 1}', r'"\ud800"', r'{"\udfff": 1}', "1e400", "[-1e999]"]


@pytest.mark.parametrize("name", KEPT)
def test_a_value_comes_back_as_it_was_sent(admin: Rest, name: str) -> None:
    """Through a registration, a change, a version and the log."""
    agent_id = f"kept-{list(KEPT).index(name)}-prod"
    admin.register(agent_id, metadata={name: KEPT[name]})
    path = f"{REGISTRY}/{agent_id}"
    assert admin.get(path).body["metadata"] == {name: KEPT[name]}
    same = admin.put(path, {"metadata": {name: KEPT[name]}}).body
    assert same["revision"] == admin.get(path).body["revision"]
    assert admin.get(f"{path}/versions/1.0.0").body["configuration"]["metadata"] == {name: KEPT[name]}
    assert admin.get(f"{path}/activity").body["activities"][-1]["new_state"]["metadata"] == {name: KEPT[name]}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", REFUSED)
def test_a_value_that_no_database_holds_is_refused(admin: Rest, field: str, text: str) -> None:
    """NUL, half a surrogate pair and numbers without end are a 422 wherever they stand."""
    value = {"display_name": text, "tags": f'["x", {text}]'}.get(field, f'{{"x": {text}}}')
    name = "" if field == "display_name" else '"display_name": "x", '
    raw = f'{{"agent_id": "refused-value-prod", {name}"{field}": {value}}}'
    answer = admin.post(REGISTRY, raw.encode())
    assert answer.status in (400, 422), json.dumps(answer.body)
    assert admin.get(f"{REGISTRY}/refused-value-prod").status == 404


@pytest.mark.parametrize("path", ["%00", "a%00b", "%F0%9D%95%8F", "%ED%A0%80", "x" * 300, "..%2Fkeys"])
def test_an_id_that_cannot_be_is_not_found(admin: Rest, path: str) -> None:
    """Whatever stands in a path is no agent's id, and no fault of the store's."""
    for own in (path, f"{path}/policies", f"{path}/versions", f"{path}/activity"):
        assert admin.get(f"{REGISTRY}/{own}").status in (404, 422)
    for query in (f"tag={path}", f"tag={path}&status=active"):
        answer = admin.get(f"{REGISTRY}?{query}")
        assert answer.status == 422 or answer.body["total"] == 0


def test_policies_keep_their_values_too(admin: Rest) -> None:
    """Conditions and parameters of a policy come back as they were sent."""
    admin.register("policed-values-prod")
    path = f"{REGISTRY}/policed-values-prod/policies"
    body = {
        "policy_name": "é",
        "policy_action": "block",
        "conditions": {"attribute_equals": {"a.b": 10**20, "c": 1.5}},
        "action_params": {"team": "😀", "more": {"x": [1e-300, None]}},
    }
    own = admin.post(path, body)
    assert own.status == 201, own.body
    assert body.items() <= admin.get(own.headers["location"]).body.items()
    raw = b'{"policy_name": "n", "policy_action": "block", "action_params": {"team": "\\u0000"}}'
    assert admin.post(path, raw).status == 422
