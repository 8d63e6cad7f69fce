"""The description of the RPCs that Connect serves, and JSON Schemas of their messages, from the descriptors."""

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from pdp.core.fields import Schema
from pdp.endpoints.connect_protocol import STATUS, code_name
from pdp.endpoints.proto_json import holds_messages
from pdp.endpoints.service import SERVICE
from pdp.v1 import decision_pb2 as pb

METHODS: list[MethodDescriptor] = [
    method
    for method in pb.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]].methods
    if not method.client_streaming
]
ACTION = {
    "agentId": "finance-transaction-processor-prod",
    "actionType": "transaction.process",
    "resource": "banking_api",
    "amount": 250.0,
}
EXAMPLES = {"Evaluate": {"action": ACTION, "dryRun": True}, "Explain": {"action": ACTION}}
BINARY: Schema = {"type": "string", "format": "binary"}
ERROR: Schema = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {
        "code": {
            "type": "string",
            "enum": list(map(code_name, STATUS)),
        },
        "message": {"type": "string"},
    },
}

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
}
_SCALARS: dict[Any, Schema] = {
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    # No double holds all of them, so the mapping writes them as text.
    FieldDescriptor.CPPTYPE_INT64: {"type": ["string", "integer"], "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": ["string", "integer"], "format": "uint64"},
}


def paths() -> dict[str, Any]:
    """An operation for each RPC."""
    return {f"/{SERVICE}/{method.name}": {"post": _operation(method)} for method in METHODS}


def schemas() -> dict[str, Schema]:
    """The messages of the RPCs, and the error."""
    found = {"ConnectError": ERROR}
    for method in METHODS:
        found |= _schemas(method.input_type, is_request=True)
        found |= _schemas(method.output_type, is_request=False)
    return found


def _operation(method: MethodDescriptor) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ConnectError"}}}
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    kind = "a server stream, each message in an envelope" if method.server_streaming else "unary"
    return {
        "operationId": f"connect_{method.name}",
        "summary": method.name,
        "description": f"The RPC {method.name} by the Connect protocol: {kind}.",
        "tags": ["connect"],
        "requestBody": {"required": True, "content": _content(method, method.input_type)},
        "responses": {
            "200": {"description": "The answer", "content": _content(method, method.output_type)},
            "403": {"description": "A web page of another origin asks, or the host is not ours", "content": problem},
            "415": {"description": "The content type is not one of these", "content": problem},
            "default": {"description": "An error, with the HTTP status of its code", "content": error},
        },
    }


def _content(method: MethodDescriptor, message: Any) -> dict[str, Any]:
    if method.server_streaming:
        return {f"application/connect+{form}": {"schema": BINARY} for form in ("json", "proto")}
    as_json: dict[str, Any] = {"schema": _reference(message)}
    if message is method.input_type and method.name in EXAMPLES:
        as_json["example"] = EXAMPLES[method.name]
    return {"application/json": as_json, "application/proto": {"schema": BINARY}}


def _reference(message: Descriptor) -> Schema:
    """A reference to the schema of a message."""
    return _WELL_KNOWN.get(message.full_name) or {"$ref": f"#/components/schemas/{message.full_name}"}


def _schemas(message: Descriptor, *, is_request: bool) -> dict[str, Schema]:
    """The schemas of a message and of those that it holds; a request has no other fields than these."""
    found: dict[str, Schema] = {}
    _collect(message, found, {"additionalProperties": False} if is_request else {})
    return found


def _collect(message: Descriptor, found: dict[str, Schema], beside: Schema) -> None:
    if message.full_name in found:
        return
    properties = {field.json_name: _schema(field) for field in message.fields}
    found[message.full_name] = {"type": "object", "properties": properties} | beside
    for field in message.fields:
        if field.message_type is not None and holds_messages(field):
            _collect(field.message_type, found, beside)


def _schema(field: FieldDescriptor) -> Schema:
    schema = _schema_of_one(field)
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _schema_of_one(field: FieldDescriptor) -> Schema:
    if field.message_type is not None:
        return _reference(field.message_type)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return _SCALARS[field.cpp_type]
