"""Who decides: the team of an escalation, several people, the next team, and keys made with MFA."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import update

from registry_store.access.keys import Caller, Role
from registry_store.approvals import approvals, deciding
from registry_store.approvals.deciding import Verdict
from registry_store.database.tables import Approval
from registry_store.journal.activity import Actor
from registry_store.settings import Settings
from tests.registry_store.approvals.test_approvals import APPROVALS, approve, deny, entries, read, tick
from tests.registry_store.approving import open_all, record
from tests.registry_store.reporting import AGENT, report
from tests.registry_store.serving import Answer, Rest, Served, served

COMMENT = {"comment": "SEC-9: called back"}


def key_of(admin: Rest, role: str, name: str, *groups: str, mfa: bool = False) -> Rest:
    made = admin.post("/api/keys", {"role": role, "name": name, "groups": groups, "mfa": mfa})
    assert made.status == 201, made.body
    return Rest(admin.address, made.body["key"])


def opened(store: Served, at: datetime | None = None, escalation_team: str = "", **fields: Any) -> str:
    at = at or datetime.now(UTC)
    (approval_id,) = open_all(store, record(at=at, **fields), at=at, escalation_team=escalation_team)
    return approval_id


def escalated(store: Served, team: str | None = None, **fields: Any) -> str:
    params = fields.pop("params", {}) | ({"team": team} if team else {})
    return opened(store, outcome="escalate", params=params, **fields)


def decided(rest: Rest, approval_id: str, verb: str = "approve", body: Any = COMMENT) -> Answer:
    return rest.post(f"{APPROVALS}/{approval_id}/{verb}", body)


@pytest.fixture(scope="module")
def people(admin: Rest) -> dict[str, Rest]:
    return {
        "admin": admin,
        "admin of security": key_of(admin, "admin", "sam", "security"),
        "approver of security": key_of(admin, "approver", "sue", "security"),
        "approver of finance": key_of(admin, "approver", "fiona", "finance"),
        "approver named security": key_of(admin, "approver", "security"),
        "intern": key_of(admin, "approver", "intern"),
        "viewer": key_of(admin, "viewer", "victor"),
    }


OF_SECURITY = {"admin of security", "approver of security"}
ADMINS = {"admin", "admin of security"}


@pytest.mark.parametrize(("team", "deciders"), [("security", OF_SECURITY), (None, ADMINS)])
@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_an_escalation_is_for_its_team_alone(
    store: Served, people: dict[str, Rest], team: str | None, deciders: set[str], verb: str
) -> None:
    """An admin outside of the team may not decide it; where no team is named, admins do and nobody else."""
    for who, rest in people.items():
        approval_id = escalated(store, team, params={"approvers": ["intern", "fiona"]})
        assert decided(rest, approval_id, verb).status == (200 if who in deciders else 403), who


def test_one_outside_of_the_team_is_told_whose_it_is(store: Served, people: dict[str, Rest]) -> None:
    """By its name."""
    for team, whose in (("security", "team `security`"), (None, "admins")):
        approval_id = escalated(store, team)
        refused = decided(people["intern"], approval_id)
        assert refused.body["detail"] == f"approval `{approval_id}` is for {whose} to decide"


def test_the_team_is_the_policys_else_the_agents_else_the_stores(store: Served, admin: Rest) -> None:
    """An approval that is no escalation gets neither of the last two."""
    admin.register("teamed-agent-prod", escalation_team="treasury")
    admin.register("plain-agent-prod")
    asked: list[tuple[str, str, str | None, str | None]] = [
        ("teamed-agent-prod", "escalate", "security", "security"),
        ("teamed-agent-prod", "escalate", None, "treasury"),
        ("plain-agent-prod", "escalate", None, "on-call"),
        ("unregistered-agent-prod", "escalate", None, "on-call"),
        ("teamed-agent-prod", "require_approval", None, None),
    ]
    for agent_id, outcome, team, expected in asked:
        approval_id = opened(
            store, agent_id=agent_id, outcome=outcome, params={"team": team} if team else {}, escalation_team="on-call"
        )
        assert read(admin, approval_id)["team"] == expected
    assert read(admin, escalated(store, agent_id="plain-agent-prod"))["team"] is None


def test_the_stores_team_is_a_setting(settings: Settings) -> None:
    """`--escalation-team` is in force for what sidecars report."""
    with served(replace(settings, escalation_team="on-call")) as store:
        report(store, record(outcome="escalate"))
        (shown,) = store.rest().get(APPROVALS).body["approvals"]
        assert (shown["outcome"], shown["team"]) == ("escalate", "on-call")


def test_an_escalation_needs_a_comment(store: Served, admin: Rest) -> None:
    """422 names the field, and it stays pending; another approval needs none to be approved."""
    approval_id = escalated(store)
    for body in (None, {}, {"comment": ""}, {"comment": " \n"}):
        refused = decided(admin, approval_id, "approve", body)
        assert (refused.status, refused.body["errors"]) == (422, [{"path": "comment", "message": "is required"}])
    assert read(admin, approval_id)["status"] == "pending"
    assert approve(admin, approval_id, **COMMENT)["status"] == "approved"
    assert approve(admin, opened(store))["status"] == "approved"


def test_two_people_must_approve(store: Served, admin: Rest, people: dict[str, Rest]) -> None:
    """The first approval leaves it pending, and shows who gave it and why; the second allows the action."""
    approval_id = escalated(store, "security", params={"min_approvers": 2})
    first = approve(people["approver of security"], approval_id, comment="one")
    assert (first["status"], first["decided_by"], first["min_approvers"]) == ("pending", None, 2)
    assert [(one["name"], one["comment"]) for one in first["approved_by"]] == [("sue", "one")]
    second = approve(people["admin of security"], approval_id, comment="two")
    assert (second["status"], second["decided_by"], second["comment"]) == ("approved", "sam", "two")
    assert [one["name"] for one in second["approved_by"]] == ["sue", "sam"]
    kinds = [entry["activity_type"] for entry in entries(admin, approval_id)]
    assert kinds == ["approval_requested", "approval_voted", "approval_approved"]
    voted = entries(admin, approval_id)[1]
    assert voted["activity_description"].endswith("approved by 1 of 2 people: one")
    assert voted["new_state"] == {"approved_by": first["approved_by"]}


def test_the_same_person_twice_is_one(store: Served, admin: Rest, people: dict[str, Rest]) -> None:
    """Also with another key of the same name."""
    approval_id = escalated(store, "security", params={"min_approvers": 2})
    approve(people["approver of security"], approval_id, **COMMENT)
    for rest in (people["approver of security"], key_of(admin, "admin", "sue", "security")):
        again = decided(rest, approval_id)
        assert again.status == 409
        assert again.body["detail"] == f"`sue` has approved `{approval_id}` already: another person must"
    shown = read(admin, approval_id)
    assert (shown["status"], len(shown["approved_by"])) == ("pending", 1)


def test_one_denial_denies(store: Served, people: dict[str, Rest]) -> None:
    """Also after another person approved, and by the person who did."""
    for second in ("admin of security", "approver of security"):
        approval_id = escalated(store, "security", params={"min_approvers": 2})
        approve(people["approver of security"], approval_id, **COMMENT)
        assert deny(people[second], approval_id)["status"] == "denied"
        assert decided(people["admin of security"], approval_id).status == 409


@pytest.mark.parametrize("outcome", ["escalate", "require_approval"])
def test_the_next_team_is_asked_when_nobody_decided_in_time(
    store: Served, admin: Rest, people: dict[str, Rest], outcome: str
) -> None:
    """With the whole time again, and from nothing: an approval of the first team counts no longer. Then it expires."""
    start = datetime.now(UTC)
    params = {"team": "security", "next_team": "finance", "min_approvers": 2}
    approval_id = opened(store, at=start, outcome=outcome, params=params, timeout=600)
    approve(people["approver of security"], approval_id, **COMMENT)
    over = start + timedelta(seconds=600)
    tick(store, over - timedelta(microseconds=1))
    assert read(admin, approval_id)["team"] == "security"
    tick(store, over)
    shown = read(admin, approval_id)
    assert (shown["status"], shown["team"], shown["next_team"], shown["approved_by"]) == (
        *("pending", "finance", None),
        [],
    )
    assert datetime.fromisoformat(shown["expires_at"]) == over + timedelta(seconds=600)
    handed = entries(admin, approval_id)[-1]
    assert (handed["activity_type"], handed["performed_by"]) == ("approval_handed_over", "system")
    assert handed["activity_description"].endswith("handed over to team `finance`: nobody decided in time")
    assert decided(people["approver of security"], approval_id).status == 403
    assert decided(people["approver of finance"], approval_id).body["status"] == "pending"
    tick(store, over + timedelta(seconds=600))
    assert read(admin, approval_id)["status"] == "expired"


def test_what_is_due_to_the_next_team_is_not_expired_for_a_moment(store: Served, admin: Rest) -> None:
    """From its deadline until the store hands it over, and neither in lists nor for those who wait; its first team may
    not decide it any more, and its next team may.
    """
    start = datetime.now(UTC)
    approval_id = escalated(store, "first-team", params={"next_team": "next-team"}, at=start, timeout=60)
    over = start + timedelta(seconds=60)

    async def seen(*people: Caller) -> list[str]:
        found = []
        for caller in people:
            async with store.running._store.database.writing() as session:
                approval = await approvals.get(session, approval_id)
                found.append(approvals.state_of(approval, over).value)
                actor = Actor(caller.name, "api", over)
                try:
                    await deciding.decide(
                        session, approval, Verdict.APPROVE, caller, actor, comment="why", approver_mfa=False
                    )
                except Exception as error:
                    found.append(type(error).__name__)
                    await session.rollback()
                else:
                    found.append(f"{approval.status} by {approval.team}")
        return found

    first, following = [Caller("1", team, Role.APPROVER, None, (team,)) for team in ("first-team", "next-team")]
    assert store.run(seen(first, following)) == [
        *("pending", "NotAllowedError"),
        *("pending", "approved by next-team"),
    ]
    late = escalated(store, "first-team", params={"next_team": "next-team"}, at=start - timedelta(days=1), timeout=60)
    listed = admin.get(f"{APPROVALS}?status=expired&limit=500").body["approvals"]
    assert late not in [one["approval_id"] for one in listed]
    assert read(admin, late)["status"] == "pending"


def test_an_approved_action_is_not_handed_over(store: Served, admin: Rest) -> None:
    """If it is not used in time, it expires."""
    approval_id = opened(store, params={"next_team": "finance"}, timeout=600)
    until = datetime.fromisoformat(approve(admin, approval_id)["expires_at"])
    tick(store, until)
    assert read(admin, approval_id)["status"] == "expired"


@pytest.fixture(scope="module")
def with_mfa(settings_for: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A store that runs with `--approver-mfa`."""
    with served(replace(settings_for(tmp_path_factory.mktemp("mfa")), approver_mfa=True)) as store:
        yield store


def test_what_needs_mfa_needs_a_key_made_with_mfa(with_mfa: Served) -> None:
    """Where the store says so; what needs none is for every key."""
    admin = with_mfa.rest()
    keys = {mfa: key_of(admin, "admin", f"ann {mfa}", mfa=mfa) for mfa in (False, True)}
    for outcome, needed, mfa in product(("escalate", "require_approval"), (False, True), (False, True)):
        approval_id = opened(with_mfa, outcome=outcome, mfa_required=needed)
        assert read(admin, approval_id)["mfa_required"] is needed
        assert decided(keys[mfa], approval_id).status == (200 if mfa or not needed else 403)
    refused = decided(keys[False], opened(with_mfa, mfa_required=True))
    assert "only a key that was made with `--mfa` may decide it" in refused.body["detail"]


def test_without_the_setting_every_key_decides_what_needs_mfa(store: Served, admin: Rest) -> None:
    """It only shows that MFA is required."""
    approval_id = opened(store, mfa_required=True)
    assert read(admin, approval_id)["mfa_required"] is True
    assert approve(admin, approval_id)["status"] == "approved"


def test_a_key_lists_what_waits_for_it(with_mfa: Served) -> None:
    """`for=me` shows exactly those of which its approval would be accepted now."""
    admin = with_mfa.rest()
    deciders = {
        name: key_of(admin, role, name, *groups, mfa=mfa)
        for name, role, groups, mfa in (
            ("ada", "admin", (), False),
            ("bea", "admin", ("blue",), True),
            ("bob", "approver", ("blue",), False),
            ("vic", "viewer", (), False),
        )
    }
    start = datetime.now(UTC)
    asked: dict[str, dict[str, Any]] = {
        "anyone": {},
        "blue": {"outcome": "escalate", "params": {"team": "blue"}},
        "admins": {"outcome": "escalate"},
        "bob": {"params": {"approvers": ["bob"]}},
        "red": {"params": {"team": "red"}},
        "mfa": {"mfa_required": True, "params": {"team": "blue"}},
        "voted": {"params": {"min_approvers": 2}},
        "over": {"at": start - timedelta(days=2), "timeout": 60},
        "denied": {},
    }
    ids = {name: opened(with_mfa, agent_id="listed-agent-prod", **fields) for name, fields in asked.items()}
    approve(deciders["bob"], ids["voted"])
    deny(admin, ids["denied"])
    expected = {
        "ada": {"anyone", "admins", "bob", "red", "voted"},
        "bea": {"anyone", "blue", "admins", "bob", "red", "voted", "mfa"},
        "bob": {"anyone", "blue", "bob"},
        "vic": set(),
    }
    for who, rest in deciders.items():
        body = rest.get(f"{APPROVALS}?for=me&agent_id=listed-agent-prod").body
        shown = {name for name, one in ids.items() if one in {each["approval_id"] for each in body["approvals"]}}
        assert (shown, body["total"]) == (expected[who], len(expected[who])), who
    assert deciders["bob"].get(f"{APPROVALS}?for=me&status=denied").body["total"] == 0
    assert deciders["bob"].get(f"{APPROVALS}?for=you").status == 422


def test_an_escalation_from_before_goes_on(store: Served, admin: Rest, people: dict[str, Rest]) -> None:
    """One that an older store opened, without what decides now: its team decides it, else admins."""
    old = {"demand_sha256": None, "next_team": None, "min_approvers": 1, "approved_by": []}
    for team, who in (("security", "approver of security"), (None, "admin")):
        approval_id = escalated(store, team)

        async def age(approval_id: str = approval_id) -> None:
            async with store.running._store.database.writing() as session:
                await session.execute(update(Approval).where(Approval.approval_id == approval_id).values(**old))

        store.run(age())
        assert decided(people[who], approval_id).body["status"] == "approved"
    assert read(admin, approval_id)["agent_id"] == AGENT
