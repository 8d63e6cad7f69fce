"""Compiled records, as decisions read them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.compile import (
    MAX_MERGED,
    NO_POLICIES,
    CompiledAgent,
    CompiledPolicy,
    CompiledServer,
    PolicySet,
    TimeWindow,
    binds,
    minutes,
)
from pdp.core.model import AgentType, Outcome, Selector, Status
from pdp.core.usage import Limits
from tests.core.records import agent_record, policy_record, server_record


def policy(name: str, priority: int, **conditions: Any) -> CompiledPolicy:
    return CompiledPolicy(policy_record(policy_id=name, policy_name=name, priority=priority, conditions=conditions))


def names(policies: tuple[CompiledPolicy, ...]) -> list[str]:
    return [policy.policy_name for policy in policies]


def test_a_policy_meets_only_the_action_types_that_it_names() -> None:
    """Policies for one type and for any type come in one order, on every call."""
    found = PolicySet(
        [
            policy("any-late", 4),
            policy("read", 3, action_type="read"),
            policy("any-early", 1, risk_above=5),
            policy("both", 2, action_type_in=["read", "write"]),
            policy("prefix", 5, action_type_in=["read", "database.*"]),
        ]
    )
    for _ in range(2):
        assert names(found.enforcing("read")) == ["any-early", "both", "read", "any-late", "prefix"]
        assert names(found.enforcing("write")) == ["any-early", "both", "any-late", "prefix"]
        assert names(found.enforcing("database.query")) == ["any-early", "any-late", "prefix"]


def test_merged_policies_of_a_type_are_cached() -> None:
    """Unknown action types are not cached, because there may be any number of them."""
    found = PolicySet([policy("read", 1, action_type="read"), policy("any", 2)])
    assert found.enforcing("read") is found.enforcing("read")
    assert found.enforcing("stranger") is found.enforcing("other")


def test_the_cache_of_merged_types_is_bounded() -> None:
    """Beyond the bound they are merged again, with the same result."""
    types = [f"type-{number}" for number in range(MAX_MERGED + 1)]
    found = PolicySet([policy("all", 1, action_type_in=types), policy("any", 2)])
    first = found.enforcing(types[0])
    for name in types[1:-1]:
        found.enforcing(name)
    assert found.enforcing(types[0]) is first
    assert names(found.enforcing(types[-1])) == ["all", "any"]
    assert found.enforcing(types[0]) is not first
    assert names(found.enforcing(types[0])) == ["all", "any"]


def test_shadow_policies_are_separate_and_ordered() -> None:
    """They are never among the enforcing policies."""
    shadows = [
        CompiledPolicy(policy_record(policy_id=name, policy_name=name, priority=priority, mode="shadow"))
        for name, priority in (("b", 2), ("a", 1))
    ]
    found = PolicySet([*shadows, policy("real", 3)])
    assert names(found.shadows) == ["a", "b"]
    assert names(found.enforcing("x")) == ["real"]
    assert (NO_POLICIES.shadows, NO_POLICIES.enforcing("x")) == ((), ())


@pytest.mark.parametrize(
    ("conditions", "action_types", "tests"),
    [
        ({}, None, 0),
        ({"action_type": "a"}, {"a"}, 0),
        ({"action_type": "a", "risk_above": 1}, {"a"}, 1),
        ({"action_type_in": ["a", "b"]}, {"a", "b"}, 0),
        ({"action_type": "a", "action_type_in": ["a", "b"]}, {"a"}, 0),
        ({"action_type": "c", "action_type_in": ["a", "b"]}, set(), 0),
        ({"action_type_in": ["a", "b.*"]}, None, 1),
        ({"action_type": "a", "action_type_in": ["b.*"]}, None, 2),
        ({"attribute_equals": {"x": 1, "y": 2}}, None, 2),
    ],
)
def test_a_policy_is_indexed_by_the_types_for_which_it_can_hold(
    conditions: dict[str, Any], action_types: set[str] | None, tests: int
) -> None:
    """The policy does not test again what the index has checked."""
    compiled = CompiledPolicy(policy_record(conditions=conditions))
    assert compiled.action_types == action_types
    assert len(compiled.tests) == tests


def test_a_policy_keeps_the_fields_of_an_answer() -> None:
    """Its id, name, priority, outcome and parameters; and its place in the order."""
    params = {"team": "t"}
    compiled = CompiledPolicy(policy_record(priority=7, policy_action="escalate", action_params=params))
    assert (compiled.policy_id, compiled.policy_name, compiled.priority) == ("p", "P", 7)
    assert (compiled.outcome, compiled.action_params, compiled.shadow) == (Outcome.ESCALATE, params, False)
    assert compiled.order == (7, "2026-01-01T00:00:00.000000Z", "p")


def test_a_server_without_governance_has_no_rules() -> None:
    """With governance it has all three."""
    rules = {"auto_approve_tools": ["a"], "blocked_tools": ["b"], "tool_risk_overrides": {"c": 1}}
    governed = CompiledServer(server_record(**rules))
    assert (governed.auto_approve_tools, governed.blocked_tools, governed.tool_risk_overrides) == (
        {"a"},
        {"b"},
        {"c": 1},
    )
    free = CompiledServer(server_record(**rules, governance_enabled=False))
    assert (free.auto_approve_tools, free.blocked_tools, free.tool_risk_overrides) == (set(), set(), {})


def test_an_agent_without_restrictions_has_none() -> None:
    """An empty list in the record becomes None."""
    agent = CompiledAgent(agent_record(max_actions_per_hour=None))
    assert (agent.allowed_action_types, agent.allowed_resources, agent.allowed_data_classifications) == (None,) * 3
    assert (agent.capabilities, agent.window, agent.budget_micros) == (None,) * 3
    assert (agent.blocked_resources, agent.blocked_data_classifications) == (set(), set())
    assert agent.limits == Limits(100, None, 10000)
    assert (agent.policies, agent.own_policies) == (NO_POLICIES, ())
    assert (agent.auto_approve_below, agent.max_risk_threshold, agent.requires_mfa_above) == (30, 80, 70)
    assert (agent.default_risk_score, agent.action_risk_scores, agent.zone) == (50, {}, "UTC")
    assert (agent.agent_id, agent.agent_type, agent.tags) == ("some-agent", AgentType.SUPERVISED, set())
    assert (agent.status, agent.active, agent.version) == (Status.ACTIVE, True, "1.0.0")


def test_an_agent_with_restrictions_has_them_all() -> None:
    """They are sets, micro-dollars, and the thresholds of its type."""
    agent = CompiledAgent(
        agent_record(
            agent_type="autonomous",
            status="suspended",
            tags=["t"],
            allowed_action_types=["a"],
            allowed_resources=["r"],
            blocked_resources=["b"],
            allowed_data_classifications=["d"],
            blocked_data_classifications=["e"],
            mcp_capabilities={"x": ["*", "y"], "z": ["y"], "none": []},
            action_risk_scores={"a": 1},
            max_daily_budget_usd="1.234567",
            time_window_enabled=True,
            time_window_timezone="Asia/Tokyo",
            policies=[
                policy_document("on", is_active=True),
                policy_document("off", is_active=False),
            ],
        )
    )
    assert (agent.allowed_action_types, agent.allowed_resources, agent.blocked_resources) == ({"a"}, {"r"}, {"b"})
    assert (agent.allowed_data_classifications, agent.blocked_data_classifications) == ({"d"}, {"e"})
    assert agent.capabilities == {"x": None, "z": {"y"}, "none": set()}
    assert (agent.auto_approve_below, agent.max_risk_threshold) == (40, 60)
    assert (agent.budget_micros, agent.zone, agent.tags) == (1_234_567, "Asia/Tokyo", {"t"})
    assert agent.window is not None
    assert (agent.active, agent.status, agent.action_risk_scores) == (False, Status.SUSPENDED, {"a": 1})
    assert names(agent.own_policies) == ["on"]


def policy_document(name: str, **fields: Any) -> dict[str, Any]:
    about = {"policy_id": name, "policy_name": name, "policy_action": "block", "created_at": "2026"}
    return about | fields


def test_an_agent_with_other_policies_is_a_copy() -> None:
    """The copy shares everything else, and the original is unchanged."""
    agent = CompiledAgent(agent_record())
    policies = PolicySet([policy("p", 1)])
    other = agent.with_policies(policies)
    assert (other.policies, agent.policies) == (policies, NO_POLICIES)
    assert other.blocked_resources is agent.blocked_resources
    assert CompiledAgent(agent_record(), policies).policies is policies


def test_a_budget_is_whole_micro_dollars() -> None:
    """The conversion is exact."""
    for dollars, micros in (("0", 0), ("0.000001", 1), ("1000000000", 10**15), ("0.29", 290_000)):
        assert CompiledAgent(agent_record(max_daily_budget_usd=dollars)).budget_micros == micros


@given(st.integers(0, 1439), st.integers(0, 1440), st.sets(st.integers(1, 7), min_size=1))
def test_a_window_holds_each_of_its_minutes(start: int, end: int, days: set[int]) -> None:
    """Each minute from the start to the end on each of its days, also over midnight, and no other."""
    if start == end:
        return
    clock = [f"{at // 60:02}:{at % 60:02}" for at in (start, end)]
    record = agent_record(time_window_start=clock[0], time_window_end=clock[1], time_window_days=sorted(days))
    window = TimeWindow(record)
    length = (end - start) % 1440 or 1440
    inside = {(1440 * (day - 1) + start + minute) % (7 * 1440) for day in days for minute in range(length)}
    for day in range(1, 8):
        for minute in {0, 1, start - 1, start, start + 1, end - 1, end, end + 1, 719, 1439} & set(range(1440)):
            assert window.holds(minute, day) == (1440 * (day - 1) + minute in inside)


def test_minutes_of_a_clock() -> None:
    """Since midnight."""
    assert [minutes(clock) for clock in ("00:00", "00:59", "01:00", "23:59", "24:00")] == [0, 59, 60, 1439, 1440]


@pytest.mark.parametrize(
    ("selector", "bound"),
    [
        (None, True),
        (Selector((), ()), True),
        (Selector(("a",), ()), True),
        (Selector(("b", "x"), ()), True),
        (Selector(("x",), ()), False),
        (Selector((), (AgentType.CUSTOM,)), True),
        (Selector((), (AgentType.ADVISORY,)), False),
        (Selector(("a",), (AgentType.CUSTOM, AgentType.ADVISORY)), True),
        (Selector(("x",), (AgentType.CUSTOM,)), False),
        (Selector(("a",), (AgentType.ADVISORY,)), False),
    ],
)
def test_a_selector_binds_by_tag_and_type(selector: Selector | None, bound: bool) -> None:
    """It needs one of the tags and one of the types, if it names any."""
    assert binds(selector, AgentType.CUSTOM, {"a", "b"}) is bound
