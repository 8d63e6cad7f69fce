"""Requests as messages and as JSON, read within bounds and written."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from pdp.attributes import struct_of
from pdp.core.action import FIELDS, MAX_ID_CHARACTERS, MAX_KEY_CHARACTERS, REQUEST, Action, action_json
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.fields import Schema, read_fields, schema_of
from pdp.v1 import decision_pb2 as pb
from pdp.wire.actions import read_action

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
