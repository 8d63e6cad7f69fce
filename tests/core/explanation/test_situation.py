"""The properties of a situation, computed from the records."""

from dataclasses import replace

import pytest

from pdp.core.action import Action
from pdp.core.explanation.explain import walk
from pdp.core.explanation.situation import Situation, policies_of
from pdp.core.messages import dollars, tenths
from pdp.core.model import AgentType, Mode, Now, Selector
from pdp.core.usage import Usage
from tests.core.records import agent_record, policy_record, server_record


@pytest.mark.parametrize(
    ("selector", "bound"),
    [
        (None, True),
        (Selector((), ()), True),
        (Selector(("eu",), (AgentType.SUPERVISED,)), True),
        (Selector(("us",), ()), False),
        (Selector((), (AgentType.CUSTOM,)), False),
    ],
)
def test_an_organisation_policy_binds_by_its_selector(selector: Selector | None, bound: bool) -> None:
    """Without one it binds every agent."""
    policy = replace(policy_record(), applies_to=selector)
    situation = Situation(agent_record(tags=["eu"]), (policy,), {}, Action("a", "b"), Usage(), Now(0.0, 0.0))
    assert policies_of(situation, Mode.ENFORCE) == ([policy] if bound else [])
    assert policies_of(situation, Mode.SHADOW) == []


def test_a_server_governs_where_its_governance_is_enabled() -> None:
    """It is the server in any case, and there is none where the action names none."""
    free, governed = server_record(governance_enabled=False), server_record()
    servers = {"free": free, "governed": governed}
    found = [
        Situation(agent_record(), (), servers, Action("a", "b", mcp_server=name), Usage(), Now(0.0, 0.0))
        for name in ("free", "governed", "")
    ]
    assert [situation.server for situation in found] == [free, governed, None]
    assert [situation.governing for situation in found] == [None, governed, None]


def test_dollars_have_cents_or_six_decimal_places() -> None:
    """For amounts of any size."""
    micros = (0, 10_000, 9_999, 1_000_000_000_000_000, 12_345_678_901)
    assert list(map(dollars, micros)) == [
        "0.00 USD",
        "0.01 USD",
        "0.009999 USD",
        "1000000000.00 USD",
        "12345.678901 USD",
    ]


def test_tenths_of_a_second_are_rounded_up() -> None:
    """So that a caller that waits this long has waited long enough."""
    assert list(map(tenths, (0.0, 0.01, 0.1, 12.34, 61.0))) == [0.0, 0.1, 0.1, 12.4, 61.0]


def test_a_stage_reports_an_obstacle_or_that_there_is_none() -> None:
    """The status of an agent that is not active, and the absence of any limit."""
    suspended = agent_record(status="suspended")
    free = agent_record(max_actions_per_minute=None, max_actions_per_hour=None, max_actions_per_day=None)
    details = [
        {
            stage.stage: stage.detail
            for stage in walk(Situation(agent, (), {}, Action("a", "b"), Usage(), Now(0.0, 0.0))).stages
        }
        for agent in (suspended, free)
    ]
    assert details[0]["agent"] == "`some-agent` is suspended, not active"
    assert details[1]["agent"] == "`some-agent` is active"
    assert details[1]["rate limit"] == "no rate limit is set"
