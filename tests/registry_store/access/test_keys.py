"""Keys: shown once, bound to a role, refused after revocation."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry_store.cli import main
from registry_store.errors import StartError
from registry_store.settings import Settings
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import Rest, Served, served

REGISTRY = "/api/agents/registry"


def test_a_key_is_shown_once(admin: Rest) -> None:
    """The answer to its creation holds the key, and no other."""
    made = admin.post("/api/keys", {"role": "viewer", "name": "auditor"})
    assert made.status == 201
    assert made.body["key"].startswith("owkai_")
    assert made.body["key"].split("_", 2)[2] not in str(admin.get("/api/keys").body)
    assert Rest(admin.address, made.body["key"]).get(REGISTRY).status == 200


def test_only_its_hash_is_kept(tmp_path: Path) -> None:
    """The database's files do not hold the key."""
    with served(settings_in(tmp_path)) as store:
        secret = store.key("viewer").split("_", 2)[2]
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert files
    assert not any(secret.encode() in content for content in files)


@pytest.mark.parametrize("key", [None, "", "owkai_", "owkai_0_x", "nonsense", "owkai_0123456789abcdef_" + "x" * 43])
def test_a_missing_or_wrong_key_is_401(store: Served, key: str | None) -> None:
    """Without a valid key the answer says only that."""
    answer = Rest(store.running.http_address, key).get(REGISTRY)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_revoked_key_is_401_at_once(store: Served, admin: Rest) -> None:
    """Revocation takes effect with the next request, and twice is no error."""
    rest = store.rest("viewer")
    assert rest.get(REGISTRY).status == 200
    own = f"/api/keys/{rest.key.split('_')[1]}"  # type: ignore[union-attr]
    assert admin.delete(own).body["revoked_at"] is not None
    assert rest.get(REGISTRY).status == 401
    assert admin.delete(own).status == 200
    assert admin.delete("/api/keys/nothing").status == 404


def test_an_expired_key_is_401(store: Served, admin: Rest) -> None:
    """A key is refused from the moment at which it expires."""
    made = admin.post("/api/keys", {"role": "viewer", "name": "x", "expires_at": "2100-01-01T00:00:00+02:00"})
    assert made.body["expires_at"] == "2099-12-31T22:00:00.000000Z"
    viewer = Rest(admin.address, made.body["key"])
    assert viewer.get(REGISTRY).status == 200
    store.sql(f"UPDATE keys SET expires_at = '2020-01-01 00:00:00.000000' WHERE key_id = '{made.body['key_id']}'")
    assert viewer.get(REGISTRY).body["detail"] == "the key has expired"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"role": "viewer"}, "name"),
        ({"role": "king", "name": "x"}, "role"),
        ({"role": "viewer", "name": "x", "agent_id": "some-agent-prod"}, "agent_id"),
        ({"role": "viewer", "name": "x", "groups": ["finance"]}, "groups"),
        ({"role": "sidecar", "name": "x", "groups": ["finance"]}, "groups"),
        ({"role": "viewer", "name": "x", "mfa": True}, "mfa"),
        ({"role": "admin", "name": "x", "mfa": "yes"}, "mfa"),
        ({"role": "approver", "name": "x", "groups": "finance"}, "groups"),
        ({"role": "approver", "name": "x", "groups": ["finance", "finance"]}, "groups[1]"),
        ({"role": "approver", "name": "x", "groups": [""]}, "groups[0]"),
        ({"role": "approver", "name": "x", "groups": [str(number) for number in range(65)]}, "groups"),
        ({"role": "viewer", "name": "x", "agents": ["some-agent-prod"]}, "agents"),
        ({"role": "admin", "name": "x", "tags": ["finance"]}, "tags"),
        ({"role": "sidecar", "name": "x", "agents": []}, "agents"),
        ({"role": "sidecar", "name": "x", "tags": []}, "tags"),
        ({"role": "sidecar", "name": "x", "agents": "some-agent-prod"}, "agents"),
        ({"role": "sidecar", "name": "x", "agents": ["some-agent-prod", "x"]}, "agents[1]"),
        ({"role": "sidecar", "name": "x", "agents": ["some-agent-prod"] * 2}, "agents[1]"),
        ({"role": "sidecar", "name": "x", "agents": [f"agent-{number}" for number in range(1001)]}, "agents"),
        ({"role": "sidecar", "name": "x", "tags": [f"tag-{number}" for number in range(65)]}, "tags"),
        ({"role": "sidecar", "name": "x", "tags": ["x" * 129]}, "tags[0]"),
        ({"role": "sidecar", "name": "x", "agents": ["some-agent-prod"], "tags": ["finance"]}, "tags"),
        ({"role": "viewer", "name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"role": "viewer", "name": "x", "expires_at": "2100-01-01T00:00:00"}, "expires_at"),
        ({"role": "viewer", "name": "x", "expires_at": "soon"}, "expires_at"),
        ({"role": "viewer", "name": "x", "expires_at": 5}, "expires_at"),
        ({"role": "viewer", "name": "x", "secret": "mine"}, "secret"),
    ],
)
def test_a_malformed_key_request_is_refused(admin: Rest, body: dict[str, object], path: str) -> None:
    """422 names the bad field."""
    answer = admin.post("/api/keys", body)
    assert answer.status == 422
    assert [error["path"] for error in answer.body["errors"]] == [path]


@pytest.mark.parametrize("role", ["approver", "admin"])
def test_a_key_that_decides_approvals_belongs_to_groups(admin: Rest, role: str) -> None:
    """As its record, the list of keys and the activity log show; by default in no group."""
    groups = ["finance-approvers", "risk"]
    made = admin.post("/api/keys", {"role": role, "name": "fiona", "groups": groups, "mfa": True}).body
    assert (made["groups"], made["mfa"]) == (groups, True)
    assert admin.get(f"/api/keys/{made['key_id']}").body["groups"] == groups
    assert admin.get("/api/keys?limit=1").body["keys"][0]["groups"] == groups
    entry = admin.get("/api/activity?limit=1&type=key_created").body["activities"][0]
    assert (entry["new_state"]["groups"], entry["new_state"]["mfa"]) == (groups, True)
    plain = admin.post("/api/keys", {"role": role, "name": "alan"}).body
    assert (plain["groups"], plain["mfa"]) == ([], False)


def test_keys_of_groups_are_made_on_the_command_line(settings: Settings) -> None:
    """One `--group` per group, and `--mfa`; the list shows them."""
    where = ["--database", settings.database, "--pepper-file", str(settings.pepper_path())]
    groups = ["--group", "finance approvers", "--group", "risk"]
    person = ["--role", "approver", "--name", "fiona", "--mfa"]
    made = CliRunner().invoke(main, ["keys", "create", *person, *groups, *where])
    assert made.exit_code == 0, made.output
    key_id = made.stdout.split("_")[1]
    listed = CliRunner().invoke(main, ["keys", "list", *where[:2]]).stdout
    assert listed == f"{key_id}  approver  valid    fiona  (finance approvers, risk, mfa)\n"
    refused = CliRunner().invoke(main, ["keys", "create", "--role", "viewer", "--name", "x", "--group", "risk", *where])
    assert (refused.exit_code, "only a key of role approver or admin belongs to groups" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    "bound", [{"agents": ["payroll-agent-prod", "ledger-agent-prod"]}, {"tags": ["finance", "b c"]}]
)
def test_a_sidecars_key_is_bound_to_agents_or_tags(admin: Rest, bound: dict[str, list[str]]) -> None:
    """As its record, the list of keys and the activity log show; by default to nothing."""
    made = admin.post("/api/keys", {"role": "sidecar", "name": "pod", **bound}).body
    unbound = {"agents": None, "tags": None}
    listed = admin.get("/api/keys?limit=1").body["keys"][0]
    entry = admin.get("/api/activity?limit=1&type=key_created").body["activities"][0]
    for shown in (made, admin.get(f"/api/keys/{made['key_id']}").body, listed, entry["new_state"]):
        assert {name: shown[name] for name in unbound} == unbound | bound
    other = admin.post("/api/keys", {"role": "sidecar", "name": "pod", **unbound}).body
    assert {name: other[name] for name in unbound} == unbound


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--agents", "payroll-agent-prod, ledger-agent-prod"], "  (agents payroll-agent-prod, ledger-agent-prod)"),
        (["--tags", "finance,eu"], "  (tags finance, eu)"),
        (["--tags", "a\n0123456789abcdef  admin"], "  (tags a\\n0123456789abcdef  admin)"),
        ([], ""),
    ],
)
def test_bound_keys_are_made_on_the_command_line(settings: Settings, options: list[str], shown: str) -> None:
    """The names separated by commas; the list shows them."""
    where = ["--database", settings.database, "--pepper-file", str(settings.pepper_path())]
    made = CliRunner().invoke(main, ["keys", "create", "--role", "sidecar", "--name", "pod", *options, *where])
    assert made.exit_code == 0, made.output
    listed = CliRunner().invoke(main, ["keys", "list", *where[:2]]).stdout
    assert listed == f"{made.stdout.split('_')[1]}  sidecar   valid    pod{shown}\n"


@pytest.mark.parametrize("options", [["--agents", ""], ["--tags", ""], ["--agents", "a-b-c", "--tags", "d"]])
def test_what_binds_to_nothing_or_to_both_makes_no_key(settings: Settings, options: list[str]) -> None:
    """An empty variable must not make a key that is bound to nothing."""
    where = ["--database", settings.database, "--pepper-file", str(settings.pepper_path())]
    refused = CliRunner().invoke(main, ["keys", "create", "--role", "sidecar", "--name", "pod", *options, *where])
    assert (refused.exit_code, refused.stdout) == (2, "")


@pytest.mark.parametrize("role", ["approver", "viewer", "agent", "sidecar"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", f"{REGISTRY}/role-test-prod"),
        ("DELETE", f"{REGISTRY}/role-test-prod"),
        ("POST", f"{REGISTRY}/role-test-prod/activate"),
        ("POST", f"{REGISTRY}/role-test-prod/suspend"),
        ("POST", f"{REGISTRY}/role-test-prod/policies"),
        ("POST", "/api/agents/policies"),
        ("POST", "/api/agents/mcp/servers"),
        ("GET", "/api/keys"),
        ("POST", "/api/keys"),
        ("DELETE", "/api/keys/x"),
    ],
)
def test_only_an_admin_changes_the_registry(store: Served, role: str, method: str, path: str) -> None:
    """Every other role is refused before its request is parsed."""
    assert store.rest(role).call(method, path, {}).status == 403


def test_an_agents_key_registers_and_sees_itself_alone(store: Served, admin: Rest) -> None:
    """The first registration binds the key to that agent; it cannot see any other agent."""
    admin.register("neighbour-agent-prod")
    agent = store.rest("agent")
    assert agent.get(f"{REGISTRY}/neighbour-agent-prod").status == 403
    assert agent.register("own-agent-prod")["status"] == "draft"
    assert agent.get(f"{REGISTRY}/own-agent-prod").status == 200
    assert agent.get(f"{REGISTRY}/own-agent-prod/policies").status == 200
    assert agent.get(f"{REGISTRY}/neighbour-agent-prod").status == 403
    assert agent.get(REGISTRY).status == 403
    assert agent.post(REGISTRY, {"agent_id": "another-agent-prod", "display_name": "x"}).status == 409
    assert admin.get(f"{REGISTRY}/another-agent-prod").status == 404


def test_a_key_made_for_an_agent_registers_that_agent_alone(admin: Rest) -> None:
    """A key with an agent_id cannot take another's name."""
    key = admin.post("/api/keys", {"role": "agent", "name": "pod", "agent_id": "bound-agent-prod"}).body["key"]
    agent = Rest(admin.address, key)
    assert agent.post(REGISTRY, {"agent_id": "free-agent-prod", "display_name": "x"}).status == 409
    assert agent.register("bound-agent-prod")["agent_id"] == "bound-agent-prod"


def test_another_pepper_is_noticed_at_the_start(settings: Settings, tmp_path: Path) -> None:
    """A database whose keys were hashed with another pepper is refused, for every key would fail."""
    with served(settings):
        pass
    other = tmp_path / "other.pepper"
    other.write_text("y" * 64)
    other.chmod(0o600)
    with pytest.raises(StartError, match="pepper"), served(replace(settings, pepper_file=other)):
        pass
