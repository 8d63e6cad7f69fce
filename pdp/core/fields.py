"""Fields of a record: reading a JSON object by them, and its JSON Schema.

A `read` never raises: it appends to `problems` and returns something harmless, so that one pass finds every fault.
Values may be large and hostile: a reader of many values stops when `problems` is full, and messages cut long text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pdp.core.errors import Problem, Problems

Schema = dict[str, Any]

MAX_SHOWN = 80
"""Characters of a name or value in a message."""


class Kind(Protocol):
    """A kind of value that a field can hold."""

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        """`value` as the record holds it; faults are appended to `problems`."""

    def schema(self) -> Schema:
        """Its JSON Schema, for people and generators of requests."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record: its kind, and its default unless it is required."""

    kind: Kind
    default: Any = None
    required: bool = field(default=False, kw_only=True)
    about: str = field(default="", kw_only=True)


def read_fields(document: Any, fields: Mapping[str, Field], path: str, problems: Problems) -> dict[str, Any]:
    """Every field of `document` read by its kind, defaults filled in; unknown and missing ones are problems."""
    if not isinstance(document, Mapping):
        problems.append(Problem(path, f"{quote(document)} is not an object"))
        document = {}
    _report_unknown(document, fields, path, problems)
    values = {}
    for name, entry in fields.items():
        if name in document:
            values[name] = entry.kind.read(document[name], join(path, name), problems)
        else:
            if entry.required:
                problems.append(Problem(join(path, name), "is required"))
            values[name] = entry.default
    return values


def _report_unknown(document: Mapping[str, Any], fields: Mapping[str, Field], path: str, problems: Problems) -> None:
    unknown = len(document) - sum(name in document for name in fields)
    for name in document:
        if not unknown or problems.full:
            break
        if name not in fields:
            problems.append(Problem(join(path, name), "unknown field"))
            unknown -= 1
    problems.count(unknown)


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
    """The path of the member `name` of the object at `path`; the name is cut to fit a line."""
    shown = _cut(str(name))
    return f"{path}.{shown}" if path else shown


def quote(value: object) -> str:
    """A value as a message shows it: in backticks, cut to fit a line."""
    return f"`{_cut(value if isinstance(value, str) else _json_start(value))}`"


def quote_path(path: object) -> str:
    """A file path as a message shows it: never cut, because the reader must find the file."""
    return f"`{path}`"


def _json_start(value: object) -> str:
    """The start of its JSON, as much as a message shows; a large value is not encoded whole."""
    text = ""
    for part in json.JSONEncoder(default=str).iterencode(value):
        text += part
        if len(text) > MAX_SHOWN:
            break
    return text


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "…"
