"""What a situation tells of itself, straight from the records."""

from dataclasses import replace

import pytest

from pdp.core.model import Action, AgentType, Mode, Now, Selector
from pdp.core.situation import Situation, policies_of
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
