"""Converts requests and answers between the core and their forms on the wire, protobuf and JSON."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from operator import attrgetter, gt
from sys import float_info
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from pdp.attributes import TooDeepError, plain, struct_of
from pdp.core.action import (
    AGENT_ID,
    ATTRIBUTE_OF,
    FIELDS,
    MAX_ACTION_BYTES,
    MAX_ATTRIBUTE_DEPTH,
    MAX_ID_CHARACTERS,
    MAX_KEY_CHARACTERS,
    REQUEST,
    RESTORE,
    Action,
    Converted,
    action_json,
    kind_of,
    texts_of,
)
from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision, demand_of
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.fields import Schema, read_fields, schema_of
from pdp.core.json import canonical_json
from pdp.core.kinds import ListOf, Number, Text, Whole
from pdp.core.model import Source
from pdp.core.usage import Limits
from pdp.v1 import decision_pb2 as pb

MAX_SHADOWS = 100
"""Maximum number of shadow policies in an answer: those that matched, in the order of evaluation."""

AnyMessage = TypeVar("AnyMessage", bound=Message)


def parse(kind: type[AnyMessage], raw: bytes) -> AnyMessage:
    """Parses a message of `kind`; `InvalidActionError` that names the request."""
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
    """A request for a decision; `raw` is its serialized `EvaluateRequest`, empty if nobody has made that yet."""

    action: Action
    idempotency_key: str = ""
    approval_id: str = ""
    dry_run: bool = False
    raw: bytes = b""


def read_request(message: pb.EvaluateRequest) -> Request:
    """Reads the request of a message; `InvalidActionError` that names the invalid field."""
    if len(message.idempotency_key) > MAX_KEY_CHARACTERS:
        raise InvalidActionError(Problem("idempotency_key", f"is longer than {MAX_KEY_CHARACTERS} characters"))
    if message.approval_id:
        read_approval_id(message)
    action = read_action(message.action)
    # What nobody checks stays out of the log: unknown fields could hide values from the redaction, and unknown groups
    # could be nested so deep that a message around them is refused.
    message.DiscardUnknownFields()
    raw = message.SerializeToString()
    return Request(action, message.idempotency_key, message.approval_id, message.dry_run, raw)


def read_approval_id(message: pb.EvaluateRequest | pb.WaitForApprovalRequest) -> str:
    """Reads the approval id of a message; `InvalidActionError` if it is missing or too long."""
    if not message.approval_id:
        raise InvalidActionError(Problem("approval_id", "is required"))
    if len(message.approval_id) > MAX_ID_CHARACTERS:
        raise InvalidActionError(Problem("approval_id", f"is longer than {MAX_ID_CHARACTERS} characters"))
    return message.approval_id


def read_json_request(document: Any) -> Request:
    """Reads the request of a JSON document; `InvalidActionError` with every invalid field."""
    problems = Problems()
    request = read_fields(document, REQUEST, "", problems)
    fields = read_fields(request.pop("action"), FIELDS, "action", problems)
    if problems:
        raise InvalidActionError(*problems)
    read = Request(Action(*fields.values()), **request)
    return read._replace(raw=write_request(read))


def read_json_action(document: Any) -> Action:
    """Reads the action of a JSON document that holds nothing else; `InvalidActionError` with every invalid field."""
    problems = Problems()
    fields = read_fields(read_fields(document, _ACTION_ALONE, "", problems)["action"], FIELDS, "action", problems)
    if problems:
        raise InvalidActionError(*problems)
    return Action(*fields.values())


def request_schema() -> Schema:
    """The JSON Schema of the documents that `read_json_request` accepts."""
    return _with_action(schema_of(REQUEST))


def action_schema() -> Schema:
    """The JSON Schema of the documents that `read_json_action` accepts."""
    return _with_action(schema_of(_ACTION_ALONE))


def _with_action(schema: Schema) -> Schema:
    return schema | {"properties": schema["properties"] | {"action": schema_of(FIELDS)}}


_ACTION_ALONE = {"action": REQUEST["action"]}


def read_action(message: pb.Action) -> Action:
    """Reads the action of a message; `InvalidActionError` that names the invalid field."""
    size = message.ByteSize()
    if size > MAX_ACTION_BYTES:
        raise InvalidActionError(Problem("action", f"is larger than {MAX_ACTION_BYTES} bytes"))
    action = _read(message)
    # A program that ends a text at the NUL would act on another text than the one that was decided on.
    if not all(_required(action)) or "\0" in "".join(texts_of(action)):
        _raise_problem(action)
    if size > _WITHIN_BOUNDS_BYTES and any(map(gt, map(len, _bounded(action)), _BOUNDS)):
        _raise_problem(action)
    return action


def write_request(request: Request) -> bytes:
    """The serialized `EvaluateRequest` of a request."""
    message = pb.EvaluateRequest(
        idempotency_key=request.idempotency_key, approval_id=request.approval_id, dry_run=request.dry_run
    )
    write_action(message.action, action_json(request.action))
    return message.SerializeToString()


def write_action(message: pb.Action, fields: Mapping[str, Any]) -> None:
    """Sets an action to the fields of its JSON object; null means not given."""
    given = {name: value for name, value in fields.items() if value is not None}
    if attributes := given.pop("attributes", None):
        given["attributes"] = struct_of(attributes)
    message.CopyFrom(pb.Action(**given))


def write_decision(decision: Decision) -> pb.EvaluateResponse:
    """Builds the answer to a decision; the shell adds its id, message, remaining counts and provenance."""
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
    """Adds to an answer the registry data that it was decided from; `staleness` in seconds."""
    answer.registry_revision = revision
    answer.staleness = staleness
    answer.source = source.value  # type: ignore[assignment]  # the stubs want the enum's wrapper


def write_approval(answer: pb.EvaluateResponse, approval_id: str, expires_at: float, *, pending: bool = False) -> None:
    """Adds to an answer the approval that it waits for; `expires_at` in Unix seconds, 0: unknown.

    `pending`: an earlier decision opened it, and it still waits for people.
    """
    answer.approval_id = approval_id
    if pending:
        answer.approval_pending = True
    if expires_at:
        write_moment(answer.approval_expires_at, expires_at)


def write_moment(message: Timestamp, seconds: float) -> None:
    """Sets a timestamp to a time in Unix seconds."""
    message.FromMicroseconds(round(seconds * 1_000_000))


def read_moment(message: Timestamp) -> float:
    """The time of a timestamp, in Unix seconds."""
    return message.ToMicroseconds() / 1_000_000


def instant(wall: float) -> str:
    """A time in Unix seconds as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def digest(action: Action) -> bytes:
    """The SHA-256 of an action in canonical JSON (RFC 8785): the same for equal actions of every endpoint."""
    return hashlib.sha256(canonical_text(action).encode()).digest()


def demand_digest(decision: Decision) -> bytes:
    """The SHA-256 of who must decide on the action of this decision."""
    params = decision.policy.action_params if decision.policy else {}
    demand = demand_of(decision.outcome.name.lower(), params, mfa_required=decision.mfa_required)
    return hashlib.sha256(demand.canonical()).digest()


def write_remaining(answer: pb.EvaluateResponse, remaining: Limits, budget_micros: int | None) -> None:
    """Adds to an answer the remaining counts and budget."""
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


class _RaiseFirst(Problems):
    """Raises the first problem, under the name of its field, as `InvalidActionError`."""

    def append(self, problem: Problem) -> None:
        raise InvalidActionError(problem._replace(path=problem.path.partition("[")[0]))


_RAISE_FIRST = _RaiseFirst()


def _read_attributes(message: Any, path: str, problems: Problems) -> dict[str, Any]:
    """Decodes the attributes of a message before the decision, so that each decision can be recorded."""
    try:
        return plain(message, MAX_ATTRIBUTE_DEPTH)
    except TooDeepError:
        problems.append(Problem(path, f"is nested more than {MAX_ATTRIBUTE_DEPTH} levels deep"))
    except ValueError:
        problems.append(Problem(path, "holds a number that is not finite"))
    return {}


def _raise_problem(action: Action) -> None:
    """Raises `InvalidActionError` for a required field that is missing, or a text or list that is out of bounds."""
    for name, kind in _BOUNDED.items():
        path, value = f"action.{name}", getattr(action, ATTRIBUTE_OF[name])
        if FIELDS[name].required and not value:
            raise InvalidActionError(Problem(path, "is required"))
        kind.read(value, path, _RAISE_FIRST)


def _compile_reader() -> Callable[[pb.Action], Action]:
    """Generates the function that reads an action from a message: a loop over the fields takes twice as long."""
    names: dict[str, Any] = {"Action": Action, "problems": _RAISE_FIRST}
    values = []
    for name in FIELDS:
        field, kind = pb.Action.DESCRIPTOR.fields_by_name[name], kind_of(name)
        value = f"tuple(message.{name})" if isinstance(kind, ListOf) else f"message.{name}"
        if field.has_presence:
            inner = kind.kind if isinstance(kind, Converted) else kind
            names[f"read_{name}"] = inner.read if field.message_type is None else _read_attributes
            names[f"default_{name}"] = FIELDS[name].default
            read = f"read_{name}(message.{name}, 'action.{name}', problems)"
            if isinstance(inner, Whole | Number):
                names[f"low_{name}"], names[f"high_{name}"] = inner.low, min(inner.high, float_info.max)
                read = f"(value if low_{name} <= (value := message.{name}) <= high_{name} else {read})"
            if isinstance(kind, Converted) and field.message_type is None:
                names[f"convert_{name}"] = kind.convert
                read = f"convert_{name}({read})"
            value = f"{read} if message.HasField('{name}') else default_{name}"
        values.append(value)
    reader: Callable[[pb.Action], Action] = eval(f"lambda message: Action({', '.join(values)})", names)  # noqa: S307
    return reader


def _compile_canonical_text() -> Callable[[Action], str]:
    """Generates the function that writes an action in canonical JSON: to make a document first takes twice as long."""
    names: dict[str, Any] = {"quoted": encode_basestring, "text": canonical_json.text}
    members = []
    for name in sorted(FIELDS):  # the names are ASCII, so this is the canonical order
        value = f"action.{ATTRIBUTE_OF[name]}"
        if name in RESTORE:
            names[f"restore_{name}"] = RESTORE[name]
            value = f"None if (value := {value}) is None else restore_{name}(value)"
        write = "quoted" if isinstance(kind_of(name), Text) else "text"
        members.append(f"'\"{name}\":' + {write}({value})")
    source = "lambda action: '{' + " + " + ',' + ".join(members) + " + '}'"
    canonical: Callable[[Action], str] = eval(source, names)  # noqa: S307
    return canonical


canonical_text = _compile_canonical_text()
"""An action in canonical JSON (RFC 8785)."""
_read = _compile_reader()
# The pattern of an agent id is checked only if no agent has the id.
_BOUNDED = {
    name: replace(kind, pattern=None) if kind is AGENT_ID else kind
    for name in FIELDS
    if isinstance(kind := kind_of(name), Text | ListOf)
}
_BOUNDS = [kind.max_length if isinstance(kind, Text) else kind.max_items for kind in _BOUNDED.values()]
_bounded = attrgetter(*(ATTRIBUTE_OF[name] for name in _BOUNDED))
_required = attrgetter(*(ATTRIBUTE_OF[name] for name, field in FIELDS.items() if field.required))
# Each item of a list takes at least two bytes on the wire, so a smaller action is within all of these bounds.
_WITHIN_BOUNDS_BYTES = min(_BOUNDS)


# Every decision by a policy has the same part; building it costs more than the decision.
@lru_cache(maxsize=4096)
def _policy_part(policy: CompiledPolicy) -> pb.EvaluateResponse:
    part = pb.EvaluateResponse()
    part.policy.id = policy.policy_id
    part.policy.name = policy.policy_name
    part.policy.priority = policy.priority
    if policy.action_params:
        part.action_params.update(dict(policy.action_params))
    return part


def _expiry(answer: pb.EvaluateResponse) -> str | None:
    return instant(read_moment(answer.approval_expires_at)) if answer.HasField("approval_expires_at") else None


def _policy_json(policy: pb.PolicyReference) -> dict[str, Any]:
    return {"id": policy.id, "name": policy.name, "priority": policy.priority}


def _outcome_name(outcome: pb.Outcome) -> str:
    return pb.Outcome.Name(outcome).removeprefix("OUTCOME_").lower()
