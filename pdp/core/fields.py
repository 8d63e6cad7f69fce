"""Fields of a record: reading a JSON object by them, and its JSON Schema.

A `read` never raises: it appends to `problems` and returns something harmless, so that one pass finds every fault.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pdp.core.errors import Problem

Problems = list[Problem]
Schema = dict[str, Any]


class Kind(Protocol):
    """A kind of value."""

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        """`value` as the record holds it, with what is wrong appended to `problems`."""

    def schema(self) -> Schema:
        """Its JSON Schema, for people and generators of requests."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record: its kind, and its default (none: it must be given)."""

    kind: Kind
    default: Any = None
    required: bool = field(default=False, kw_only=True)
    about: str = field(default="", kw_only=True)


def read_fields(document: Any, fields: Mapping[str, Field], path: str, problems: Problems) -> dict[str, Any]:
    """Every field of `document` read by its kind, defaults filled in; unknown and missing ones are problems."""
    if not isinstance(document, Mapping):
        problems.append(Problem(path, f"{quote(document)} is not an object"))
        document = {}
    problems.extend(Problem(join(path, name), "unknown field") for name in document if name not in fields)
    values = {}
    for name, entry in fields.items():
        if name in document:
            values[name] = entry.kind.read(document[name], join(path, name), problems)
        else:
            if entry.required:
                problems.append(Problem(join(path, name), "is required"))
            values[name] = entry.default
    return values


def schema_of(fields: Mapping[str, Field], *, partial: bool = False) -> Schema:
    """The JSON Schema of an object of these fields; `partial`: none of them required."""
    properties = {}
    for name, entry in fields.items():
        schema = entry.kind.schema()
        if entry.about:
            schema["description"] = entry.about
        properties[name] = schema
    required = [name for name, entry in fields.items() if entry.required and not partial]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def join(path: str, name: object) -> str:
    """The path of the member `name` of what stands at `path`."""
    return f"{path}.{name}" if path else str(name)


def quote(value: object) -> str:
    """A value as a message shows it: in backticks, cut to a length that fits a line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{text if len(text) <= 80 else text[:77] + '…'}`"
