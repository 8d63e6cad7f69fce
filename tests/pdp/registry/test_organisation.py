"""Which policies of the organisation bind an agent, and that agents share them."""

import pytest

from pdp.core.compile import CompiledAgent, CompiledPolicy
from pdp.core.model import PolicyRecord
from pdp.registry.organisation import Organisation, OrganisationPolicy
from tests.core.records import agent_record, policy_record


def policy(name: str = "p", **fields: object) -> OrganisationPolicy:
    record: PolicyRecord = policy_record(policy_id=name, policy_name=name, **fields)
    return OrganisationPolicy(record, CompiledPolicy(record) if record.is_active else None)


def agent(*tags: str, agent_type: str = "custom") -> CompiledAgent:
    return CompiledAgent(agent_record(tags=list(tags), agent_type=agent_type))


@pytest.mark.parametrize(
    ("selector", "bound"),
    [
        ({}, True),
        ({"tags": [], "agent_types": []}, True),
        ({"tags": ["a"]}, True),
        ({"tags": ["b", "x"]}, True),
        ({"tags": ["a", "b"]}, True),
        ({"tags": ["x"]}, False),
        ({"agent_types": ["custom"]}, True),
        ({"agent_types": ["advisory"]}, False),
        ({"tags": ["a"], "agent_types": ["custom", "advisory"]}, True),
        ({"tags": ["x"], "agent_types": ["custom"]}, False),
        ({"tags": ["a"], "agent_types": ["advisory"]}, False),
    ],
)
def test_a_selector_binds_by_tag_and_type(selector: dict[str, list[str]], bound: bool) -> None:
    """It needs one of the tags and one of the types, if it names any."""
    found = Organisation([policy(applies_to=selector)]).binding(agent("a", "b"))
    assert (found is not None) is bound


def test_an_inactive_policy_binds_nobody() -> None:
    """Nor does an organisation without policies."""
    assert Organisation([policy(is_active=False)]).binding(agent()) is None
    assert Organisation().binding(agent()) is None


def test_agents_that_the_same_policies_bind_share_one_index() -> None:
    """Whatever tags led to the policies, and after a change that does not touch them."""
    both, eu, later = (
        policy("both", applies_to={"tags": ["eu", "us"]}),
        policy("eu", applies_to={"tags": ["eu"]}),
        policy("z"),
    )
    before = Organisation([both, eu])
    shared = before.binding(agent("us"))
    assert shared is not None
    assert before.binding(agent("us", "x")) is shared
    assert before.binding(agent("eu")) is before.binding(agent("x", "eu", "us")) is not shared
    assert Organisation([both, policy("eu", applies_to={"tags": ["eu"]})], before).binding(agent("us")) is shared
    assert Organisation([both, eu, later], before).binding(agent("us")) is not shared
    assert Organisation([policy("both"), eu], before).binding(agent("us")) is not shared


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of more kinds than that are bound all the same."""
    monkeypatch.setattr("pdp.registry.organisation.MAX_REMEMBERED", 2)
    organisation = Organisation([policy(str(n), applies_to={"tags": [str(n)]}) for n in range(5)])
    for number in (0, 1, 2, 3, 4, 0):
        assert organisation.binding(agent(str(number))) is not None
        assert organisation.binding(agent(str(number), "x")) is not None
    assert len(organisation._by_kind) <= 2
    assert len(organisation._indexes) <= 2
