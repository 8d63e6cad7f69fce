"""Values of records → JSON documents, and the canonical text that is hashed."""

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
"""Of one record, an agent's policies apart: with them it fits into the 64 MiB of a message to a sidecar."""


def to_json(value: Any) -> Any:
    """A value that `pdp.core.records` read, as JSON: enums by lower-case name, dollars as numbers, times in UTC."""
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
    """What a caller sent, by these fields, defaults filled in; `InvalidRecordError` with every problem."""
    problems = Problems()
    values = read_fields(document, fields, "", problems)
    problems.raise_if_any()
    return values


def check_synced(document: Document, read: Callable[[Any], object]) -> None:
    """Raise `InvalidRecordError` unless sidecars, which `read` the very bytes that are sent, take this document."""
    if synced_size(document) > MAX_SYNCED_BYTES:
        raise InvalidRecordError([Problem("", f"the record is larger than {MAX_SYNCED_BYTES} bytes")])
    read(json.loads(compact(document)))


def synced_size(document: Document) -> int:
    """How many bytes the document may take as it travels."""
    return json_size(compact(document).decode())


def instant(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`: one width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_instant(text: Any) -> Any:
    """The moment that RFC 3339 text names, None for None; `ValueError` where it is not that."""
    if text is None:
        return None
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise ValueError(f"`{str(text)[:40]}` is not a time as 2030-01-31T12:00:00Z")
    moment = datetime.fromisoformat(text.upper())
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in the first or last hours that a calendar has, told by a zone far away
        return moment.replace(tzinfo=UTC)


def lower_first(text: str) -> str:
    """A library's message in the style of ours: only its first letter is lowered, so that it quotes input as given."""
    return text[:1].lower() + text[1:]


def without_defaults(document: Document, fields: Mapping[str, Field]) -> Document:
    """Those of the fields that must be given, or are not as they would be by default."""
    return {
        name: document[name]
        for name, field in fields.items()
        if field.required or not same_json(document[name], to_json(field.default))
    }


def canonical(document: Any) -> str:
    """The one text of a JSON value: keys sorted, no blanks, no escapes beyond what JSON needs."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def compact(document: Any) -> bytes:
    """A JSON document as it travels."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
