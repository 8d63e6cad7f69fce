"""The suggestions of `explain` for an action with more than two obstacles."""

from typing import Any

from pdp.core.action import Action
from pdp.core.explanation.explain import explain
from pdp.core.explanation.situation import Records
from pdp.core.model import Now
from pdp.core.records import read_agent
from pdp.core.usage import Usage
from tests.given import NOON, agent


def suggestions(action: Action, **fields: Any) -> tuple[str, ...]:
    records = Records(read_agent(agent(**fields)))
    return explain(records, action, Usage(), Now(NOON, 1000.0)).would_allow


def test_three_obstacles_give_one_chain() -> None:
    """The window, the budget and the risk must all change, in the order of the stages."""
    action = Action("billing-reader-test", "api.read", risk_score=50, estimated_cost_micros=2_000_000)
    assert suggestions(
        action, time_window_enabled=True, time_window_start="18:00", time_window_end="20:00", max_daily_budget_usd=1
    ) == ("after 18:00 UTC on Friday 2026-11-20, and estimated cost at most 1.00 USD, and risk below 30",)


def test_a_chain_that_does_not_allow_is_not_suggested() -> None:
    """No change of the action lets an agent act whose limit is zero and whose window never comes to pass it."""
    action = Action("billing-reader-test", "api.read", risk_score=50)
    assert suggestions(action, max_actions_per_day=0, auto_approve_below=0, allowed_resources=["crm"]) == ()
