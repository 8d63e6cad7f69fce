"""A record that does not compile: its last good state stays, and its status takes effect."""

import json
from pathlib import Path
from typing import Any

import pytest

from pdp.core.action import Action
from pdp.core.decide import decide
from pdp.core.explanation.explain import explain
from pdp.core.model import Now, Outcome, Reason, RecordKind, Status
from pdp.core.usage import Usage
from pdp.state import RawRecord, State, apply, build
from pdp.sync import last_good
from tests.given import NOON, agent

AGENT_ID = "billing-reader-test"
ACTION = Action(AGENT_ID, "api.read", risk_score=1)
BLOCKED = (Outcome.BLOCK, Reason.AGENT_NOT_ACTIVE)
ALLOWED = (Outcome.ALLOW, Reason.RISK_BELOW_AUTO_APPROVE)
NEWER = {"field_of_next_year": 1}


def record(document: object) -> RawRecord:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return RawRecord(RecordKind.AGENT, AGENT_ID, raw)


def given(**fields: Any) -> State:
    state, refused = build([record(agent(AGENT_ID, **fields))], "epoch", 1)
    assert refused == ()
    return state


def decided(state: State) -> tuple[Outcome, Reason]:
    """The decision, which the explanation confirms."""
    decision = decide(state.agents[AGENT_ID], state.servers, ACTION, Usage(), Now(NOON, 1.0))
    explained = explain(state.uncompiled(AGENT_ID), ACTION, Usage(), Now(NOON, 1.0))
    assert (explained.outcome, explained.reason) == (decision.outcome, decision.reason)
    return decision.outcome, decision.reason


@pytest.mark.parametrize("status", ["suspended", "retired", "draft", "quarantined_next_year", "Active", ""])
@pytest.mark.parametrize("way", ["change", "snapshot"])
def test_an_inactive_status_takes_effect_even_if_the_record_does_not_compile(status: str, way: str) -> None:
    """Everything else stays; the store gets a report of both."""
    before = given(default_risk_score=7)
    refused_record = record(agent(AGENT_ID, status=status, default_risk_score=99) | NEWER)
    if way == "change":
        state, refused = apply(before, [refused_record], 2)
    else:
        state, refused = build([refused_record], "epoch", 2, before)
    assert decided(state) == BLOCKED
    assert state.agents[AGENT_ID].default_risk_score == 7
    known = status if status in ("suspended", "retired", "draft") else "suspended"
    assert state.agents[AGENT_ID].status is Status[known.upper()]
    assert refused[0].problems[0] == f"its status takes effect anyway: `{known}`"
    assert "field_of_next_year: unknown field" in refused[0].problems


@pytest.mark.parametrize(
    "document",
    [
        agent(AGENT_ID) | NEWER,
        agent(AGENT_ID, status=None) | NEWER,
        {name: value for name, value in agent(AGENT_ID).items() if name != "status"},
        [],
        "suspended",
        b'{"status": "suspended"',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=lambda document: repr(document)[:30],
)
@pytest.mark.parametrize("status", ["active", "suspended"])
def test_without_an_inactive_status_the_last_good_one_stays(document: object, status: str) -> None:
    """A record that cannot be read stops no agent, and starts none."""
    state, refused = apply(given(status=status), [record(document)], 2)
    assert decided(state) == (ALLOWED if status == "active" else BLOCKED)
    assert len(refused) == 1


def test_a_change_of_the_status_alone_compiles_nothing_else() -> None:
    """The agent is stopped and started again; what else is in its record stays the same object."""
    before = given(allowed_resources=["ledger"])
    stopped, _ = apply(before, [record(agent(AGENT_ID, allowed_resources=["ledger"], status="suspended"))], 2)
    assert decided(stopped) == BLOCKED
    assert stopped.agents[AGENT_ID].allowed_resources is before.agents[AGENT_ID].allowed_resources
    started, refused = build([record(agent(AGENT_ID, allowed_resources=["ledger"]))], "epoch", 3, stopped)
    assert (started.agents[AGENT_ID].active, refused) == (True, ())
    assert started.agents[AGENT_ID].allowed_resources is before.agents[AGENT_ID].allowed_resources


@pytest.mark.parametrize(
    ("before", "after", "active"),
    [
        ({"metadata": {"status": "active"}}, {"metadata": {"status": "suspended"}}, True),
        ({"metadata": {"status": "active"}}, {"metadata": {"status": "active"}, "status": "suspended"}, False),
        ({"tags": ["status"]}, {"tags": ["status"], "status": "retired"}, False),
        ({"description": '"status": "active"'}, {"description": '"status": "suspended"'}, True),
        ({}, {"status": "suspended", "version": "1.0.1"}, False),
    ],
)
def test_only_the_status_of_the_agent_is_its_status(
    before: dict[str, Any], after: dict[str, Any], active: bool
) -> None:
    """Not a text elsewhere in its record, which is then compiled whole."""
    state, refused = apply(given(**before), [record(agent(AGENT_ID, **after))], 2)
    assert (state.agents[AGENT_ID].active, refused) == (active, ())
    assert state.agents[AGENT_ID].version == after.get("version", "1.0.0")
    [kept] = state.records()
    assert json.loads(kept.document) == agent(AGENT_ID, **after)


def test_an_unknown_status_is_refused_though_the_rest_is_the_same() -> None:
    """It counts as suspended."""
    state, refused = apply(given(), [record(agent(AGENT_ID, status="quarantined"))], 2)
    assert (decided(state), len(refused)) == (BLOCKED, 1)


def test_a_snapshot_compiles_only_what_differs() -> None:
    """A record that is the same byte for byte is not compiled again."""
    before = given()
    same, _ = build([record(agent(AGENT_ID))], "epoch", 2, before)
    other, _ = build([record(agent(AGENT_ID, description="new"))], "epoch", 2, before)
    assert same.agents[AGENT_ID] is before.agents[AGENT_ID]
    assert other.agents[AGENT_ID] is not before.agents[AGENT_ID]


def test_a_policy_of_the_organisation_changes_only_agents_that_it_binds() -> None:
    """Also those that come later; when it is deleted, none is bound any more."""
    others = [
        RawRecord(RecordKind.AGENT, f"agent-{n}", json.dumps(agent(f"agent-{n}", tags=["us"])).encode()) for n in (1, 2)
    ]
    before, _ = build([record(agent(AGENT_ID, tags=["eu"])), *others], "epoch", 1)
    policy = {"policy_id": "pol", "policy_name": "Stop", "created_at": "2026", "policy_action": "block"}
    binding = RawRecord(
        RecordKind.ORGANISATION_POLICY, "pol", json.dumps(policy | {"applies_to": {"tags": ["us"]}}).encode()
    )
    after, _ = apply(before, [binding], 2)
    assert after.agents[AGENT_ID] is before.agents[AGENT_ID]
    assert after.agents["agent-1"].organisation is after.agents["agent-2"].organisation is not None
    later, _ = apply(after, [record(agent(AGENT_ID, tags=["us"]))], 3)
    assert decided(later) == (Outcome.BLOCK, Reason.POLICY_MATCHED)
    assert later.agents[AGENT_ID].organisation is after.agents["agent-1"].organisation
    gone, _ = apply(later, [binding._replace(document=b"")], 4)
    assert {one.organisation for one in gone.agents.values()} == {None}


def test_a_refused_record_never_activates_again() -> None:
    """Only a record that compiles does."""
    state = given()
    for status, expected in (("active", ALLOWED), ("suspended", BLOCKED), ("active", BLOCKED), ("retired", BLOCKED)):
        state, _ = apply(state, [record(agent(AGENT_ID, status=status) | NEWER)], state.revision + 1)
        assert decided(state) == expected
    state, refused = apply(state, [record(agent(AGENT_ID))], 9)
    assert (decided(state), refused) == (ALLOWED, ())


def test_the_status_outlives_a_restart(tmp_path: Path) -> None:
    """The file on disk holds the last good record with its status replaced."""
    state, _ = apply(given(description="Ж"), [record(agent(AGENT_ID, status="suspended") | NEWER)], 2)
    path = tmp_path / "last-good"
    with path.open("wb") as file:
        last_good.write(file, {}, state.records())
    _, records = last_good.read(path)
    again, refused = build(records, "epoch", 2)
    assert (decided(again), refused) == (BLOCKED, ())
    again, _ = build([record(agent(AGENT_ID) | NEWER)], "epoch", 3, again)
    assert decided(again) == BLOCKED


def test_without_a_last_good_state_the_agent_is_unknown() -> None:
    """And what is removed goes, refused or not."""
    state, _ = build([record(agent(AGENT_ID, status="suspended") | NEWER)], "epoch", 1)
    assert AGENT_ID not in state.agents
    state, refused = apply(given(), [record(b"")], 2)
    assert (AGENT_ID not in state.agents, refused) == (True, ())


def test_policies_of_the_organisation_still_bind_an_agent_that_is_refused() -> None:
    """They are linked to its last good state again."""
    policy = {
        "policy_id": "pol_1",
        "policy_name": "Stop",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "policy_action": "block",
    }
    changed = RawRecord(RecordKind.ORGANISATION_POLICY, "pol_1", json.dumps(policy).encode())
    state, _ = apply(given(), [record(agent(AGENT_ID) | NEWER), changed], 2)
    assert decided(state) == (Outcome.BLOCK, Reason.POLICY_MATCHED)


def test_a_bug_with_one_record_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused like an invalid record."""

    def fails(_document: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("pdp.state.read_server", fails)
    server = RawRecord(RecordKind.MCP_SERVER, "db", b'{"server_name": "db"}')
    state, refused = build([server, record(agent(AGENT_ID))], "epoch", 1)
    assert decided(state) == ALLOWED
    assert refused[0].problems == ("cannot be compiled: RuntimeError: a fault of ours",)


@pytest.mark.parametrize(
    ("policy_id", "fields"),
    [
        ("x" * 300, {}),
        ("", {}),
        ("pol\0", {}),
        ("pol_1", {"action_params": {"approvers": {"any_of": ["a"]}, "timeout_seconds": "1h"}}),
        ("pol_1", {"policy_name": "x" * 300, "applies_to": {"regions": ["eu"]}}),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_a_newer_organisation_policy_restricts_with_any_content(policy_id: str, fields: dict[str, Any]) -> None:
    """The placeholder compiles, and so do the other records."""
    policy = {"policy_action": "block", "created_at": "2026", "policy_name": "New"} | fields | NEWER
    unread = RawRecord(RecordKind.ORGANISATION_POLICY, policy_id, json.dumps(policy).encode())
    state, refused = build([unread, record(agent(AGENT_ID))], "epoch", 1)
    assert len(refused) == 1
    decision = decide(state.agents[AGENT_ID], state.servers, ACTION, Usage(), Now(NOON, 1.0))
    assert (decision.outcome, decision.reason) == (Outcome.BLOCK, Reason.POLICY_MATCHED)
