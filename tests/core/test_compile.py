"""Compiled records, as decisions read them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pdp.core.action import Action
from pdp.core.compile import (
    NO_POLICIES,
    CompiledAgent,
    CompiledPolicy,
    CompiledServer,
    PolicySet,
    TimeWindow,
    minutes,
)
from pdp.core.localtime import LocalTime
from pdp.core.model import AgentType, Outcome, PolicyRecord, Status
from pdp.core.usage import Limits
from tests.core.records import agent_record, policy_record, server_record


def policy_set(*records: PolicyRecord) -> PolicySet:
    return PolicySet({CompiledPolicy(record): record for record in records})


def names(policies: tuple[CompiledPolicy, ...]) -> list[str]:
    return [policy.policy_name for policy in policies]


def test_shadow_policies_are_separate_and_ordered() -> None:
    """They are never among the enforcing policies."""
    shadows = [
        policy_record(policy_id=name, policy_name=name, priority=priority, mode="shadow")
        for name, priority in (("b", 2), ("a", 1))
    ]
    found = policy_set(*shadows, policy_record(policy_name="real", priority=3))
    question = (Action("a", "x"), 1, LocalTime(0, 0, 1, 0))
    assert found.shadows is not None
    assert names(found.shadows.all(*question)) == ["a", "b"]
    assert names(found.enforcing.all(*question)) == ["real"]
    assert NO_POLICIES.shadows is None
    assert (NO_POLICIES.enforcing.first(*question), NO_POLICIES.enforcing.all(*question)) == (None, ())


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
    assert (agent.policies, agent.organisation) == (NO_POLICIES, None)
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
    assert names(agent.policies.enforcing.all(Action("a", "x"), 1, LocalTime(0, 0, 1, 0))) == ["on"]


def policy_document(name: str, **fields: Any) -> dict[str, Any]:
    about = {"policy_id": name, "policy_name": name, "policy_action": "block", "created_at": "2026"}
    return about | fields


def test_an_agent_under_policies_of_the_organisation_is_a_copy() -> None:
    """The copy shares everything else, and the original is unchanged."""
    agent = CompiledAgent(agent_record())
    policies = policy_set(policy_record())
    other = agent.with_organisation(policies)
    assert (other.organisation, agent.organisation) == (policies, None)
    assert other.blocked_resources is agent.blocked_resources


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
