"""An agent and its policies as one document over REST."""

from typing import Any

import pytest

from tests.registry_store.serving import Answer, Rest, Served

REGISTRY = "/api/agents/registry"
DECLARATIONS = "/api/agents/declarations"


def declare(admin: Rest, agent_id: str, _headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    body = {"display_name": agent_id, **fields}
    return admin.put(f"{DECLARATIONS}/{agent_id}", body, **(_headers or {}))


def policy(name: str, **fields: Any) -> dict[str, Any]:
    return {"policy_name": name, "policy_action": "block", **fields}


def names(admin: Rest, agent_id: str) -> list[str]:
    return [body["policy_name"] for body in admin.get(f"{REGISTRY}/{agent_id}/policies").body["policies"]]


def test_a_declaration_makes_an_agent_with_its_policies(admin: Rest) -> None:
    """Registered, given its policies in their order, and active: in one transaction, so at one revision."""
    before = admin.register("revision-before-prod")["revision"]
    policies = [policy(name) for name in ("second-to-none", "b", "a")]
    answer = declare(admin, "declared-prod", status="active", policies=policies, version_notes="SEC-1")
    assert (answer.status, answer.body["status"]) == (201, "active")
    assert admin.get(f"{REGISTRY}/declared-prod").body["revision"] == before + 1
    assert names(admin, "declared-prod") == ["second-to-none", "b", "a"]
    got = admin.get(f"{DECLARATIONS}/declared-prod")
    assert (got.body | {"warnings": []}, got.headers["etag"]) == (answer.body, answer.headers["etag"])
    schema = admin.get("/openapi.json").body["components"]["schemas"]["Declaration"]
    assert got.body.keys() == schema["properties"].keys()


def test_a_declaration_is_the_whole_truth(admin: Rest) -> None:
    """What it leaves out has its default again; policies that it does not name are gone, others keep their ids."""
    policies = [policy("kept", priority=5), policy("changed", priority=5), policy("dropped")]
    declare(admin, "whole-truth-prod", auto_approve_below=10, tags=["x"], policies=policies)
    ids = {
        body["policy_name"]: body["policy_id"]
        for body in admin.get(f"{REGISTRY}/whole-truth-prod/policies").body["policies"]
    }
    answer = declare(
        admin,
        "whole-truth-prod",
        policies=[policy("kept", priority=5), policy("changed", priority=7), policy("added")],
    )
    assert (answer.status, answer.body["auto_approve_below"], answer.body["tags"]) == (200, 30, [])
    after = admin.get(f"{REGISTRY}/whole-truth-prod/policies").body["policies"]
    assert {body["policy_name"]: body["priority"] for body in after} == {"kept": 5, "changed": 7, "added": 100}
    assert [ids.get(body["policy_name"]) == body["policy_id"] for body in after] == [True, True, False]
    types = [entry["activity_type"] for entry in admin.get(f"{REGISTRY}/whole-truth-prod/activity").body["activities"]]
    assert sorted(types[:4]) == ["policy_added", "policy_removed", "policy_updated", "updated"]
    assert admin.get(f"{REGISTRY}/whole-truth-prod").body["version"] == "1.1.0"


def test_what_is_so_already_changes_nothing(admin: Rest) -> None:
    """No revision, no version, no entry."""
    fields: dict[str, Any] = {"status": "suspended", "metadata": {"a": 1.5}, "policies": [policy("p")]}
    first = declare(admin, "settled-prod", **fields)
    entries = admin.get("/api/activity").body["total"]
    again = declare(admin, "settled-prod", **fields)
    assert (again.status, again.body) == (200, first.body)
    got = admin.get(f"{DECLARATIONS}/settled-prod").body
    sent_back = admin.put(f"{DECLARATIONS}/settled-prod", got)
    assert (sent_back.status, sent_back.body | {"warnings": []}) == (200, first.body)
    assert admin.get("/api/activity").body["total"] == entries


def test_true_is_not_one(admin: Rest) -> None:
    """Nor is it the same to write 1 in its place; 1.0 for 1 changes nothing."""
    declare(admin, "typed-prod", metadata={"flag": True, "number": 1})
    before = admin.get(f"{REGISTRY}/typed-prod").body["revision"]
    assert declare(admin, "typed-prod", metadata={"flag": True, "number": 1.0}).status == 200
    assert admin.get(f"{REGISTRY}/typed-prod").body["revision"] == before
    assert declare(admin, "typed-prod", metadata={"flag": 1, "number": 1}).body["metadata"]["flag"] is not True


@pytest.mark.parametrize(
    ("before", "wanted", "status", "after"),
    [
        ("draft", "active", 200, "active"),
        ("draft", "suspended", 200, "suspended"),
        ("draft", None, 200, "draft"),
        ("active", None, 200, "active"),
        ("active", "suspended", 200, "suspended"),
        ("active", "draft", 409, "active"),
        ("suspended", "active", 409, "suspended"),
        ("suspended", None, 200, "suspended"),
        ("retired", "active", 409, "retired"),
    ],
)
def test_a_declaration_moves_the_status_but_ends_no_suspension(
    admin: Rest, before: str, wanted: str | None, status: int, after: str
) -> None:
    """Whoever suspended an agent is not overruled by the next run of a pipeline."""
    agent_id = f"status-{before}-{wanted}-prod".lower()
    declare(admin, agent_id, status=None if before == "retired" else before)
    if before == "retired":
        admin.delete(f"{REGISTRY}/{agent_id}")
    answer = declare(admin, agent_id, status=wanted, auto_approve_below=1)
    assert answer.status == status, answer.body
    got = admin.get(f"{REGISTRY}/{agent_id}").body
    assert (got["status"], got["auto_approve_below"]) == (after, 1 if status == 200 else 30)


def test_a_stale_declaration_is_refused(admin: Rest) -> None:
    """Also when it was only a policy that changed since; and one that should register finds the id taken."""
    tag = declare(admin, "stale-prod").headers["etag"]
    admin.post(f"{REGISTRY}/stale-prod/policies", policy("meanwhile"))
    assert declare(admin, "stale-prod", {"if_match": tag}).status == 412
    assert declare(admin, "stale-prod", {"if_none_match": "*"}).status == 412
    assert declare(admin, "never-there-prod", {"if_match": "*"}).status == 412
    assert names(admin, "stale-prod") == ["meanwhile"]
    fresh = admin.get(f"{DECLARATIONS}/stale-prod").headers["etag"]
    assert declare(admin, "stale-prod", {"if_match": fresh}).status == 200


def test_every_problem_is_told_by_its_path(admin: Rest) -> None:
    """Those of the agent and of each of its policies, at once."""
    policies = [policy("p", priority=-1), {"policy_action": "no"}, policy("p"), policy("q", conditions={"x": 1})]
    answer = declare(admin, "problems-prod", auto_approve_below=101, status="retired", nonsense=1, policies=policies)
    assert answer.status == 422
    assert {problem["path"] for problem in answer.body["errors"]} == {
        *("auto_approve_below", "status", "nonsense", "policies[0].priority", "policies[1].policy_name"),
        *("policies[1].policy_action", "policies[2].policy_name", "policies[3].conditions.x"),
    }
    assert admin.put(f"{DECLARATIONS}/problems-prod", {"agent_id": "another-prod"}).status == 422
    assert admin.put(f"{DECLARATIONS}/problems-prod", []).status == 422
    assert admin.get(f"{REGISTRY}/problems-prod").status == 404


def test_readers_read_declarations_and_admins_write_them(store: Served, admin: Rest) -> None:
    """A plan needs no key that could carry it out."""
    declare(admin, "readable-prod", policies=[policy("p")])
    viewer = store.rest("viewer")
    assert viewer.get(f"{DECLARATIONS}/readable-prod").body["policies"][0]["policy_name"] == "p"
    assert declare(viewer, "readable-prod").status == 403
    assert store.rest("sidecar").get(f"{DECLARATIONS}/readable-prod").status == 403


def test_declarations_are_listed_without_the_retired(admin: Rest) -> None:
    """By id, each with its policies, in pages."""
    for number in range(3):
        declare(admin, f"zz-listed-{number}", policies=[policy(f"p{number}")])
    admin.delete(f"{REGISTRY}/zz-listed-1")
    total = admin.get(f"{DECLARATIONS}?limit=1").body["total"]
    page = admin.get(f"{DECLARATIONS}?limit=2&offset={total - 2}").body
    assert [(one["agent_id"], one["policies"][0]["policy_name"]) for one in page["declarations"]] == [
        *(("zz-listed-0", "p0"), ("zz-listed-2", "p2")),
    ]


def test_a_page_is_bounded_by_its_size(admin: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends early, but never before its first agent."""
    from registry_store.records import declarations

    monkeypatch.setattr(declarations, "MAX_PAGE_BYTES", 1)
    declare(admin, "sized-prod", policies=[policy("p")])
    assert len(admin.get(DECLARATIONS).body["declarations"]) == 1
