"""Messages as JSON, by protobuf's mapping, in steps so that a large one keeps nobody waiting.

The objects are walked here and protobuf's own code converts the values in them. By itself it would take a list for an
empty object and a field under both of its names, and it rarely says which field is wrong.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from pdp.core.action import MAX_ACTION_BYTES, MAX_ATTRIBUTE_DEPTH
from pdp.core.errors import InvalidActionError, Problem
from pdp.core.fields import join, quote
from pdp.core.json.measures import certainly_exceeds, depth_exceeds

WELL_KNOWN = "google.protobuf"
"""The package of the messages that have a form of their own in JSON."""

_PARSE_ERRORS = (ParseError, ValueError, TypeError, OverflowError)
_TYPES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in vars(FieldDescriptor)
    if name.startswith("TYPE_")
}


def read(message: Message, document: Any, path: str = "") -> Iterator[None]:
    """Fills a message from its JSON, one item of a list a step; `InvalidActionError` that names the invalid field."""
    if not isinstance(document, dict):
        raise InvalidActionError(Problem(path or "request", f"{quote(document)} is not an object"))
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for name, value in document.items():
        field = _fields(message.DESCRIPTOR).get(name)
        if field is None:
            raise InvalidActionError(Problem(join(path, name), "unknown field"))
        place = join(path, field.name)
        if field.name in seen:
            raise InvalidActionError(Problem(place, f"is given as `{field.name}` and as `{field.json_name}`"))
        seen.add(field.name)
        if value is None:
            continue
        if not holds_messages(field):
            values[field.name] = value
        elif not field.is_repeated:
            child = getattr(message, field.name)
            child.SetInParent()
            yield from read(child, value, place)
        else:
            yield from _read_list(getattr(message, field.name), value, place)
    _read_values(message, values, path)


def _read_list(messages: Any, items: Any, path: str) -> Iterator[None]:
    if not isinstance(items, list):
        raise InvalidActionError(Problem(path, f"{quote(items)} is not a list"))
    for number, item in enumerate(items):
        yield from read(messages.add(), item, f"{path}[{number}]")
        yield


def _read_values(message: Message, values: dict[str, Any], path: str) -> None:
    for name, value in values.items():
        if isinstance(value, dict | list):
            _check_size(value, join(path, name))
    try:
        ParseDict(values, message)
    except _PARSE_ERRORS:
        raise InvalidActionError(_problem(message, values, path)) from None


def _check_size(value: Any, path: str) -> None:
    """A value within these bounds is converted in a tenth of a second."""
    if certainly_exceeds(value, MAX_ACTION_BYTES, MAX_ATTRIBUTE_DEPTH):
        raise InvalidActionError(Problem(path, f"is larger than {MAX_ACTION_BYTES} bytes"))
    if depth_exceeds(value, MAX_ATTRIBUTE_DEPTH):
        raise InvalidActionError(Problem(path, f"is nested more than {MAX_ATTRIBUTE_DEPTH} levels deep"))


def _problem(message: Message, values: dict[str, Any], path: str) -> Problem:
    """The first value that protobuf refuses by itself, and otherwise what they are together."""
    for name, value in values.items():
        try:
            ParseDict({name: value}, type(message)())
        except _PARSE_ERRORS:
            kind = _type_name(_fields(message.DESCRIPTOR)[name])
            return Problem(join(path, name), f"{quote(value)} is not {kind}")
    return Problem(path or "request", "has fields that exclude each other")


def write(message: Message) -> Iterator[str]:
    """The JSON of a message, one item of a list a piece."""
    lists = [(field, items) for field, items in message.ListFields() if field.is_repeated and holds_messages(field)]
    rest = message
    if lists:
        rest = type(message)()
        rest.CopyFrom(message)
        for field, _ in lists:
            rest.ClearField(field.name)
    text = _dumps(rest)[:-1]
    for field, items in lists:
        text += f'{"" if text == "{" else ","}"{field.json_name}":['
        for item in items:
            yield text + _dumps(item)
            text = ","
        text = "]"
    yield text + "}"


def _dumps(message: Message) -> str:
    return json.dumps(MessageToDict(message), ensure_ascii=False, separators=(",", ":"))


def holds_messages(field: FieldDescriptor) -> bool:
    """Whether the field's values are messages that are JSON objects of their fields."""
    kind = field.message_type
    return kind is not None and kind.file.package != WELL_KNOWN and not _is_map_entry(kind)


def _is_map_entry(kind: Descriptor) -> bool:
    # `GetOptions` loads the descriptors of descriptors, and nothing else in a sidecar needs them.
    return kind.has_options and kind.GetOptions().map_entry


@lru_cache(maxsize=256)
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    """The fields of a message by both of their names."""
    return {name: field for field in descriptor.fields for name in (field.name, field.json_name)}


def _type_name(field: FieldDescriptor) -> str:
    kind = field.message_type or field.enum_type
    name = f"`{kind.full_name if kind is not None else _TYPES[field.type]}`"
    return f"a list of {name}" if field.is_repeated else f"of type {name}"
