"""Conversion of record values to JSON documents, and the canonical text that is hashed."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, read_fields
from pdp.core.json.equality import same_json
from pdp.core.json.measures import json_size

Document = dict[str, Any]

MAX_SYNCED_BYTES = 16 * 1024 * 1024
"""Maximum size of a record without the policies of an agent: with them it fits into a sidecar message of 64 MiB."""


def to_json(value: Any) -> Any:
    """Converts a value of `pdp.core.records` to JSON: enums by lower-case name, dollars as numbers, times in UTC."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def read_values(document: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Reads a caller's document with these fields and their defaults; `InvalidRecordError` with every problem."""
    problems = Problems()
    values = read_fields(document, fields, "", problems)
    problems.raise_if_any()
    return values


def check_synced(document: Document, read: Callable[[Any], object]) -> None:
    """Raises `InvalidRecordError` unless sidecars accept the document; `read` is the function that they use."""
    if synced_size(document) > MAX_SYNCED_BYTES:
        raise InvalidRecordError([Problem("", f"the record is larger than {MAX_SYNCED_BYTES} bytes")])
    read(json.loads(compact(document)))


def synced_size(document: Document) -> int:
    """The maximum size of the document on the wire, in bytes."""
    return json_size(compact(document).decode())


def instant(moment: datetime) -> str:
    """A time in RFC 3339, in UTC with microseconds and `Z`: fixed width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_instant(text: Any) -> Any:
    """Parses RFC 3339, None for None; `ValueError` if it is not valid."""
    if text is None:
        return None
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise ValueError(f"`{str(text)[:40]}` is not a time such as 2030-01-31T12:00:00Z")
    moment = datetime.fromisoformat(text.upper())
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # a time at the start or end of the calendar that is out of range in UTC
        return moment.replace(tzinfo=UTC)


def lower_first(text: str) -> str:
    """Lowers the first letter of a library's message; the rest may quote input and is not changed."""
    return text[:1].lower() + text[1:]


def without_defaults(document: Document, fields: Mapping[str, Field]) -> Document:
    """The required fields of a document, and those that differ from their defaults."""
    return {
        name: document[name]
        for name, field in fields.items()
        if field.required or not same_json(document[name], to_json(field.default))
    }


def canonical(document: Any) -> str:
    """The canonical text of a JSON value: sorted keys, no whitespace, only the escapes that JSON requires."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def compact(document: Any) -> bytes:
    """A JSON document on the wire."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
