"""The message of a decision: one sentence for people."""

import pytest

from pdp.core.action import Action
from pdp.core.compile import CompiledAgent, CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.messages import message
from pdp.core.model import Outcome, Reason
from tests.core.records import agent_record, policy_record

AGENT = CompiledAgent(agent_record(agent_id="billing", status="suspended"))
ACTION = Action("billing", "api.read", "vault", data_classifications=("pii", "secret"), mcp_server="db", tool="drop")


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (Reason.AGENT_NOT_ACTIVE, "agent `billing` is suspended"),
        (Reason.ACTION_NOT_ALLOWED, "action type `api.read` is not allowed for this agent"),
        (Reason.RESOURCE_BLOCKED, "resource `vault` is blocked for this agent"),
        (Reason.RESOURCE_NOT_ALLOWED, "resource `vault` is not allowed for this agent"),
        (Reason.DATA_CLASSIFICATION_BLOCKED, "data classifications `pii`, `secret` are not all allowed"),
        (Reason.MCP_SERVER_NOT_REGISTERED, "MCP server `db` is not registered"),
        (Reason.MCP_TOOL_BLOCKED, "tool `drop` of MCP server `db` is not allowed for this agent"),
        (Reason.OUTSIDE_TIME_WINDOW, "agent `billing` is outside its time window"),
        (Reason.RATE_LIMIT_EXCEEDED, "agent `billing` has reached its rate limit; retry in 12.4 s"),
        (Reason.BUDGET_EXCEEDED, "the cost would exceed the daily budget of agent `billing`"),
        (Reason.MCP_TOOL_AUTO_APPROVED, "tool `drop` of MCP server `db` is approved for all agents"),
        (Reason.RISK_ABOVE_MAXIMUM, "risk 85 is above the maximum of 80"),
        (Reason.RISK_BELOW_AUTO_APPROVE, "risk 85 is below 30"),
        (Reason.RISK_NEEDS_APPROVAL, "risk 85 is within 30 to 80, where a person approves"),
        (Reason.MFA_REQUIRED, "risk 85 is above 70 and MFA was not verified"),
        (Reason.APPROVED, "a person approved it"),
        (Reason.APPROVAL_MISMATCH, "the approval was given for another action"),
        (Reason.INTERNAL_ERROR, "the sidecar failed to decide, so the action is blocked"),
        (
            Reason.REGISTRY_STALE,
            "the registry data is older than `--max-staleness` allows, so the action is blocked",
        ),
    ],
)
def test_each_reason_has_its_sentence(reason: Reason, sentence: str) -> None:
    """It shows the values that caused the decision."""
    assert message(AGENT, ACTION, Decision(Outcome.BLOCK, reason, 85, retry_after=12.345)) == sentence


@pytest.mark.parametrize(
    ("outcome", "does"),
    [
        (Outcome.ALLOW, "allows it"),
        (Outcome.REQUIRE_APPROVAL, "requires an approval"),
        (Outcome.BLOCK, "blocks it"),
        (Outcome.ESCALATE, "escalates it"),
    ],
)
def test_a_policy_is_named_with_what_it_does(outcome: Outcome, does: str) -> None:
    """For each of the four outcomes."""
    policy = CompiledPolicy(policy_record(policy_name="High Value"))
    decision = Decision(outcome, Reason.POLICY_MATCHED, policy=policy)
    assert message(AGENT, ACTION, decision) == f"policy `High Value` {does}"


def test_a_limit_that_never_passes_names_no_wait() -> None:
    """A limit of 0, for example."""
    decision = Decision(Outcome.BLOCK, Reason.RATE_LIMIT_EXCEEDED)
    assert message(AGENT, ACTION, decision) == "agent `billing` has reached its rate limit"


def test_the_message_says_that_stale_data_escalates() -> None:
    """If the stale mode is escalate."""
    decision = Decision(Outcome.ESCALATE, Reason.REGISTRY_STALE, 85)
    sentence = "the registry data is older than `--max-staleness` allows, so the action is escalated"
    assert message(AGENT, ACTION, decision) == sentence


def test_without_an_agent_there_are_three_sentences() -> None:
    """It is not registered, the data is stale, or the decision failed before the agent was found."""
    stale = Decision(Outcome.BLOCK, Reason.REGISTRY_STALE)
    assert message(None, ACTION, stale).endswith("so the action is blocked")
    unknown = Decision(Outcome.BLOCK, Reason.AGENT_NOT_REGISTERED)
    assert message(None, ACTION, unknown) == "no agent `billing` is registered with this sidecar"
    failed = Decision(Outcome.BLOCK, Reason.INTERNAL_ERROR)
    assert message(None, ACTION, failed) == "the sidecar failed to decide, so the action is blocked"
