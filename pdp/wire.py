"""protobuf and JSON ↔ core: the only place that knows how a request and an answer travel."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from pdp.attributes import Attributes, TooDeepError, doubles, plain
from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.fields import Field, Schema, quote, read_fields, schema_of
from pdp.core.interface import ACTION
from pdp.core.json import canonical_json
from pdp.core.json.canonical_json import double
from pdp.core.kinds import Flag, Json, ListOf, Number, OrNull, Text, Whole
from pdp.core.model import Action, Source
from pdp.core.records import AGENT_ID
from pdp.core.usage import Limits
from pdp.v1 import decision_pb2 as pb

MAX_ACTION_BYTES = 64 * 1024
MAX_ATTRIBUTE_DEPTH = 16
MAX_DOLLARS = 1_000_000_000
MAX_CLASSIFICATIONS = 64
MAX_CHARACTERS = {
    "action_type": 256,
    "resource": 2048,
    "resource_id": 1024,
    "mcp_server": 256,
    "tool": 256,
    "environment": 256,
}

MAX_KEY_CHARACTERS = 256
MAX_ID_CHARACTERS = 64
MAX_SHADOWS = 100
"""An answer tells of so many shadow policies that held, the first in the order of evaluation."""

_TEXTS = ("agent_id", *MAX_CHARACTERS)
texts_of = attrgetter(*_TEXTS)
"""The texts of an action, save its data classifications."""

# Each item of a list takes two bytes on the wire at least, so a smaller action than this keeps the bounds of its texts.
_SURELY_BOUNDED_BYTES = min(2 * MAX_CLASSIFICATIONS, *MAX_CHARACTERS.values())

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse(kind: type[AnyMessage], raw: bytes) -> AnyMessage:
    """A message of `kind` from its bytes, or `InvalidActionError` that names the request."""
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise InvalidActionError(
            Problem("request", f"is not a `{name}`, or its attributes are nested too deep")
        ) from None
    return message


class Request(NamedTuple):
    """What a caller puts to the sidecar."""

    action: Action
    idempotency_key: str = ""
    approval_id: str = ""
    dry_run: bool = False


def read_request(message: pb.EvaluateRequest) -> Request:
    """The request in a message, or `InvalidActionError` with the name of the field that is wrong."""
    if len(message.idempotency_key) > MAX_KEY_CHARACTERS:
        raise InvalidActionError(Problem("idempotency_key", f"is longer than {MAX_KEY_CHARACTERS} characters"))
    if message.approval_id:
        read_approval_id(message)
    return Request(read_action(message.action), message.idempotency_key, message.approval_id, message.dry_run)


def read_approval_id(message: pb.EvaluateRequest | pb.WaitForApprovalRequest) -> str:
    """The id of an approval in a message, or `InvalidActionError` if it can be none."""
    if not message.approval_id:
        raise InvalidActionError(Problem("approval_id", "is required"))
    if len(message.approval_id) > MAX_ID_CHARACTERS:
        raise InvalidActionError(Problem("approval_id", f"is longer than {MAX_ID_CHARACTERS} characters"))
    return message.approval_id


def read_json_request(document: Any) -> Request:
    """The request in a JSON document, or `InvalidActionError` with every field that is wrong."""
    problems = Problems()
    request = read_fields(document, _REQUEST, "", problems)
    fields = read_fields(request.pop("action"), _ACTION, "action", problems)
    if problems:
        raise InvalidActionError(*problems)
    cost, amount = fields.pop("estimated_cost_usd"), fields.pop("amount")
    action = Action(
        **fields | {"attributes": doubles(fields["attributes"])},
        amount=None if amount is None else double(amount),
        estimated_cost_micros=None if cost is None else _micros(cost),
    )
    return Request(action, **request)


def request_schema() -> Schema:
    """The JSON Schema of what `read_json_request` reads."""
    action = schema_of(_ACTION)
    for name, schema in action["properties"].items():
        schema["description"] = ACTION[name]["description"]
    request = schema_of(_REQUEST)
    return request | {"properties": request["properties"] | {"action": action}}


def read_action(message: pb.Action) -> Action:
    """The action in a message, or `InvalidActionError` with the name of the field that is wrong."""
    size = message.ByteSize()
    if size > _SURELY_BOUNDED_BYTES:
        _check_bounds(message, size)
    if not message.agent_id:
        raise InvalidActionError(Problem("action.agent_id", "is required"))
    if not message.action_type:
        raise InvalidActionError(Problem("action.action_type", "is required"))
    action = Action(
        message.agent_id,
        message.action_type,
        message.resource,
        message.resource_id,
        _risk(message.risk_score) if message.HasField("risk_score") else None,
        double(_amount("action.amount", message.amount)) if message.HasField("amount") else None,
        _micros(message.estimated_cost_usd) if message.HasField("estimated_cost_usd") else None,
        tuple(message.data_classifications),
        message.mcp_server,
        message.tool,
        message.environment,
        _attributes(message) if message.HasField("attributes") else _NO_ATTRIBUTES,
        message.mfa_verified,
    )
    # Whoever ends a text at its NUL would act on another one than was decided on.
    if "\0" in "".join((*texts_of(action), *action.data_classifications)):
        _refuse_nul(action)
    return action


def write_decision(decision: Decision) -> pb.EvaluateResponse:
    """The answer to a decision, without what only the shell knows: its id, message, remaining counts, provenance."""
    outcome: Any = decision.outcome.value  # the generated stubs want the enum's wrapper, which no value has
    reason: Any = decision.reason.value
    answer = pb.EvaluateResponse(outcome=outcome, reason=reason, risk_score=decision.risk_score)
    if decision.mfa_required:
        answer.mfa_required = True
    if decision.policy is not None:
        answer.MergeFrom(_policy_part(decision.policy))
    for policy in decision.shadow[:MAX_SHADOWS]:
        answer.shadow.add(policy=_policy_part(policy).policy, outcome=policy.outcome.value)
    if decision.retry_after is not None:
        answer.retry_after = decision.retry_after
    return answer


def write_provenance(answer: pb.EvaluateResponse, revision: int, source: Source, staleness: float) -> None:
    """Put into an answer what it was decided from; `staleness` in seconds."""
    answer.registry_revision = revision
    answer.staleness = staleness
    answer.source = source.value  # type: ignore[assignment]  # the stubs want the enum's wrapper


def write_approval(answer: pb.EvaluateResponse, approval_id: str, expires_at: float) -> None:
    """Put into an answer the approval that it waits for; `expires_at` in Unix seconds, 0: not known."""
    answer.approval_id = approval_id
    if expires_at:
        write_moment(answer.approval_expires_at, expires_at)


def write_moment(message: Timestamp, seconds: float) -> None:
    """Set a time, given in Unix seconds."""
    message.FromMicroseconds(round(seconds * 1_000_000))


def read_moment(message: Timestamp) -> float:
    """A time in Unix seconds."""
    return message.ToMicroseconds() / 1_000_000


def instant(wall: float) -> str:
    """A time in Unix seconds as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def action_json(action: Action) -> dict[str, Any]:
    """An action by the names that the interfaces use, every field, null or empty where there is none."""
    cost = action.estimated_cost_micros
    return {
        "agent_id": action.agent_id,
        "action_type": action.action_type,
        "resource": action.resource,
        "resource_id": action.resource_id,
        "risk_score": action.risk_score,
        "amount": None if action.amount is None else double(action.amount),
        "estimated_cost_usd": None if cost is None else double(cost / 1_000_000),
        "data_classifications": action.data_classifications,
        "mcp_server": action.mcp_server,
        "tool": action.tool,
        "environment": action.environment,
        "attributes": action.attributes,
        "mfa_verified": action.mfa_verified,
    }


def digest(action: Action) -> bytes:
    """The SHA-256 of an action in canonical JSON (RFC 8785): equal for equal actions, by whatever endpoint."""
    return hashlib.sha256(canonical_json.dumps(action_json(action))).digest()


def write_remaining(answer: pb.EvaluateResponse, remaining: Limits, budget_micros: int | None) -> None:
    """Put into an answer what the limits and the budget still admit."""
    minute, hour, day = remaining
    rates = answer.rate_remaining
    if minute is not None:
        rates.minute = minute
    if hour is not None:
        rates.hour = hour
    if day is not None:
        rates.day = day
    if budget_micros is not None:
        answer.budget_remaining_usd = budget_micros / 1_000_000


def answer_json(answer: pb.EvaluateResponse) -> dict[str, Any]:
    """An answer as the JSON door gives it: every field, null where there is none."""
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
            {"policy": _policy_json(verdict.policy), "outcome": _outcome_name(verdict.outcome)}
            for verdict in answer.shadow
        ],
        "rate_remaining": {
            name: getattr(answer.rate_remaining, name) if answer.rate_remaining.HasField(name) else None
            for name in ("minute", "hour", "day")
        },
        **{name: getattr(answer, name) if answer.HasField(name) else None for name in _NULLABLE},
        "approval_id": answer.approval_id or None,
        "approval_expires_at": _lapse(answer),
        "agent_version": answer.agent_version or None,
        "registry_revision": answer.registry_revision,
        "staleness": answer.staleness,
        "source": pb.Source.Name(answer.source).removeprefix("SOURCE_").lower(),
    }


_NULLABLE = ("budget_remaining_usd", "retry_after")
_NO_ATTRIBUTES: Mapping[str, Any] = {}


def _attributes(message: pb.Action) -> Attributes:
    """The attributes in a message, decoded whole: what cannot be recorded is refused before it is decided."""
    try:
        return Attributes(plain(message.attributes, MAX_ATTRIBUTE_DEPTH), message.attributes.ByteSize())
    except TooDeepError:
        told = f"is nested more than {MAX_ATTRIBUTE_DEPTH} levels deep"
    except ValueError:
        told = "holds a number that is not finite"
    raise InvalidActionError(Problem("action.attributes", told))


def _check_bounds(message: pb.Action, size: int) -> None:
    if size > MAX_ACTION_BYTES:
        raise InvalidActionError(Problem("action", f"is larger than {MAX_ACTION_BYTES} bytes"))
    for name, most in MAX_CHARACTERS.items():
        if len(getattr(message, name)) > most:
            raise InvalidActionError(Problem(f"action.{name}", f"is longer than {most} characters"))
    if len(message.data_classifications) > MAX_CLASSIFICATIONS:
        raise InvalidActionError(Problem("action.data_classifications", f"has more than {MAX_CLASSIFICATIONS} items"))


def _refuse_nul(action: Action) -> NoReturn:
    held = [name for name in _TEXTS if "\0" in getattr(action, name)]
    raise InvalidActionError(Problem(f"action.{held[0] if held else 'data_classifications'}", "holds a NUL"))


def _text(name: str) -> Field:
    return Field(Text(MAX_CHARACTERS[name]), "")


_ACTION: dict[str, Field] = {
    "agent_id": Field(AGENT_ID, required=True),
    "action_type": Field(Text(MAX_CHARACTERS["action_type"], 1), required=True),
    "resource": _text("resource"),
    "resource_id": _text("resource_id"),
    "risk_score": Field(OrNull(Whole(0, 100))),
    "amount": Field(OrNull(Number(0))),
    "estimated_cost_usd": Field(OrNull(Number(0, MAX_DOLLARS))),
    "data_classifications": Field(ListOf(Text(MAX_ACTION_BYTES), MAX_CLASSIFICATIONS, distinct=False), ()),
    "mcp_server": _text("mcp_server"),
    "tool": _text("tool"),
    "environment": _text("environment"),
    "attributes": Field(Json(MAX_ACTION_BYTES, MAX_ATTRIBUTE_DEPTH, only_object=True), _NO_ATTRIBUTES),
    "mfa_verified": Field(Flag(), False),
}
_REQUEST: dict[str, Field] = {
    "action": Field(Json(MAX_ACTION_BYTES, MAX_ATTRIBUTE_DEPTH + 2, only_object=True), {}, required=True),
    "idempotency_key": Field(Text(MAX_KEY_CHARACTERS), ""),
    "approval_id": Field(Text(MAX_ID_CHARACTERS), ""),
    "dry_run": Field(Flag(), False),
}


def _risk(score: int) -> int:
    if not 0 <= score <= 100:
        raise InvalidActionError(Problem("action.risk_score", f"{score} is not within 0 to 100"))
    return score


def _amount(field: str, value: float) -> float:
    if not isfinite(value) or value < 0:
        raise InvalidActionError(Problem(field, f"{quote(value)} is not a finite number of at least 0"))
    return value


def _micros(dollars: float) -> int:
    if _amount("action.estimated_cost_usd", dollars) > MAX_DOLLARS:
        raise InvalidActionError(Problem("action.estimated_cost_usd", f"{dollars} is above {MAX_DOLLARS}"))
    return round(dollars * 1_000_000)


# Every decision by a policy carries the same part; building it costs more than deciding.
@lru_cache(maxsize=4096)
def _policy_part(policy: CompiledPolicy) -> pb.EvaluateResponse:
    part = pb.EvaluateResponse()
    part.policy.id = policy.policy_id
    part.policy.name = policy.policy_name
    part.policy.priority = policy.priority
    if policy.action_params:
        part.action_params.update(dict(policy.action_params))
    return part


def _lapse(answer: pb.EvaluateResponse) -> str | None:
    return instant(read_moment(answer.approval_expires_at)) if answer.HasField("approval_expires_at") else None


def _policy_json(policy: pb.PolicyReference) -> dict[str, Any]:
    return {"id": policy.id, "name": policy.name, "priority": policy.priority}


def _outcome_name(outcome: pb.Outcome) -> str:
    return pb.Outcome.Name(outcome).removeprefix("OUTCOME_").lower()
