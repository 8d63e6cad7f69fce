"""The interface's own description: schemathesis holds the store to it, and its examples work as printed."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from registry_store.rest.resources import operations
from registry_store.rest.table import routes
from registry_store.settings import Settings
from tests.registry_store.approving import opened, record
from tests.registry_store.reporting import Log, decision, report
from tests.registry_store.serving import WAIT_SECONDS, Rest, Served, served

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
REGISTRY = "/api/agents/registry"
RULE = f"{REGISTRY}/{{agent_id}}/policies/{{policy_id}}"
AGENT_ID = "finance-transaction-processor-prod"
NODE_ID = "payments-pod-1"
EVERYTHING = ["--exclude-checks", "use_after_free"]
ERASED = ["--include-path-regex", r"^/api/agents/(policies(/\{policy_id\})?$|mcp/servers)"]
"""One check asks that what was deleted is gone. By contract an agent is retired and a key revoked, and both stay
readable; so do the versions of a policy. The check looks at policies and servers alone, which are erased."""

CONFIG = """\
# No schema can say that one field's value bounds another's, or that a record is in a state that forbids the request.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422"]

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "422"]

# The tool must not revoke the key that it works with.
[[operations]]
include-name = "DELETE /api/keys/{{key_id}}"
parameters = {{ "path.key_id" = "{key_id}" }}

[[operations]]
include-name = "POST /api/sidecars/{{node_id}}/release"
parameters = {{ "path.node_id" = "{node_id}" }}

[dictionaries.of_agent]
values = ["{policy_id}"]

[dictionaries.of_organisation]
values = ["{organisation_policy_id}"]

[[operations]]
include-path = "/api/agents/registry/{{agent_id}}/policies/{{policy_id}}"
parameters = {{ "path.policy_id" = {{ dictionary = "of_agent", probability = 0.5 }} }}

[[operations]]
include-path = "/api/agents/policies/{{policy_id}}"
parameters = {{ "path.policy_id" = {{ dictionary = "of_organisation", probability = 0.5 }} }}

[[operations]]
include-path = "/api/agents/registry/{{agent_id}}/policies/{{policy_id}}/rollback"
parameters = {{ "path.policy_id" = {{ dictionary = "of_agent", probability = 0.5 }} }}

[[operations]]
include-path = "/api/agents/policies/{{policy_id}}/rollback"
parameters = {{ "path.policy_id" = {{ dictionary = "of_organisation", probability = 0.5 }} }}

[dictionaries.asked]
values = {approval_ids}

[[operations]]
include-path = "/api/approvals/{{approval_id}}"
parameters = {{ "path.approval_id" = {{ dictionary = "asked", probability = 0.5 }} }}

[[operations]]
include-path = "/api/approvals/{{approval_id}}/approve"
parameters = {{ "path.approval_id" = {{ dictionary = "asked", probability = 0.5 }} }}

[[operations]]
include-path = "/api/approvals/{{approval_id}}/deny"
parameters = {{ "path.approval_id" = {{ dictionary = "asked", probability = 0.5 }} }}
"""


def examples(admin: Rest) -> dict[str, Any]:
    """The body that each route shows, by `METHOD path`."""
    return {
        f"{method.upper()} {path}": operation["requestBody"]["content"]["application/json"]["example"]
        for path, operations in admin.get("/openapi.json").body["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }


def filled(store: Served, admin: Rest) -> dict[str, Any]:
    """Registers the example's agent with a policy and the organisation's, for which a sidecar decides and asks.

    Returns the ids that were made.
    """
    asked = [record(agent_id=AGENT_ID, amount=number) for number in range(20)]
    report(store, decision(agent_id=AGENT_ID), decision("block"), *asked, log=Log(NODE_ID))
    shown = examples(admin)
    assert admin.post(REGISTRY, shown[f"POST {REGISTRY}"]).status == 201
    own = shown[f"POST {REGISTRY}/{{agent_id}}/policies"]
    return {
        "policy_id": admin.post(f"{REGISTRY}/{AGENT_ID}/policies", own).body["policy_id"],
        "organisation_policy_id": admin.post("/api/agents/policies", shown["POST /api/agents/policies"]).body[
            "policy_id"
        ],
        "key_id": admin.post("/api/keys", shown["POST /api/keys"]).body["key_id"],
        "node_id": NODE_ID,
        "approval_ids": [one["opens"]["approval_id"] for one in asked],
    }


def attacked(settings: Settings, folder: Path, *options: str) -> tuple[int, str]:
    """schemathesis against a store of its own, with all checks on: its exit code and its report."""
    # Each route is asked with wrong keys, which must be told so rather than to wait.
    with served(replace(settings, most_failed_keys=1_000_000)) as store:
        admin = store.rest()
        config = CONFIG.format(**filled(store, admin))
        (folder / "schemathesis.toml").write_text(config)
        command = [SCHEMATHESIS, "--config-file", "schemathesis.toml", "run", "--checks", "all", "--no-color"]
        command += ["--request-timeout", str(WAIT_SECONDS)]
        command += ["-H", f"Authorization: Bearer {admin.key}", *options, f"http://{admin.address}/openapi.json"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("scope", [EVERYTHING, ERASED], ids=["everything", "erased"])
def test_the_store_keeps_to_its_description(settings: Settings, tmp_path: Path, scope: list[str]) -> None:
    """schemathesis finds no 5xx, no undocumented answer, and nothing else with all of its checks on.

    Without its phase that covers every field of every body, which takes most of its time; the long run has that.
    """
    options = ["--phases", "examples,fuzzing,stateful", "--max-examples", "2", "--seed", "1"]
    code, report = attacked(settings, tmp_path, *scope, *options)
    assert code == 0, report


@pytest.mark.soak
@pytest.mark.parametrize("scope", [EVERYTHING, ERASED], ids=["everything", "erased"])
def test_the_store_keeps_to_its_description_for_long(settings: Settings, tmp_path: Path, scope: list[str]) -> None:
    """Likewise over every field of every body, many generated requests and sequences of them."""
    options = ["--max-examples", "100", "--max-time", "600"]
    code, report = attacked(settings, tmp_path, *scope, *options)
    assert code == 0, report


def test_the_examples_work_as_printed(fresh: Served) -> None:
    """Each body that the description shows is accepted by a fresh store, once what it builds on is there."""
    admin = fresh.rest()
    ids: dict[str, str] = {}
    for verb in ("approve", "deny"):
        ids[f"/api/approvals/approval_id/{verb}"] = opened(fresh)
    report(fresh, decision(), log=Log(NODE_ID))
    asked = sorted(examples(admin).items(), key=lambda shown: _turn(*shown[0].split()))
    assert len(asked) > 15
    for route, body in asked:
        method, path = route.split()
        sent = body | {name: ids[name] for name in ("stop_id",) if name in body}
        answer = admin.call(method, _with_ids(path, ids), sent)
        assert answer.status in (200, 201, 204), (route, answer.body)
        if method == "POST" and answer.body:
            ids |= {f"{path}/{name}": value for name, value in answer.body.items() if name.endswith(("_id", "_name"))}
            ids |= {"stop_id": answer.body["stop_id"]} if "stop_id" in answer.body else {}


def test_answers_say_what_is_described_and_no_more(store: Served, admin: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member of a record and of a page is in the description, and the other way round."""
    monkeypatch.setattr(operations, "MAX_DATABASE_AGE_SECONDS", WAIT_SECONDS)
    document = admin.get("/openapi.json").body
    admin.register("described-agent-prod")
    admin.put(f"{REGISTRY}/described-agent-prod", {"auto_approve_below": 10})
    decided, asked = decision(agent_id="described-agent-prod"), record(agent_id="described-agent-prod")
    report(store, decided, asked)
    own = f"{REGISTRY}/described-agent-prod"
    rule = admin.post(f"{own}/policies", {"policy_name": "p", "policy_action": "block"}).headers["location"]
    admin.put(rule, {"priority": 5})
    stop_id = admin.post("/api/agents/emergency-stop", {"agent_ids": ["described-agent-prod"]}).body["stop_id"]
    for path, shown in (
        (own, f"{REGISTRY}/{{agent_id}}"),
        (REGISTRY, REGISTRY),
        (f"{own}/versions", f"{REGISTRY}/{{agent_id}}/versions"),
        (f"{own}/versions/1.1.0", f"{REGISTRY}/{{agent_id}}/versions/{{version}}"),
        (f"{own}/versions/1.0.0/diff/1.1.0", f"{REGISTRY}/{{agent_id}}/versions/{{version}}/diff/{{other}}"),
        (f"{rule}/versions", f"{RULE}/versions"),
        (f"{rule}/versions/1.1.0", f"{RULE}/versions/{{version}}"),
        (f"{rule}/versions/1.0.0/diff/1.1.0", f"{RULE}/versions/{{version}}/diff/{{other}}"),
        (f"{own}/usage", f"{REGISTRY}/{{agent_id}}/usage"),
        (f"{own}/activity", f"{REGISTRY}/{{agent_id}}/activity"),
        (f"/api/agents/emergency-stops/{stop_id}", "/api/agents/emergency-stops/{stop_id}"),
        ("/api/decisions", "/api/decisions"),
        (f"/api/decisions/{decided['decision_id']}", "/api/decisions/{decision_id}"),
        ("/api/approvals", "/api/approvals"),
        (f"/api/approvals/{asked['opens']['approval_id']}", "/api/approvals/{approval_id}"),
        ("/api/keys", "/api/keys"),
        ("/api/sidecars", "/api/sidecars"),
        ("/readyz", "/readyz"),
    ):
        schema = document["paths"][shown]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        _compare(admin.get(path).body, schema, document)


def test_a_person_can_tell_the_operations_apart(admin: Rest) -> None:
    """Each has a name and a summary of its own, and one tag, which is described."""
    document = admin.get("/openapi.json").body
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    for told in ("operationId", "summary"):
        assert len({operation[told] for operation in operations}) == len(operations) == len(list(routes()))
    assert {operation["operationId"] for operation in operations} > {"read_agent", "read_version", "list_mcp_servers"}
    described = [tag["name"] for tag in document["tags"] if tag["description"]]
    assert sorted(described) == sorted({tag for operation in operations for tag in operation["tags"]})
    assert {len(operation["tags"]) for operation in operations} == {1}


def test_an_action_and_an_answer_are_described_member_by_member(store: Served, admin: Rest) -> None:
    """Records as sidecars write them have just these members, and each is of its type."""
    document = admin.get("/openapi.json").body
    blocked, asked = decision("block", agent_id="typed-agent-prod"), record(agent_id="typed-agent-prod")
    report(store, blocked, asked)
    schemas = document["components"]["schemas"]
    for one in (blocked, asked):
        shown = admin.get(f"/api/decisions/{one['decision_id']}").body
        assert shown["action"].keys() == schemas["Action"]["properties"].keys()
        assert shown["answer"].keys() == schemas["Answer"]["properties"].keys()
        for name, value in (("Decision", shown), ("Approval", _approval(admin, shown))):
            if value is not None:
                validator(document, name).validate(value)
    wrong = blocked["answer"] | {"reason": "BECAUSE"}
    assert not validator(document, "Answer").is_valid(wrong)


@pytest.mark.parametrize("accept", ["text/html,application/xml;q=0.9,*/*;q=0.8", "application/json", "*/*"])
def test_the_root_says_what_this_is(store: Served, accept: str) -> None:
    """Without a key; to a browser as a page without scripts, to all others as JSON; every link leads somewhere."""
    anybody = store.rest(None)
    answer = anybody.get("/", accept=accept)
    assert answer.status == 200
    if accept.startswith("text/html"):
        links = re.findall('<li><a href="([^"]+)"', answer.body)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert "<script" not in answer.body
    else:
        links = list(answer.body["links"])
        assert answer.body["name"] == "registry-store"
    assert links == ["/approvals", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"]
    assert {anybody.get(link).status for link in links} == {200}


def validator(document: Any, name: str) -> jsonschema_rs.Validator:
    """What tells whether a value is as the document describes a component."""
    reference = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(reference)


def _approval(admin: Rest, shown: Any) -> Any:
    if shown["opens"] is None:
        return None
    return admin.get(f"/api/approvals/{shown['opens']['approval_id']}").body


def _turn(method: str, path: str) -> tuple[int, int]:
    """What is made comes first, what is removed last, and an agent after all that it has."""
    if method == "DELETE":
        return 3, -len(path)
    return (2 if path.endswith("/suspend") else 1 if method == "PUT" else 0), 0


def _with_ids(path: str, ids: dict[str, str]) -> str:
    path = path.replace("{approval_id}", ids.get(path.replace("{approval_id}", "approval_id"), ""))
    for name in ("policy_id", "server_name"):
        path = path.replace(f"{{{name}}}", ids.get(f"{path.partition('/{' + name)[0]}/{name}", name))
    return path.replace("{agent_id}", AGENT_ID).replace("{node_id}", NODE_ID)


def _compare(value: Any, schema: Any, document: Any) -> None:
    properties = _properties(schema, document)
    assert value.keys() == properties.keys()
    for name, part in properties.items():
        items = part.get("items", {})
        if value[name] and ("$ref" in items or "properties" in items):
            _compare(value[name][0], items, document)


def _properties(schema: Any, document: Any) -> dict[str, Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found = dict(schema.get("properties", {}))
    for part in schema.get("allOf", ()):
        found |= _properties(part, document)
    return found
