"""Records as sidecars wrote them before there were batches: JSON documents, one for each record."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pdp import wire
from pdp.attributes import struct_of
from pdp.v1 import decision_pb2 as pb
from pdp.v1 import log_pb2

NOTES = ("outcome", "suspension")
_EPOCH = datetime.fromtimestamp(0, UTC)
_SCALARS = (
    "message",
    "decision_id",
    "risk_score",
    "mfa_required",
    "approval_pending",
    "registry_revision",
    "staleness",
    "approval_id",
    "agent_version",
    "budget_remaining_usd",
    "retry_after",
)


class BadDocumentError(ValueError):
    """The document is not that of a record; the text says why."""


def from_json(document: Mapping[str, Any]) -> log_pb2.LogRecord:
    """The record of such a document; `BadDocumentError` if it is of none. Members that an older version did not write
    are empty.
    """
    try:
        return _record(document)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadDocumentError(f"is not the document of a record: {type(error).__name__}: {error}") from None


def _record(document: Mapping[str, Any]) -> log_pb2.LogRecord:
    record = log_pb2.LogRecord()
    if "gap" in document:
        gap = document["gap"]
        numbers = {name: gap[name] for name in ("first_sequence", "last_sequence", "records")}
        record.gap.CopyFrom(log_pb2.LogGap(**numbers, at_microseconds=_microseconds(gap["at"])))
        return record
    for kind in NOTES:
        if kind in document:
            getattr(record, kind).CopyFrom(struct_of(document[kind]))
            return record
    record.decision.CopyFrom(_decision(document))
    return record


def _decision(document: Mapping[str, Any]) -> log_pb2.LoggedDecision:
    is_repeat = document.get("repeat_of") is not None
    decision = log_pb2.LoggedDecision(
        answer=_answer(document["answer"]),
        repeat_id=document["decision_id"] if is_repeat else "",
        decided_at_microseconds=_microseconds(document["decided_at"]),
        latency_nanoseconds=round(document["latency_seconds"] * 1_000_000_000),
        cost_micros=document["cost_micros"],
    )
    request = decision.request
    wire.write_action(request.action, document["action"])
    request.idempotency_key = document.get("idempotency_key", "")
    request.approval_id = document.get("approval_id", "")
    request.dry_run = document["dry_run"]
    if opens := document.get("opens"):
        decision.opens.approval_id = opens["approval_id"]
        decision.opens.action_sha256 = bytes.fromhex(opens["action_sha256"])
        decision.opens.timeout_seconds = opens["timeout_seconds"]
    return decision


def _answer(document: Mapping[str, Any]) -> pb.EvaluateResponse:
    answer = pb.EvaluateResponse(
        outcome=f"OUTCOME_{document['outcome'].upper()}",
        reason=f"REASON_{document['reason']}",
        source=f"SOURCE_{document['source'].upper()}",
        **{name: document[name] for name in _SCALARS if document.get(name) is not None},
    )
    if document.get("policy"):
        answer.policy.CopyFrom(pb.PolicyReference(**document["policy"]))
    if document.get("action_params"):
        answer.action_params.CopyFrom(struct_of(document["action_params"]))
    for shadow in document.get("shadow", ()):
        answer.shadow.add(policy=pb.PolicyReference(**shadow["policy"]), outcome=f"OUTCOME_{shadow['outcome'].upper()}")
    for name, number in document.get("rate_remaining", {}).items():
        if number is not None:
            setattr(answer.rate_remaining, name, number)
    if document.get("approval_expires_at"):
        answer.approval_expires_at.FromMicroseconds(_microseconds(document["approval_expires_at"]))
    return answer


def _microseconds(instant: str) -> int:
    """Of Unix time."""
    moment = datetime.fromisoformat(instant)
    return (moment - _EPOCH) // timedelta(microseconds=1)
