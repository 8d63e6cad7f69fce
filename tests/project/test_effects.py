"""No field of an agent is accepted and ignored: of each, a test sees the effect.

A field that bears on decisions needs a case in `tests/cases` that fails without it; cases are found, not listed. Of any
other field, `SEEN_BY` names the test that sees its effect.
"""

import ast
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from pdp.core.fields import Field
from pdp.core.json.equality import same_json
from pdp.core.kinds import Whole
from pdp.core.records import CONFIGURATION
from registry_store.documents import to_json
from tests.core.test_decision_cases import core_answers
from tests.decision_cases import Case, load

ROOT = Path(__file__).parents[2]

AGENTS = "tests/registry_store/records/test_agents.py"
ALERTS = "tests/registry_store/alerts"
SUSPENDED = "tests/registry_store/test_suspended_everywhere.py"
SEEN_BY: dict[str, str] = {
    "agent_id": f"{AGENTS}::test_an_id_is_never_used_twice",
    # For people and their programs: the effect is that they come back.
    "display_name": f"{AGENTS}::test_what_was_sent_comes_back",
    "description": f"{AGENTS}::test_what_was_sent_comes_back",
    "metadata": f"{AGENTS}::test_what_was_sent_comes_back",
    "auto_suspend_enabled": "tests/registry_store/sync/test_offline.py::test_an_agent_that_is_not_watched_stays_active",
    "auto_suspend_on_error_rate": f"{SUSPENDED}::test_failures_at_both_add_up",
    "auto_suspend_on_offline_minutes": f"{SUSPENDED}::test_an_agent_whose_last_sidecar_stops_is_suspended",
    "auto_suspend_on_budget_exceeded": f"{SUSPENDED}::test_a_budget_that_is_exceeded_at_one_suspends_at_both",
    "auto_suspend_on_rate_exceeded": f"{SUSPENDED}::test_a_rate_that_is_exceeded_at_one_suspends_at_both",
    "alert_on_high_risk": f"{ALERTS}/test_causes.py::test_an_autonomous_agent_has_its_own_maximum",
    "alert_recipients": f"{ALERTS}/test_delivery.py::test_an_alert_reaches_the_webhook_and_each_recipient",
    "webhook_url": f"{ALERTS}/test_delivery.py::test_an_alert_reaches_the_webhook_and_each_recipient",
    "budget_alert_threshold_percent": f"{ALERTS}/test_causes.py::test_the_threshold_of_a_budget_raises_one_alert_a_day",
    "escalation_team": "tests/registry_store/approvals/test_deciding.py"
    "::test_the_team_is_the_policys_else_the_agents_else_the_stores",
    # Until one limit over many sidecars exists, the effect is the warning.
    "limit_scope": f"{AGENTS}::test_what_has_no_effect_yet_says_so",
    "on_quota_unavailable": f"{AGENTS}::test_what_has_no_effect_yet_says_so",
}
"""`file::test` of the fields that no decision depends on alone; the test names the field."""


@pytest.mark.parametrize("field", sorted(CONFIGURATION))
def test_the_effect_of_a_field_is_seen(field: str) -> None:
    """By the test that the table names, or by a case that fails for an agent without the field."""
    assert unseen(field) is None


def test_the_table_names_fields_of_an_agent() -> None:
    """No entry outlives its field."""
    assert CONFIGURATION.keys() >= SEEN_BY.keys()


def test_a_field_without_a_test_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new field without an entry and without a case, one whose test is gone, and one that its test does not name."""
    monkeypatch.setitem(CONFIGURATION, "new_limit", Field(Whole(0, 10), 5))
    assert unseen("new_limit") == "no case of tests/cases fails without it, and SEEN_BY has no test of it"
    monkeypatch.setitem(SEEN_BY, "new_limit", f"{AGENTS}::test_that_is_gone")
    assert unseen("new_limit") == f"no test `{AGENTS}::test_that_is_gone`"
    monkeypatch.setitem(SEEN_BY, "new_limit", SEEN_BY["metadata"])
    assert unseen("new_limit") == f"`{SEEN_BY['metadata']}` does not name it"


def unseen(field: str) -> str | None:
    """Why no test sees the effect of the field; None if one does."""
    if (test := SEEN_BY.get(field)) is None:
        noticed = any(fails_without(case, field) for case in _cases())
        return None if noticed else "no case of tests/cases fails without it, and SEEN_BY has no test of it"
    path, _, name = test.partition("::")
    source = _tests(path).get(name)
    if source is None:
        return f"no test `{test}`"
    return None if field in source else f"`{test}` does not name it"


def fails_without(case: Case, field: str) -> bool:
    """Whether the case is about the field: it fails for an agent that has the default instead."""
    if case.agent is None or same_json(case.agent.get(field), to_json(CONFIGURATION[field].default)):
        return False
    without = replace(case, agent={name: value for name, value in case.agent.items() if name != field})
    try:
        state = without.state()
    except AssertionError:  # there is no such agent: the default contradicts another field
        return False
    try:
        case.hold(core_answers(state, case.steps))
    except AssertionError:
        return True
    return False


_cases: Callable[[], list[Case]] = cache(load)


@cache
def _tests(path: str) -> dict[str, str]:
    """The source of each test of a file, by name."""
    text = (ROOT / path).read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: ast.get_source_segment(text, node) or "" for node in functions if node.name.startswith("test_")}
