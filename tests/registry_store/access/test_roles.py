"""The table of docs/reference/roles.md, compared with the answers of the store."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from registry_store.rest.roles import PAGE
from tests.registry_store.approving import opened
from tests.registry_store.reporting import decision, report
from tests.registry_store.serving import Rest, Served

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "roles.md"
OWN, OTHER = "own-agent-prod", "other-agent-prod"


class Row(NamedTuple):
    method: str
    path: str
    cells: dict[str, str]

    def at(self, agent_id: str) -> str:
        """The path, for this agent and for other records that do not exist."""
        return re.sub(r"\{\w+\}", "nothing", self.path.replace("{agent_id}", agent_id))


def rows() -> list[Row]:
    """The table as it is printed."""
    head, _, *lines = [line for line in DOCS.read_text().splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in head.strip("|").split("|")[1:]]
    found = []
    for line in lines:
        route, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        method, path = route.strip("`").split()
        found.append(Row(method, path, dict(zip(names, cells, strict=True))))
    return found


ROWS = rows()
KEYED = [row for row in ROWS if not row.cells["no key"]]


@pytest.fixture(scope="module")
def callers(store: Served) -> dict[str, Rest]:
    """A caller of each kind, on a store with two agents, of which one is the agent's own."""
    admin = store.rest()
    admin.register(OTHER)
    found = {role: store.rest(role) for role in ("admin", "approver", "viewer", "agent", "sidecar")}
    found["agent"].register(OWN)
    found["no key"] = store.rest(None)
    return found


def lapsed(store: Served, admin: Rest) -> Iterator[Rest]:
    """A key of an admin that was revoked, and one that has expired."""
    revoked = admin.post("/api/keys", {"role": "admin", "name": "revoked"}).body
    admin.delete(f"/api/keys/{revoked['key_id']}")
    yield Rest(admin.address, revoked["key"])
    expired = admin.post("/api/keys", {"role": "admin", "name": "expired", "expires_at": "2100-01-01T00:00:00Z"}).body
    store.sql("UPDATE keys SET expires_at = '2020-01-01 00:00:00.000000+00:00' WHERE name = 'expired'")
    yield Rest(admin.address, expired["key"])


def test_the_page_is_that_of_the_routes() -> None:
    """`make roles` would change nothing."""
    assert DOCS.read_text() == PAGE


def test_the_page_tells_every_route_of_the_interface(admin: Rest) -> None:
    """/openapi.json and the table list the same routes."""
    described = {
        (method.upper(), path)
        for path, operations in admin.get("/openapi.json").body["paths"].items()
        for method in operations
    }
    assert {(row.method, row.path) for row in ROWS} == described


@pytest.mark.parametrize("role", ["admin", "approver", "viewer", "agent", "sidecar", "no key"])
def test_every_route_is_open_to_whom_the_table_says(callers: dict[str, Rest], role: str) -> None:
    """A role that the table does not name is refused with 403, no key with 401; the others get through."""
    for row in ROWS:
        status = callers[role].call(row.method, row.at(OWN), b"").status
        if row.cells[role]:
            assert status not in (401, 403), row
        else:
            assert status == (401 if role == "no key" else 403), row


def test_an_agents_key_reaches_no_other_agent(callers: dict[str, Rest]) -> None:
    """If the table says `itself`, every other agent is a 403."""
    own = [row for row in ROWS if row.cells["agent"] == "itself" and "{agent_id}" in row.path]
    assert len(own) >= 5
    for row in own:
        assert callers["agent"].call(row.method, row.at(OTHER)).status == 403, row


def test_an_agents_key_is_not_told_which_ids_exist(store: Served, callers: dict[str, Rest]) -> None:
    """For records of other agents it gets exactly the same answer as for records that do not exist."""
    decided = decision(agent_id=OTHER)
    report(store, decided)
    there = {
        "agent_id": OTHER,
        "policy_id": policy_of(callers["admin"]),
        "version": "1.0.0",
        "other": "1.0.0",
        "decision_id": decided["decision_id"],
        "approval_id": opened(store, agent_id=OTHER),
    }
    nowhere = {
        "agent_id": "nobodys-agent-prod",
        "policy_id": "pol_" + "0" * 32,
        "version": "1.0.0",
        "other": "1.0.0",
        "decision_id": "01920000-0000-7000-8000-000000000000",
        "approval_id": "01920000-0000-7000-8000-000000000001",
    }
    named = [row for row in ROWS if row.cells["agent"] == "itself" and "{" in row.path]
    assert {name for row in named for name in re.findall(r"\{(\w+)\}", row.path)} == there.keys()
    for row in named:
        answers = [answer_to(callers["agent"], row.method, row.path.format(**ids), ids) for ids in (there, nowhere)]
        assert answers[0] == answers[1], row
    for path in ("/api/decisions?agent_id={agent_id}", "/api/approvals?agent_id={agent_id}"):
        answers = [answer_to(callers["agent"], "GET", path.format(**ids), ids) for ids in (there, nowhere)]
        assert answers[0] == answers[1], path
    bodies = [{"agent_id": ids["agent_id"], "display_name": "x"} for ids in (there, nowhere)]
    answers = [answer_to(callers["agent"], "POST", "/api/agents/registry", {}, body) for body in bodies]
    assert answers[0] == answers[1]


def answer_to(caller: Rest, method: str, path: str, ids: dict[str, str], body: object = None) -> tuple[int, str]:
    """The status and the body of an answer, with the names of the ids in place of them."""
    answer = caller.call(method, path, body or b"")
    assert 400 <= answer.status < 500, path
    said = json.dumps(answer.body)
    for name, value in ids.items():
        said = said.replace(value, name)
    return answer.status, said


def policy_of(admin: Rest) -> str:
    """The id of a policy of the other agent."""
    body = {"policy_name": "p", "policy_action": "block"}
    policy_id: str = admin.post(f"/api/agents/registry/{OTHER}/policies", body).body["policy_id"]
    return policy_id


def test_a_key_that_has_lapsed_opens_nothing(store: Served, callers: dict[str, Rest]) -> None:
    """A revoked and an expired admin's key are 401 on every route that needs one."""
    for caller in lapsed(store, callers["admin"]):
        for row in KEYED:
            assert caller.call(row.method, row.at(OWN)).status == 401, row


def test_no_agent_or_sidecar_changes_anything_but_itself() -> None:
    """They read; the one thing that they write is an agent's registration."""
    for row in ROWS:
        if row.cells["agent"] or row.cells["sidecar"]:
            assert row.method == "GET" or row.path == "/api/agents/registry", row


def test_only_an_admin_writes_and_only_an_approver_decides() -> None:
    """Viewers read; what approvers do besides is to approve and to deny."""
    for row in KEYED:
        if row.method != "GET":
            decides = row.path.startswith("/api/approvals/")
            assert (row.cells["admin"], bool(row.cells["approver"])) == ("yes", decides), row
            assert not row.cells["viewer"], row
