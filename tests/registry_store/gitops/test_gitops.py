"""A folder of YAML applied to a registry and exported from it, with the program against real stores."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import Phase, given, settings

from registry_store.cli import main
from registry_store.gitops.yaml_form import dump
from tests.registry_store.conftest import settings_in
from tests.registry_store.registries import registries
from tests.registry_store.serving import Rest, Served, served

REGISTRY = "/api/agents/registry"
SERVER = {"kind": "mcp_server", "server_name": "files", "blocked_tools": ["rm"]}
RULE = {
    "kind": "organisation_policy",
    "policy_name": "no nights",
    "policy_action": "block",
    "conditions": {"hour_after": 22, "hour_before": 6},
}
AGENT = {
    "kind": "agent",
    "agent_id": "finance-books-prod",
    "display_name": "Books",
    "status": "active",
    "policies": [
        {"policy_name": "high value", "conditions": {"amount_above": 5000}, "policy_action": "require_approval"}
    ],
}


@dataclass
class Repository:
    """A folder, and the store that it is applied to."""

    folder: Path
    store: Served
    admin: Rest
    key_file: Path

    def write(self, *documents: dict[str, Any], name: str = "registry.yaml") -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(dump(*documents))

    def apply(self, *arguments: str, role: str = "admin") -> Result:
        key = self.admin.key if role == "admin" else self.store.key(role)
        return self.run("apply", "-f", str(self.folder), *arguments, key=key)

    def dry_run(self, *arguments: str) -> Result:
        return self.apply("--dry-run", *arguments, role="viewer")

    def export(self, folder: Path) -> Result:
        return self.run("export", "-f", str(folder), key=self.store.key("viewer"))

    def run(self, *arguments: str, key: str | None) -> Result:
        self.key_file.touch(0o600)
        self.key_file.write_text(f"{key}\n")
        where = ("--url", f"http://{self.admin.address}", "--key-file", str(self.key_file))
        return CliRunner().invoke(main, [*arguments, *where])


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """Of a store on SQLite: what is put to the test is the program; the exports below are of both databases."""
    with served(settings_in(tmp_path)) as store:
        yield Repository(tmp_path / "registry", store, store.rest("admin"), tmp_path / "key")


def test_a_folder_is_planned_applied_and_then_in_force(repository: Repository) -> None:
    """The plan needs a viewer's key alone and tells by its exit code that there is something to do."""
    repository.write(AGENT, RULE, SERVER)
    planned = repository.dry_run()
    assert (planned.exit_code, planned.stderr) == (1, "")
    assert planned.stdout.splitlines() == [
        "+ mcp_server `files`",
        '    + server_name: "files"',
        '    + blocked_tools: ["rm"]',
        "+ organisation_policy `no nights`",
        '    + policy_name: "no nights"',
        '    + conditions: {"hour_after": 22, "hour_before": 6}',
        '    + policy_action: "block"',
        "+ agent `finance-books-prod`",
        '    + agent_id: "finance-books-prod"',
        '    + display_name: "Books"',
        '    + status: "active"',
        '    + policies: [{"policy_name": "high value", "conditions": {"amount_above": 5000}, '
        '"policy_action": "require_approval"}]',
        "plan: 3 to create, 0 to change, 0 to remove, 0 unchanged",
    ]
    assert repository.admin.get(REGISTRY).body["total"] == 0
    applied = repository.apply("--yes", "--note", "SEC-1")
    assert (applied.exit_code, applied.stdout.splitlines()[-1]) == (0, "applied: 3 of 3")
    agent = repository.admin.get(f"{REGISTRY}/finance-books-prod").body
    assert agent["status"] == "active"
    assert repository.admin.get("/api/agents/policies").body["policies"][0]["policy_name"] == "no nights"
    entries = repository.admin.get(f"{REGISTRY}/finance-books-prod/activity").body["activities"]
    assert {entry["performed_via"] for entry in entries} == {"cli"}
    again = repository.dry_run()
    assert (again.exit_code, again.stdout) == (0, "plan: 0 to create, 0 to change, 0 to remove, 3 unchanged\n")


def test_a_change_is_shown_by_its_paths(repository: Repository) -> None:
    """Just what differs, entries of lists one by one, policies by name; and nothing but that is written."""
    repository.write(AGENT | {"tags": ["a", "b"]}, RULE, SERVER)
    repository.apply("--yes")
    policy = AGENT["policies"][0] | {"priority": 5}  # type: ignore[index]
    more = {"policy_name": "more", "policy_action": "block"}
    repository.write(
        AGENT | {"tags": ["b", "c"], "auto_approve_below": 20, "policies": [policy, more]},
        RULE | {"conditions": {"hour_after": 21, "hour_before": 6}},
        SERVER,
    )
    changed = repository.apply("--yes", "--note", "SEC-2: tighter")
    assert changed.stdout.splitlines() == [
        "~ organisation_policy `no nights`",
        "    ~ conditions.hour_after: 22 → 21",
        "~ agent `finance-books-prod`",
        '    - tags: "a"',
        '    + tags: "c"',
        "    ~ auto_approve_below: 30 → 20",
        '    ~ policies["high value"].priority: 100 → 5',
        '    + policies["more"]: {"policy_name": "more", "policy_action": "block"}',
        "plan: 0 to create, 2 to change, 0 to remove, 1 unchanged",
        "~ organisation_policy `no nights`: changed",
        "~ agent `finance-books-prod`: changed",
        "applied: 2 of 2",
    ]
    assert repository.dry_run().exit_code == 0
    own, organisation = f"{REGISTRY}/finance-books-prod/policies", "/api/agents/policies"
    changed_policies = [
        f"{path}/{repository.admin.get(path).body['policies'][0]['policy_id']}" for path in (own, organisation)
    ]
    for path in (f"{REGISTRY}/finance-books-prod", *changed_policies):
        newest = repository.admin.get(f"{path}/versions").body["versions"][0]
        assert (newest["version"], newest["version_notes"]) == ("1.1.0", "SEC-2: tighter")


def test_nothing_is_removed_without_prune(repository: Repository) -> None:
    """What the folder does not declare stays, and is named; --prune retires and removes it, after saying so."""
    repository.write(AGENT, RULE, SERVER)
    repository.apply("--yes")
    other = {"kind": "agent", "agent_id": "other-agent-prod", "display_name": "Other"}
    repository.write(AGENT | {"policies": []}, other)
    kept = repository.apply("--yes")
    notes = [line for line in kept.stdout.splitlines() if line.startswith("note: ")]
    assert [note.split("`")[1] for note in notes] == ["high value", "files", "no nights"]
    assert repository.dry_run().exit_code == 0
    (repository.folder / "registry.yaml").write_text(dump(AGENT))
    assert "note: 1 agent is not in the folder and stays; --prune retires it permanently" in repository.dry_run().stdout
    repository.write(AGENT | {"policies": []})
    pruned = repository.apply("--yes", "--prune", "--note", "SEC-3")
    assert pruned.stdout.splitlines() == [
        "~ agent `finance-books-prod`",
        '    - policies["high value"]: {"policy_name": "high value", "conditions": {"amount_above": 5000}, '
        '"policy_action": "require_approval"}',
        "- agent `other-agent-prod`",
        "    retired permanently: its id is never reused",
        "- organisation_policy `no nights`",
        "- mcp_server `files`",
        "plan: 0 to create, 1 to change, 3 to remove, 0 unchanged",
        "~ agent `finance-books-prod`: changed",
        "- agent `other-agent-prod`: retired",
        "- organisation_policy `no nights`: removed",
        "- mcp_server `files`: removed",
        "applied: 4 of 4",
    ]
    assert repository.admin.get(f"{REGISTRY}/other-agent-prod").body["status"] == "retired"
    newest = repository.admin.get("/api/activity").body["activities"][0]
    assert (newest["activity_type"], newest["activity_description"]) == ("server_removed", "SEC-3")
    assert repository.dry_run("--prune").exit_code == 0


def test_an_empty_folder_prunes_nothing(repository: Repository) -> None:
    """A wrong path is no wish to retire every agent."""
    repository.folder.mkdir()
    (repository.folder / "README.md").write_text("none")
    ended = repository.apply("--yes", "--prune")
    assert ended.exit_code == 2
    assert "would remove everything" in ended.stderr


def test_applying_ends_no_suspension(repository: Repository) -> None:
    """An emergency stop is not undone by the next run of a pipeline, and the rest of the change is made."""
    repository.write(AGENT)
    repository.apply("--yes")
    repository.admin.post("/api/agents/emergency-stop", {"all": True, "reason": "SEC-4"})
    repository.write(AGENT | {"auto_approve_below": 5})
    applied = repository.apply("--yes")
    assert applied.exit_code == 0
    assert "note: agent `finance-books-prod` is suspended and stays suspended" in applied.stdout
    agent = repository.admin.get(f"{REGISTRY}/finance-books-prod").body
    assert (agent["status"], agent["auto_approve_below"]) == ("suspended", 5)
    assert repository.dry_run().exit_code == 0


def test_what_no_request_does_is_told_before_anything_is_done(repository: Repository) -> None:
    """A retired agent that is declared again, a draft of what runs."""
    repository.write(AGENT, AGENT | {"agent_id": "second-agent-prod"})
    repository.apply("--yes")
    repository.admin.delete(f"{REGISTRY}/finance-books-prod")
    repository.write(AGENT, AGENT | {"agent_id": "second-agent-prod", "status": "draft"}, SERVER)
    ended = repository.apply("--yes")
    assert ended.exit_code == 2
    assert "agent `finance-books-prod` is retired" in ended.stderr
    assert "agent `second-agent-prod` is active and cannot become a draft again" in ended.stderr
    assert repository.admin.get("/api/agents/mcp/servers").body["total"] == 0


def test_every_problem_of_every_file_is_told_before_anything_is_done(repository: Repository) -> None:
    """With its file, its line and its path."""
    repository.write(SERVER, name="good.yaml")
    texts = {
        "a.yaml": "kind: agent\nagent_id: x\npolicies:\n  - policy_name: p\n    conditions:\n      nope: 1\n",
        "b.yml": "kind: mcp_server\nserver_name: files\n---\nkind: thing\n---\n- 1\n",
        "c.yaml": "kind: mcp_server\nserver_name: c\nserver_name: d\n",
        "d.yaml": "kind: [\n",
        "e.yaml": "kind: agent\nagent_id: eee\ndisplay_name: e\nversion_notes: why\n",
    }
    for name, text in texts.items():
        (repository.folder / name).write_text(text)
    (repository.folder / "f.yaml").write_bytes(b"# \n\xff\n")
    (repository.folder / ".git").mkdir()
    (repository.folder / ".git" / "g.yaml").write_text("kind: thing\n")
    ended = repository.apply("--yes")
    folder = f"{repository.folder}/"
    found = [line.removeprefix(folder).split(" ")[:2] for line in ended.stderr.splitlines()]
    assert ended.exit_code == 2
    assert found == [
        ["a.yaml:1:", "display_name:"],
        ["a.yaml:2:", "agent_id:"],
        ["a.yaml:4:", "policies[0].policy_action:"],
        ["a.yaml:6:", "policies[0].conditions.nope:"],
        ["b.yml:4:", "kind:"],
        ["b.yml:6:", "is"],
        ["c.yaml:3:", "server_name:"],
        ["d.yaml:2:", "not"],
        ["e.yaml:4:", "version_notes:"],
        ["f.yaml:2:", "not"],
        ["good.yaml:2:", "server_name:"],
    ]
    assert f"also at {folder}b.yml:2" in ended.stderr
    assert repository.admin.get("/api/agents/mcp/servers").body["total"] == 0


def test_a_file_that_cannot_be_read_prunes_no_agent(repository: Repository) -> None:
    """A symlink whose target is gone is an error that names it; its agent is not taken for one that was removed."""
    repository.write(SERVER)
    repository.write(AGENT, name="agent.yaml")
    repository.apply("--yes")
    (repository.folder / "agent.yaml").rename(repository.folder.parent / "moved.yaml")
    (repository.folder / "agent.yaml").symlink_to("elsewhere.yaml")
    ended = repository.apply("--prune", "--yes")
    file = repository.folder / "agent.yaml"
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr == f"{file}:1: is a broken symlink\n"
    assert repository.admin.get(f"{REGISTRY}/{AGENT['agent_id']}").body["status"] == "active"


def test_of_very_many_problems_a_hundred_are_told(repository: Repository) -> None:
    """And how many more there are."""
    repository.folder.mkdir()
    (repository.folder / "many.yaml").write_text("kind: thing\n---\n" * 150 + "kind: thing\n")
    ended = repository.apply("--yes")
    lines = ended.stderr.splitlines()
    assert (ended.exit_code, len(lines), lines[-1]) == (2, 101, "and 51 more")


def test_what_changed_since_the_plan_is_not_overwritten(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store refuses the step, and the program tells how far it came."""
    repository.write(AGENT, SERVER)
    repository.apply("--yes")
    repository.write(AGENT | {"auto_approve_below": 5}, SERVER | {"blocked_tools": []})

    def meanwhile(*_: object, **__: object) -> bool:
        repository.admin.put(f"{REGISTRY}/finance-books-prod", {"auto_approve_below": 7})
        return True

    monkeypatch.setattr("registry_store.cli.gitops._confirmed", meanwhile)
    ended = repository.apply()
    assert ended.exit_code == 2
    assert "agent `finance-books-prod`: the record has changed" in ended.stderr
    assert "applied: 1 of 2; run apply again for a new plan" in ended.stderr
    assert repository.admin.get(f"{REGISTRY}/finance-books-prod").body["auto_approve_below"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "ftp://x"], "`ftp://x` is not an http or https URL"),
        (["--url", "http://127.0.0.1:1"], "`http://127.0.0.1:1` does not answer"),
        (["-f", "/nowhere"], "`/nowhere` is not a folder"),
        ([], "`--yes` is required when stdin is not a terminal"),
        (
            ["--url=http://registry.example"],
            "`--url`: `registry.example:80` is beyond this host: it takes an https URL",
        ),
        (["--url=http://registry.invalid", "--plaintext"], "`http://registry.invalid` does not answer"),
    ],
)
def test_what_keeps_it_from_applying_is_one_line(repository: Repository, arguments: list[str], words: str) -> None:
    """Exit code 2, and nothing is done."""
    repository.write(SERVER)
    repository.key_file.touch(0o600)
    repository.key_file.write_text(str(repository.admin.key))
    where = ["-f", str(repository.folder), "--url", f"http://{repository.admin.address}"]
    ended = CliRunner().invoke(main, ["apply", *where, "--key-file", str(repository.key_file), *arguments])
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1)
    assert words in ended.stderr
    assert repository.admin.get("/api/agents/mcp/servers").body["total"] == 0


def test_a_key_that_may_not_is_told_so(repository: Repository) -> None:
    """With the first step that is refused; without a key there is no plan."""
    repository.write(SERVER)
    refused = repository.apply("--yes", role="viewer")
    assert (refused.exit_code, "role viewer" in refused.stderr) == (2, True)
    repository.key_file.write_text("")
    where = ["--url", f"http://{repository.admin.address}", "-f", str(repository.folder)]
    assert "`--key-file` or `REGISTRY_STORE_KEY` is required" in CliRunner().invoke(main, ["apply", *where]).stderr
    found = CliRunner().invoke(main, ["apply", "--dry-run", *where], env={"REGISTRY_STORE_KEY": repository.admin.key})
    assert found.exit_code == 1


def test_an_export_is_the_folder_that_makes_it(repository: Repository, tmp_path: Path) -> None:
    """A file for each agent and server, what is as by default left out; and only to an empty folder."""
    repository.write(AGENT, RULE, SERVER)
    repository.apply("--yes")
    exported = tmp_path / "exported"
    assert repository.export(exported).stdout == f"3 objects written to `{exported}`\n"
    assert contents(exported) == {
        "agents/finance-books-prod.yaml": dump(AGENT),
        "mcp_servers/files.yaml": dump(SERVER),
        "organisation_policies.yaml": dump(
            {name: RULE[name] for name in ("kind", "policy_name", "conditions", "policy_action")}
        ),
    }
    assert repository.export(exported).exit_code == 2


def test_an_export_writes_through_no_symlink(repository: Repository, tmp_path: Path) -> None:
    """One whose target is gone would otherwise have the export written to wherever it points."""
    repository.write(AGENT)
    repository.apply("--yes")
    exported = tmp_path / "exported"
    (exported / "agents").mkdir(parents=True)
    file = exported / "agents" / f"{AGENT['agent_id']}.yaml"
    file.symlink_to(tmp_path / "elsewhere.yaml")
    ended = repository.export(exported)
    assert ended.exit_code == 2
    assert f"{file}:1: is a broken symlink" in ended.stderr
    assert not (tmp_path / "elsewhere.yaml").exists()


def test_an_export_makes_the_same_registry_elsewhere(repository: Repository, tmp_path: Path) -> None:
    """Statuses, and the order of policies of one priority, among them."""
    policies = [{"policy_name": name, "policy_action": "block"} for name in ("z", "a", "m")]
    rules = [{"kind": "organisation_policy", **policy} for policy in policies]
    agents = [
        AGENT | {"agent_id": f"{status}-prod", "status": status, "policies": policies}
        for status in ("draft", "active", "suspended")
    ]
    repository.write(*agents, *rules, SERVER)
    repository.apply("--yes")
    first, second = tmp_path / "first", tmp_path / "second"
    repository.export(first)
    (tmp_path / "elsewhere").mkdir()
    with served(settings_in(tmp_path / "elsewhere")) as store:
        elsewhere = Repository(first, store, store.rest("admin"), tmp_path / "key")
        assert elsewhere.apply("--yes").exit_code == 0
        assert elsewhere.export(second).exit_code == 0
        names = [body["policy_name"] for body in elsewhere.admin.get("/api/agents/policies").body["policies"]]
    assert names == ["z", "a", "m"]
    assert contents(second) == contents(first)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")}


@pytest.fixture(scope="module")
def copies(store: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Copies"]:
    yield Copies(store, tmp_path_factory.mktemp("copies"))


class Copies:
    """One store that is made one registry after the other."""

    def __init__(self, store: Served, folder: Path) -> None:
        self.numbers = count()
        self._folder = folder
        self._repository = Repository(folder / "in", store, store.rest("admin"), folder / "key")

    def applied(self, documents: list[dict[str, Any]]) -> Path:
        """The export of the registry that these documents make."""
        shutil.rmtree(self._repository.folder, ignore_errors=True)
        self._repository.write({"kind": "mcp_server", "server_name": "always"}, *documents)
        assert (ended := self._repository.apply("--yes", "--prune")).exit_code == 0, ended.output
        exported = self._folder / f"out-{next(self.numbers)}"
        assert self._repository.export(exported).exit_code == 0
        return exported

    def reapplied(self, exported: Path) -> Result:
        """What would be done to apply an export to the registry from which it comes."""
        copy = Repository(exported, self._repository.store, self._repository.admin, self._repository.key_file)
        return copy.dry_run("--prune")


# Each example is some thirty requests, so none is made smaller by trying again.
FEW = settings(max_examples=4, deadline=None, phases=[Phase.generate])
MANY = settings(FEW, max_examples=300)


@given(documents=registries())
@FEW
def test_an_export_applied_changes_nothing(copies: Copies, documents: list[dict[str, Any]]) -> None:
    """Whatever the registry holds: the plan of its own export is empty."""
    check_that_an_export_is_in_force(copies, documents)


@pytest.mark.soak
@given(documents=registries())
@MANY
def test_many_exports_applied_change_nothing(copies: Copies, documents: list[dict[str, Any]]) -> None:
    """The same at length."""
    check_that_an_export_is_in_force(copies, documents)


def check_that_an_export_is_in_force(copies: Copies, documents: list[dict[str, Any]]) -> None:
    number = next(copies.numbers)
    for document in documents:
        if document["kind"] == "agent":
            document["agent_id"] += f"-{number}"
    exported = copies.applied(documents)
    again = copies.reapplied(exported)
    assert (again.exit_code, again.stdout.count("\n")) == (0, 1), again.output
