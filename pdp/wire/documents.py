"""Answers and approvals as JSON."""

from typing import Any

from pdp.attributes import plain
from pdp.v1 import decision_pb2 as pb
from pdp.wire.moments import instant, read_moment


def answer_json(answer: pb.EvaluateResponse) -> dict[str, Any]:
    """An answer as the JSON endpoint returns it: every field; null if it is not set."""
    return {
        "outcome": _outcome_name(answer.outcome),
        "reason": pb.Reason.Name(answer.reason).removeprefix("REASON_"),
        "message": answer.message,
        "decision_id": answer.decision_id,
        "risk_score": answer.risk_score,
        "mfa_required": answer.mfa_required,
        "policy": _policy_json(answer.policy) if answer.HasField("policy") else None,
        "action_params": plain(answer.action_params),
        "shadow": [
            {"policy": _policy_json(shadow.policy), "outcome": _outcome_name(shadow.outcome)}
            for shadow in answer.shadow
        ],
        "rate_remaining": {
            name: getattr(answer.rate_remaining, name) if answer.rate_remaining.HasField(name) else None
            for name in ("minute", "hour", "day")
        },
        **{name: getattr(answer, name) if answer.HasField(name) else None for name in _NULLABLE},
        "approval_id": answer.approval_id or None,
        "approval_expires_at": _expiry(answer),
        "approval_pending": answer.approval_pending,
        "agent_version": answer.agent_version or None,
        "registry_revision": answer.registry_revision,
        "staleness": answer.staleness,
        "source": pb.Source.Name(answer.source).removeprefix("SOURCE_").lower(),
    }


def approval_json(update: pb.ApprovalUpdate) -> dict[str, Any]:
    """The state of an approval as the JSON endpoint returns it: every field; null if it is not set."""
    expires_at = read_moment(update.expires_at)
    return {
        "approval_id": update.approval_id,
        "state": pb.ApprovalState.Name(update.state).removeprefix("APPROVAL_STATE_").lower(),
        "comment": update.comment or None,
        "decided_by": update.decided_by or None,
        "expires_at": instant(expires_at) if expires_at else None,
    }


_NULLABLE = ("budget_remaining_usd", "retry_after")


def _expiry(answer: pb.EvaluateResponse) -> str | None:
    return instant(read_moment(answer.approval_expires_at)) if answer.HasField("approval_expires_at") else None


def _policy_json(policy: pb.PolicyReference) -> dict[str, Any]:
    return {"id": policy.id, "name": policy.name, "priority": policy.priority}


def _outcome_name(outcome: pb.Outcome) -> str:
    return pb.Outcome.Name(outcome).removeprefix("OUTCOME_").lower()
