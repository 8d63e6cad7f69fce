"""Explanations as messages and JSON: explains a decision from its records, writes and reads the message."""

from dataclasses import replace
from typing import Any

from pdp import wire
from pdp.core.explanation.explain import (
    ConditionExplanation,
    Explanation,
    PolicyExplanation,
    StageExplanation,
    Verdict,
    explain,
)
from pdp.core.model import Outcome, Reason, Status
from pdp.decision_point import Evaluation
from pdp.v1 import decision_pb2 as pb


class DisagreementError(Exception):
    """The reference and the fast path disagree, which is a bug."""


def explained(evaluation: Evaluation) -> pb.ExplainResponse:
    """The answer of an evaluation and everything that led to it.

    Raises `DisagreementError` if the explanation reaches another answer than the decision, so that no caller gets the
    explanation of a different decision.
    """
    records = evaluation.state.uncompiled(evaluation.action.agent_id)
    if evaluation.suspended and records.agent is not None:
        records = records._replace(agent=replace(records.agent, status=Status.SUSPENDED))
    explanation = explain(records, evaluation.action, evaluation.usage, evaluation.now, stale=evaluation.stale)
    answer = pb.EvaluateResponse.FromString(evaluation.answer)
    if (explanation.outcome.value, explanation.reason.value) != (answer.outcome, answer.reason):
        raise DisagreementError(f"decided {answer.outcome} {answer.reason}, but explained {explanation}")
    return pb.ExplainResponse(
        decision=answer,
        stages=map(_stage, explanation.stages),
        policies=map(_policy, explanation.policies),
        would_allow=explanation.would_allow,
    )


def _stage(stage: StageExplanation) -> pb.StageExplanation:
    verdict: Any = stage.verdict.value  # the generated stubs want the enum's wrapper, which no value has
    return pb.StageExplanation(stage=stage.stage, verdict=verdict, detail=stage.detail)


def _policy(policy: PolicyExplanation) -> pb.PolicyExplanation:
    outcome: Any = policy.outcome.value
    return pb.PolicyExplanation(
        policy=pb.PolicyReference(id=policy.policy_id, name=policy.policy_name, priority=policy.priority),
        outcome=outcome,
        shadow=policy.shadow,
        held=policy.held,
        decided=policy.decided,
        conditions=map(_condition, policy.conditions),
    )


def _condition(condition: ConditionExplanation) -> pb.ConditionExplanation:
    return pb.ConditionExplanation(
        operator=condition.operator, expected=condition.expected, seen=condition.seen, held=condition.held
    )


def read(message: pb.ExplainResponse) -> Explanation:
    """The explanation in a message, with the fields that `text.render` shows."""
    decision = message.decision
    return Explanation(
        Outcome(decision.outcome),
        Reason(decision.reason),
        decision.risk_score,
        mfa_required=decision.mfa_required,
        retry_after=decision.retry_after if decision.HasField("retry_after") else None,
        stages=tuple(StageExplanation(one.stage, Verdict(one.verdict), one.detail) for one in message.stages),
        policies=tuple(map(_read_policy, message.policies)),
        would_allow=tuple(message.would_allow),
    )


def _read_policy(message: pb.PolicyExplanation) -> PolicyExplanation:
    return PolicyExplanation(
        message.policy.id,
        message.policy.name,
        message.policy.priority,
        Outcome(message.outcome),
        message.shadow,
        message.held,
        message.decided,
        tuple(ConditionExplanation(one.operator, one.expected, one.seen, one.held) for one in message.conditions),
    )


def explanation_json(answer: pb.ExplainResponse) -> dict[str, Any]:
    """An explanation as the JSON endpoint and `pdp explain --json` return it."""
    return {
        "decision": wire.answer_json(answer.decision),
        "stages": [
            {"stage": one.stage, "verdict": _name(pb.Verdict, one.verdict), "detail": one.detail}
            for one in answer.stages
        ],
        "policies": [_policy_json(one) for one in answer.policies],
        "would_allow": list(answer.would_allow),
    }


def _policy_json(message: pb.PolicyExplanation) -> dict[str, Any]:
    policy = message.policy
    return {
        "policy": {"id": policy.id, "name": policy.name, "priority": policy.priority},
        "outcome": _name(pb.Outcome, message.outcome),
        "shadow": message.shadow,
        "held": message.held,
        "decided": message.decided,
        "conditions": [
            {"operator": one.operator, "expected": one.expected, "seen": one.seen, "held": one.held}
            for one in message.conditions
        ],
    }


def _name(kind: Any, value: int) -> str:
    name: str = kind.Name(value)
    return name.partition("_")[2].lower()
