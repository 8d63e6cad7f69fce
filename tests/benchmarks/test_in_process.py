"""The engines that decide the same rule in process."""

import pytest

from benchmarks import in_process
from benchmarks.in_process import CASBIN, CASBIN_POLICY, CEDAR, REGO, Engine, checked, measured, ours
from benchmarks.peers import rule


@pytest.mark.parametrize("policies", [[rule.RULE], rule.policies()], ids=["alone", "last of ten"])
def test_decide_allows_what_the_rule_allows(policies: list[dict[str, object]]) -> None:
    """And nothing else, with nine policies before it and without them."""
    checked("decide", ours(policies))


def test_an_engine_that_decides_otherwise_is_not_measured() -> None:
    """One that allows everything would be the quickest."""
    with pytest.raises(AssertionError, match="everything decides otherwise than the rule"):
        checked("everything", Engine("", lambda case: lambda: True))


@pytest.mark.parametrize("text", [CEDAR, "".join([CASBIN, *CASBIN_POLICY]), REGO], ids=["cedar", "casbin", "rego"])
def test_each_text_states_the_whole_rule(text: str) -> None:
    """Its conditions, the agent and the action."""
    conditions = rule.RULE["conditions"]
    words = [f"< {conditions['risk_below']}", *conditions["resource_in"], conditions["environment"], rule.AGENT_ID]
    assert [word for word in [*words, "data.read"] if word not in text] == []


def test_the_table_has_each_engine_and_its_text() -> None:
    """Ratios are to the first one."""
    engines = {name: in_process.ENGINES[name] for name in ("decide, 10 policies", "decide, the rule alone")}
    table = measured(engines, rounds=2, seconds=0.001)
    assert list(table.samples) == list(engines)
    assert table.base == "decide, 10 policies"
    assert all(f"{name}:" in table.notes for name in engines)
    assert "Reads of two resources in production" in table.text()
