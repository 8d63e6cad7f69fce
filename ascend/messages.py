"""Converts between protobuf and the types of agent code."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct, Value

from ascend.model import (
    Approval,
    ApprovalState,
    Decision,
    Outcome,
    Policy,
    Question,
    RateRemaining,
    ShadowVerdict,
)
from pdp.v1 import decision_pb2 as pb

FIELDS = [field for field in pb.Action.DESCRIPTOR.fields if field.name != "agent_id"]
"""Of an action: those of the message, save whose action it is."""

_OUTCOMES = {
    pb.OUTCOME_ALLOW: Outcome.ALLOW,
    pb.OUTCOME_REQUIRE_APPROVAL: Outcome.REQUIRE_APPROVAL,
    pb.OUTCOME_BLOCK: Outcome.BLOCK,
    pb.OUTCOME_ESCALATE: Outcome.ESCALATE,
}
_REASONS = {number: name.removeprefix("REASON_") for name, number in pb.Reason.items()}
_STATES = {
    pb.APPROVAL_STATE_PENDING: ApprovalState.PENDING,
    pb.APPROVAL_STATE_APPROVED: ApprovalState.APPROVED,
    pb.APPROVAL_STATE_DENIED: ApprovalState.DENIED,
    pb.APPROVAL_STATE_EXPIRED: ApprovalState.EXPIRED,
    pb.APPROVAL_STATE_USED: ApprovalState.USED,
}
_SOURCES = {pb.SOURCE_LIVE: "live", pb.SOURCE_CACHED: "cached"}
_NO_RATES = RateRemaining()
MAX_REQUEST_BYTES = 512 * 1024
"""What a sidecar takes by every protocol; an action has at most 64 KiB."""
MAX_VALUES = 32 * 1024
"""More values than fit into the 64 KiB that a sidecar accepts."""
MAX_EXACT = 2**53


class MalformedActionError(ValueError):
    """An action that does not fit a message; the text begins with the name of the faulty field, if there is one."""


def request(question: Question) -> pb.EvaluateRequest:
    """The request for one question, or `MalformedActionError`, whatever the action holds."""
    message = pb.EvaluateRequest()
    _put(message, "dry_run", question.dry_run)
    _put(message, "idempotency_key", question.idempotency_key)
    _put(message, "approval_id", question.approval_id)
    _put(message.action, "agent_id", question.agent_id)
    for field in FIELDS:
        value = getattr(question.action, field.name)
        if field.message_type is not None:
            _put_object(message.action, field.name, value)
        elif field.is_repeated:
            _put_list(message.action, field.name, value)
        elif value is not None and not (isinstance(value, str) and not value):
            _put(message.action, field.name, value)
    if message.ByteSize() > MAX_REQUEST_BYTES:
        raise MalformedActionError(f"action: is larger than {MAX_REQUEST_BYTES} bytes")
    return message


def response(raw: bytes) -> pb.EvaluateResponse:
    """The answer to one question; `DecodeError` if it cannot be read."""
    return pb.EvaluateResponse.FromString(raw)


def update(raw: bytes) -> pb.ApprovalUpdate:
    """An answer of `WaitForApproval`; `ValueError` if it cannot be read."""
    try:
        return pb.ApprovalUpdate.FromString(raw)
    except DecodeError as error:
        raise ValueError(f"an update cannot be read: {error}") from None


def decision(answer: pb.EvaluateResponse) -> Decision:
    """A sidecar's answer; an outcome that this client does not know is a block."""
    return Decision(
        outcome=_OUTCOMES.get(answer.outcome, Outcome.BLOCK),
        reason=_REASONS.get(answer.reason, str(answer.reason)),
        message=answer.message,
        decision_id=answer.decision_id,
        risk_score=answer.risk_score,
        mfa_required=answer.mfa_required,
        policy=_policy(answer.policy) if answer.HasField("policy") else None,
        action_params=_plain(answer.action_params) if answer.HasField("action_params") else {},
        shadow=tuple(_shadow(answer.shadow)),
        rate_remaining=_rates(answer.rate_remaining) if answer.HasField("rate_remaining") else _NO_RATES,
        budget_remaining_usd=answer.budget_remaining_usd if answer.HasField("budget_remaining_usd") else None,
        retry_after=answer.retry_after if answer.HasField("retry_after") else None,
        approval_id=answer.approval_id,
        approval_expires_at=(
            answer.approval_expires_at.ToDatetime(UTC) if answer.HasField("approval_expires_at") else None
        ),
        approval_pending=answer.approval_pending,
        agent_version=answer.agent_version,
        registry_revision=answer.registry_revision,
        staleness=answer.staleness,
        source=_SOURCES.get(answer.source, ""),
    )


def approval(update: pb.ApprovalUpdate) -> Approval:
    """An approval as a sidecar reports it; a state that this client does not know is `unknown`."""
    return Approval(
        update.approval_id,
        _STATES.get(update.state, ApprovalState.UNKNOWN),
        update.decided_by,
        update.comment,
        update.expires_at.ToDatetime(UTC) if update.HasField("expires_at") else None,
    )


def _policy(reference: pb.PolicyReference) -> Policy:
    return Policy(reference.id, reference.name, reference.priority)


def _shadow(verdicts: Iterable[pb.ShadowVerdict]) -> Iterable[ShadowVerdict]:
    for verdict in verdicts:
        yield ShadowVerdict(_policy(verdict.policy), _OUTCOMES.get(verdict.outcome, Outcome.BLOCK))


def _rates(rates: pb.RateRemaining) -> RateRemaining:
    return RateRemaining(
        rates.minute if rates.HasField("minute") else None,
        rates.hour if rates.HasField("hour") else None,
        rates.day if rates.HasField("day") else None,
    )


def _plain(message: Struct) -> Mapping[str, Any]:
    # A Struct's own order varies from run to run.
    return {name: _plain_value(value) for name, value in sorted(message.fields.items())}


def _plain_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _plain(value.struct_value)
        case "list_value":
            return [_plain_value(item) for item in value.list_value.values]
        case "number_value":
            # Struct has only floating point; whole numbers become integers again.
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= MAX_EXACT else number
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def _put(message: Message, name: str, value: object) -> None:
    try:
        if name == "risk_score" and isinstance(value, float) and value.is_integer():
            value = int(value)
        setattr(message, name, value)
    except Exception as error:
        raise _malformed(name, error) from None


def _put_list(message: pb.Action, name: str, texts: Sequence[str] | None) -> None:
    if isinstance(texts, str):
        # A text would count as a list of its letters, which match no governed classification.
        raise MalformedActionError(f"{name}: is a text, not a list of texts")
    try:
        getattr(message, name).extend(() if texts is None else texts)
    except Exception as error:
        raise _malformed(name, error) from None


def _put_object(message: pb.Action, name: str, value: Mapping[str, Any] | None) -> None:
    try:
        members = {} if value is None else dict(value)
        if members:
            _check_extent(members)
            ParseDict(members, getattr(message, name))
    except Exception as error:
        raise _malformed(name, error) from None


def _check_extent(attributes: Mapping[str, Any]) -> None:
    """Raise `ValueError` for attributes that contain themselves, or the same object too many times."""
    waiting: list[Any] = [attributes]
    for _ in range(MAX_VALUES):
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        if not waiting:
            return
    raise ValueError(f"contain themselves, or more than {MAX_VALUES} values")


def _malformed(name: str, error: Exception) -> MalformedActionError:
    """Any error of a field, which may hold objects of any class, as one that names the field."""
    if isinstance(error, RecursionError):
        return MalformedActionError(f"{name}: is nested too deep")
    return MalformedActionError(f"{name}: {str(error) or type(error).__name__}")
