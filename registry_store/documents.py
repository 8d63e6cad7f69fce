"""Values of records → JSON documents, and the canonical text that is hashed."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

Document = dict[str, Any]


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


def instant(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`: one width, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(document: Any) -> str:
    """The one text of a JSON value: keys sorted, no blanks, no escapes beyond what JSON needs."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def compact(document: Any) -> bytes:
    """A JSON document as it travels."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
