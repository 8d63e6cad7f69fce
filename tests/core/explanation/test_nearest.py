"""The tried changes: each is at the nearest value that matters, and changes nothing else."""

from dataclasses import replace
from math import inf, nextafter
from typing import Any

import pytest

from pdp.core.action import Action
from pdp.core.explanation.nearest import Change, changes, merged
from pdp.core.explanation.situation import Situation
from pdp.core.model import AgentRecord, Now, PolicyRecord, Reason
from pdp.core.usage import Usage
from tests.core.records import agent_record, policy_record, server_record
from tests.given import NOON

ACTION = Action("some-agent", "api.read", risk_score=50)


def situation(
    agent: AgentRecord | None = None, policies: tuple[PolicyRecord, ...] = (), wall: float = NOON, **action: Any
) -> Situation:
    """An action of an agent under these policies, nothing used yet."""
    agent = agent or agent_record()
    return Situation(agent, policies, {"db": server_record()}, replace(ACTION, **action), Usage(), Now(wall, 0.0))


def tried(given: Situation, reason: Reason, policy: PolicyRecord | None = None) -> dict[str, Situation]:
    """Each change that is tried, in words, with the situation that it makes."""
    return {str(change): change.situation for change in changes(given, reason, policy)}


def risks(given: Situation, reason: Reason = Reason.RISK_NEEDS_APPROVAL) -> dict[str, int]:
    """Each change of risk, with the effective risk that it makes."""
    return {what: changed.risk for what, changed in tried(given, reason).items() if what.startswith("risk")}


def test_a_lower_risk_is_just_at_the_threshold() -> None:
    """The thresholds come from above, the nearest first, and none that is not below."""
    assert list(risks(situation(risk_score=90)).items()) == [
        ("risk at most 80", 80),
        ("risk at most 70", 70),
        ("risk below 30", 29),
    ]
    assert risks(situation(risk_score=70)) == {"risk below 30": 29}
    assert risks(situation(risk_score=29)) == {}


def test_thresholds_of_policies_are_tried_in_both_directions() -> None:
    """Those of every enforcing policy, and of no shadow."""
    policies = (
        policy_record(policy_id="1", conditions={"risk_above": 60}),
        policy_record(policy_id="2", conditions={"risk_below": 40, "amount_above": 1}),
        policy_record(policy_id="3", conditions={"risk_below": 45}, mode="shadow"),
    )
    agent = agent_record(auto_approve_below=10, max_risk_threshold=10, requires_mfa_above=10)
    assert risks(situation(agent, policies, risk_score=50)) == {
        "risk above 60": 61,
        "risk below 40": 39,
        "risk at most 10": 10,
        "risk below 10": 9,
    }
    assert risks(situation(agent, policies, risk_score=30)) == {
        "risk at least 40": 40,
        "risk above 60": 61,
        "risk at most 10": 10,
        "risk below 10": 9,
    }
    assert "risk at least 40" not in risks(situation(agent, policies, risk_score=40))
    assert "risk at most 10" not in risks(situation(agent, policies, risk_score=10))
    assert risks(situation(agent, policies, risk_score=70)) == {
        "risk at most 60": 60,
        "risk below 40": 39,
        "risk at most 10": 10,
        "risk below 10": 9,
    }


def test_a_risk_stays_within_0_and_100() -> None:
    """0 and 100 themselves are tried."""
    low = agent_record(auto_approve_below=0)
    assert "risk below 0" not in risks(situation(low, risk_score=50))
    lowest = agent_record(auto_approve_below=1)
    assert risks(situation(lowest, risk_score=5)) == {"risk below 1": 0}
    above = (policy_record(conditions={"risk_above": 99}),)
    assert risks(situation(low, above, risk_score=90))["risk above 99"] == 100
    below = (policy_record(conditions={"risk_below": 100}),)
    assert risks(situation(low, below, risk_score=90))["risk at least 100"] == 100


def test_the_registry_is_changed_only_where_it_must_be() -> None:
    """A score in action_risk_scores above the new risk is lowered to it; one equal to it is not changed."""
    agent = agent_record(action_risk_scores={"api.read": 29, "other": 99})
    found = tried(situation(agent, risk_score=50), Reason.RISK_NEEDS_APPROVAL)["risk below 30"]
    assert (found.action.risk_score, found.agent.action_risk_scores) == (29, {"api.read": 29, "other": 99})
    agent = agent_record(action_risk_scores={"api.read": 31, "other": 99})
    found = tried(situation(agent), Reason.RISK_NEEDS_APPROVAL)["risk below 30, in action_risk_scores too"]
    assert (found.action.risk_score, found.agent.action_risk_scores) == (29, {"api.read": 29, "other": 99})
    lowest = tried(situation(agent_record(auto_approve_below=1)), Reason.RISK_NEEDS_APPROVAL)
    assert lowest["risk below 1"].agent.action_risk_scores == {}


def test_a_tools_own_risk_is_changed_at_its_server() -> None:
    """Other tools keep their risk."""
    server = server_record(tool_risk_overrides={"query": 90, "drop": 99})
    given = situation(mcp_server="db", tool="query")._replace(servers={"db": server, "other": server_record()})
    found = tried(given, Reason.RISK_ABOVE_MAXIMUM)["risk below 30 in tool_risk_overrides of `db`"]
    assert found.servers["db"].tool_risk_overrides == {"query": 29, "drop": 99}
    assert found.servers.keys() == {"db", "other"}
    assert found.action.risk_score == 50


def amounts(policies: list[dict[str, Any]], amount: float | None) -> list[tuple[str, float | None]]:
    """Each change of the amount, with what it is then, for allow policies that nearly hold."""
    allows = tuple(
        policy_record(policy_id=str(number), policy_action="allow", conditions=conditions)
        for number, conditions in enumerate(policies)
    )
    found = tried(situation(policies=allows, amount=amount), Reason.RISK_NEEDS_APPROVAL)
    return [(what, changed.action.amount) for what, changed in found.items() if what.startswith("amount")]


def test_an_amount_is_just_beyond_the_bound() -> None:
    """The next float above or below a strict bound, the nearest edge first."""
    assert amounts([{"amount_above": 10}], 5.0) == [("amount above 10", nextafter(10, inf))]
    assert amounts([{"amount_below": 10}], 15.0) == [("amount below 10", nextafter(10, -inf))]
    assert amounts([{"amount_above": 100}, {"amount_below": 3}, {"amount_above": 20}], 5.0) == [
        ("amount below 3", nextafter(3, -inf)),
        ("amount above 20", nextafter(20, inf)),
        ("amount above 100", nextafter(100, inf)),
    ]


def test_an_amount_that_is_not_given_may_be_anything() -> None:
    """Both sides of each edge are tried."""
    assert amounts([{"amount_above": 10}], None) == [
        ("amount at most 10", 10.0),
        ("amount above 10", nextafter(10, inf)),
    ]
    assert amounts([{"amount_below": 10}], None) == [
        ("amount below 10", nextafter(10, -inf)),
        ("amount at least 10", 10.0),
    ]


def test_a_cost_is_what_the_budget_has_left() -> None:
    """To the micro-dollar, and nothing where more was spent than a lowered budget holds."""
    given = situation(agent_record(max_daily_budget_usd=5), estimated_cost_micros=9_000_000)
    given.usage.spend(given.local.day, 1_999_999)
    found = tried(given, Reason.BUDGET_EXCEEDED)
    assert found["estimated cost at most 3.000001 USD"].action.estimated_cost_micros == 3_000_001
    given.usage.spend(given.local.day, 9_000_000)
    found = tried(given, Reason.BUDGET_EXCEEDED)
    assert found["estimated cost at most 0.00 USD"].action.estimated_cost_micros == 0


def test_times_are_those_of_the_next_week() -> None:
    """Of each named clock every future instant of eight days, the window of a repeated hour twice."""
    agent = agent_record(time_window_enabled=True, time_window_start="12:30", time_window_timezone="UTC")
    found = tried(situation(agent), Reason.OUTSIDE_TIME_WINDOW)
    assert list(found)[:3] == [
        "after 12:30 UTC on Friday 2026-11-20",
        "after 00:00 UTC on Saturday 2026-11-21",
        "after 12:30 UTC on Saturday 2026-11-21",
    ]
    assert list(found)[-1] == "after 12:30 UTC on Friday 2026-11-27"
    assert len(found) == 15
    first = found["after 12:30 UTC on Friday 2026-11-20"]
    assert first.now == Now(NOON + 1800, 1800.0)


def test_a_repeated_hour_is_tried_twice() -> None:
    """On the day on which the clocks go back."""
    agent = agent_record(time_window_enabled=True, time_window_start="01:30", time_window_timezone="America/New_York")
    midnight = 1_793_505_600.0  # 2026-11-01 00:00 in New York
    given = situation(agent, wall=midnight)
    walls = [change.situation.now.wall for change in changes(given, Reason.OUTSIDE_TIME_WINDOW, None)]
    assert walls[:3] == [midnight + 5400, midnight + 5400 + 3600, midnight + 25 * 3600]


def test_the_hours_of_policies_are_tried() -> None:
    """Both of a pair that wraps midnight, and never hour 24."""
    policy = policy_record(conditions={"hour_after": 18, "hour_before": 6})
    found = tried(situation(policies=(policy,)), Reason.POLICY_MATCHED, policy)
    assert [what for what in found if "2026-11-21" in what] == [
        "after 00:00 UTC on Saturday 2026-11-21",
        "after 06:00 UTC on Saturday 2026-11-21",
        "after 18:00 UTC on Saturday 2026-11-21",
    ]
    policy = policy_record(conditions={"hour_before": 24})
    found = tried(situation(policies=(policy,)), Reason.POLICY_MATCHED, policy)
    assert list(found)[:2] == ["after 00:00 UTC on Saturday 2026-11-21", "after 00:00 UTC on Sunday 2026-11-22"]


def test_a_look_into_the_future_leaves_the_windows_alone() -> None:
    """Each uses a copy of the usage."""
    given = situation(agent_record(max_actions_per_minute=1))
    given.usage.count(0.0)
    [later] = tried(given, Reason.RATE_LIMIT_EXCEEDED).values()
    assert later.usage is not given.usage
    assert later.now == Now(NOON + 61, 61.0)
    assert later.usage.wait((1, None, None), 61.0) == 0
    assert given.usage.wait((1, None, None), 0.0) == 61.0


def test_a_registered_server_has_every_default() -> None:
    """The other servers stay."""
    found = tried(situation(mcp_server="files"), Reason.MCP_SERVER_NOT_REGISTERED)
    servers = found["MCP server `files` registered"].servers
    assert servers["files"] == server_record(server_name="files", display_name="files")
    assert servers["db"] == server_record()


def test_data_may_be_added_as_well_as_left_out() -> None:
    """What an allow names is an alternative to what the agent may handle, and comes beside what is carried."""
    allow = policy_record(policy_action="allow", conditions={"data_classification": ["public", "open"]})
    agent = agent_record(allowed_data_classifications=["internal"])
    given = situation(agent, (allow,), data_classifications=("internal",))
    found = tried(given, Reason.RISK_NEEDS_APPROVAL)
    added = {what: changed.action.data_classifications for what, changed in found.items() if "data" in what}
    assert added == {
        "with data classification `public`": ("internal", "public"),
        "with data classification `open`": ("internal", "open"),
    }
    texts = merged(change for change in changes(given, Reason.RISK_NEEDS_APPROVAL, None) if "data" in change.what)
    assert texts == ["with data classification `public` or `open`"]


def test_at_most_eight_names_are_tried() -> None:
    """Of data classifications as of any other list."""
    agent = agent_record(allowed_data_classifications=list("abcdefghijk"), allowed_resources=list("abcdefghijk"))
    given = situation(agent, data_classifications=("x",))
    assert len(tried(given, Reason.DATA_CLASSIFICATION_BLOCKED)) == 1 + 8
    assert len(tried(given, Reason.RESOURCE_NOT_ALLOWED)) == 8 + 1


@pytest.mark.parametrize(
    ("wanted", "other"),
    [("eu", "something-else"), ("something-else", None), (None, "something-else"), ({"a": 1}, "something-else")],
)
def test_an_attribute_is_set_without_its_siblings(wanted: Any, other: Any) -> None:
    """To the expected value, and to another one; the attributes around it stay."""
    policy = policy_record(conditions={"attribute_equals": {"where.region": wanted}})
    given = situation(policies=(policy,), attributes={"where": {"region": "us", "zone": 1}, "n": 2})
    equal, unequal = tried(given, Reason.POLICY_MATCHED, policy).values()
    assert equal.action.attributes == {"where": {"region": wanted, "zone": 1}, "n": 2}
    assert unequal.action.attributes == {"where": {"region": other, "zone": 1}, "n": 2}


def test_a_missing_attribute_is_added() -> None:
    """Also below a value that is not an object."""
    policy = policy_record(conditions={"attribute_equals": {"a.b": 1}})
    for attributes in ({}, {"a": 5}, {"a": None}):
        equal, _ = tried(situation(attributes=attributes), Reason.POLICY_MATCHED, policy).values()
        assert equal.action.attributes == {"a": {"b": 1}}


def test_a_policy_is_avoided_by_changing_what_it_checks() -> None:
    """Not by another action type or server; a resource by any other, and by those that are named."""
    policy = policy_record(
        conditions={
            "action_type": "api.read",
            "mcp_server": "db",
            "resource_in": ["ledger"],
            "environment": "production",
        }
    )
    given = situation(agent_record(allowed_resources=["vault"]), (policy,), resource="ledger", mcp_server="db")
    found = tried(given, Reason.POLICY_MATCHED, policy)
    assert {what: (changed.action.resource, changed.action.environment) for what, changed in found.items()} == {
        "resource `vault`": ("vault", ""),
        "resource `ledger`": ("ledger", ""),
        "resource other than `ledger`": ("something-else", ""),
        "environment `production`": ("ledger", "production"),
        "environment other than `production`": ("ledger", "something-else"),
    }


def test_all_that_a_policy_names_of_a_field_is_tried() -> None:
    """By any of its operators, each name once."""
    conditions = {"resource_not_in": ["vault", "attic"], "resource_in": ["ledger", "vault"], "resource_matches": "l*"}
    policy = policy_record(conditions=conditions)
    found = tried(situation(policies=(policy,), resource="ledger"), Reason.POLICY_MATCHED, policy)
    assert list(found) == [
        "resource `vault`",
        "resource `attic`",
        "resource `ledger`",
        "resource `l*`",
        "resource other than `vault` and `attic` and `ledger` and `l*`",
    ]


def test_an_allow_counts_only_if_it_nearly_holds_and_comes_first() -> None:
    """One failing condition, before the policy that decides, enforcing."""
    names = ("near", "far", "shadow", "late", "block")
    given = {
        name: policy_record(
            policy_id=name,
            priority=9 if name == "late" else 1,
            mode="shadow" if name == "shadow" else "enforce",
            policy_action="block" if name == "block" else "allow",
            conditions={"environment": name} | ({"amount_above": 1} if name == "far" else {}),
        )
        for name in names
    }
    decides = policy_record(policy_id="decides", priority=5)
    found = tried(situation(policies=(*given.values(), decides)), Reason.POLICY_MATCHED, decides)
    assert list(found) == ["environment `near`", "environment other than `near`"]


def test_before_the_policies_none_of_them_matters() -> None:
    """The conditions of an allow policy do not override the agent's lists."""
    allow = policy_record(policy_action="allow", conditions={"resource_in": ["ledger"]})
    given = situation(agent_record(blocked_resources=["vault"]), (allow,), resource="vault")
    assert list(tried(given, Reason.RESOURCE_BLOCKED)) == ["resource outside blocked_resources"]


def test_a_change_is_described_in_words() -> None:
    """Without a value, just as what it is; alternatives in one line, and of all else only the nearest."""
    here = situation()
    assert str(Change("MFA verified", "", here)) == "MFA verified"
    texts = merged(
        [
            Change("risk", "below 30", here),
            Change("tool", "`a`", here, True),
            Change("risk", "below 20", here),
            Change("tool", "`b`", here, True),
            Change("tool", "`b`", here, True),
            Change("MFA verified", "", here),
        ]
    )
    assert texts == ["risk below 30", "tool `a` or `b`", "MFA verified"]
