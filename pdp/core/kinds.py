"""The kinds of value that a field may hold: each reads one JSON value and gives its JSON Schema."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from math import inf, isfinite
from typing import Any
from zoneinfo import ZoneInfo

from pdp.core.errors import Problem, Problems
from pdp.core.fields import Field, Kind, Schema, join, quote, read_fields, schema_of
from pdp.core.json.measures import (
    certainly_exceeds,
    depth_exceeds,
    fits_doubles,
    is_storable,
    is_storable_json,
    json_size,
)

MAX_ZONE_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Text:
    """A string of `min_length` to `max_length` characters that fully matches `pattern`; `what` names the pattern."""

    max_length: int
    min_length: int = 0
    pattern: str | None = None
    what: str = ""
    format: str | None = None

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, str):
            return _wrong_type(value, "a string", path, problems, "")
        if len(value) < self.min_length:
            problems.append(Problem(path, "is empty" if not value else f"is shorter than {self.min_length} characters"))
        elif len(value) > self.max_length:
            problems.append(Problem(path, f"is longer than {self.max_length} characters"))
        elif self.pattern is not None and not re.fullmatch(self.pattern, value):
            problems.append(Problem(path, f"{quote(value)} is not {self.what}"))
        elif not is_storable(value):
            problems.append(Problem(path, "holds a NUL or half of a surrogate pair"))
        return value

    def schema(self) -> Schema:
        schema: Schema = {"type": "string", "maxLength": self.max_length}
        if self.min_length:
            schema["minLength"] = self.min_length
        if self.pattern:
            schema["pattern"] = f"^(?:{self.pattern})$"
        if self.format:
            schema["format"] = self.format
        return schema


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an enum's values, by its name in lower case."""

    options: type[Enum]

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        names = self.names()
        if not isinstance(value, str) or value not in names:
            problems.append(Problem(path, f"{quote(value)} is not one of {', '.join(names)}"))
            return next(iter(self.options))
        return self.options[value.upper()]

    def names(self) -> list[str]:
        return [option.name.lower() for option in self.options]

    def schema(self) -> Schema:
        return {"type": "string", "enum": self.names()}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return _wrong_type(value, f"a whole number from {self.low} to {self.high}", path, problems, self.low)
        if not self.low <= value <= self.high:
            problems.append(Problem(path, f"{quote(value)} is not within {self.low} to {self.high}"))
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number of at least `low` and at most `high`."""

    low: float
    high: float = inf

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if not _is_finite(value):
            return _wrong_type(value, f"a number {self._bounds()}", path, problems, self.low)
        if not self.low <= value <= self.high:
            problems.append(Problem(path, f"{quote(value)} is not a number {self._bounds()}"))
        return value

    def schema(self) -> Schema:
        schema: Schema = {"type": "number", "minimum": self.low}
        return schema if self.high == inf else schema | {"maximum": self.high}

    def _bounds(self) -> str:
        return f"of at least {self.low:g}" if self.high == inf else f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Dollars:
    """An amount of US dollars of at most six decimal places, as a number or a decimal string; read as Decimal."""

    maximum: int = 1_000_000_000

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            return _wrong_type(value, "an amount in US dollars", path, problems, Decimal(0))
        if not amount.is_finite() or not 0 <= amount <= self.maximum:
            problems.append(Problem(path, f"{quote(value)} is not within 0 to {self.maximum}"))
            return Decimal(0)
        if amount != round(amount, 6):
            problems.append(Problem(path, f"{quote(value)} has more than six decimal places"))
        return amount

    def schema(self) -> Schema:
        return {"type": "number", "minimum": 0, "maximum": self.maximum, "multipleOf": 0.000001}


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        return value if isinstance(value, bool) else _wrong_type(value, "true or false", path, problems, False)

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class ListOf:
    """`min_items` to `max_items` items of one kind, without duplicates if `distinct`; read as a tuple."""

    item: Kind
    max_items: int
    min_items: int = 0
    distinct: bool = True

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, list | tuple):
            return _wrong_type(value, "a list", path, problems, ())
        if len(value) > self.max_items:
            problems.append(Problem(path, f"has more than {self.max_items} items"))
            return ()
        if len(value) < self.min_items:
            problems.append(Problem(path, "is empty"))
        items = []
        seen: set[Any] = set()
        for index, item in enumerate(value):
            if problems.full:
                break
            at, before = f"{path}[{index}]", len(problems)
            read = self.item.read(item, at, problems)
            items.append(read)
            if not self.distinct or len(problems) > before:
                continue
            key = read if isinstance(read, str) else (json.dumps(read, default=str),)
            if key in seen:
                problems.append(Problem(at, f"duplicate item {quote(item)}"))
            seen.add(key)
        return tuple(items)

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.item.schema(), "maxItems": self.max_items}
        if self.min_items:
            schema["minItems"] = self.min_items
        return schema | ({"uniqueItems": True} if self.distinct else {})


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object whose keys are of the kind `key` and whose values are of the kind `value`."""

    key: Text
    value: Kind
    max_entries: int
    min_entries: int = 0

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, Mapping):
            return _wrong_type(value, "an object", path, problems, {})
        if len(value) > self.max_entries:
            problems.append(Problem(path, f"has more than {self.max_entries} entries"))
            return {}
        if len(value) < self.min_entries:
            problems.append(Problem(path, "is empty"))
        entries = {}
        for key, item in value.items():
            if problems.full:
                break
            at = join(path, key)
            entries[self.key.read(key, at, problems)] = self.value.read(item, at, problems)
        return entries

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": self.key.schema(),
            "additionalProperties": self.value.schema(),
            "maxProperties": self.max_entries,
            "minProperties": self.min_entries,
        }


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """An object of known fields; read as a dict of all of them. `check` finds faults between fields."""

    fields: Mapping[str, Field]
    check: Callable[[Mapping[str, Any], str, Problems], None] | None = None

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        values = read_fields(value, self.fields, path, problems)
        if self.check is not None:
            self.check(values, path, problems)
        return values

    def schema(self) -> Schema:
        return schema_of(self.fields)


@dataclass(frozen=True, slots=True)
class Json:
    """Any JSON value of at most `depth` levels and `max_bytes` bytes; an object where `only_object`.

    `json_size` counts the bytes, so that a record has the same size at a sidecar as at the store.
    """

    max_bytes: int
    depth: int = 16
    only_object: bool = False

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if self.only_object and not isinstance(value, Mapping):
            return _wrong_type(value, "an object", path, problems, {})
        if certainly_exceeds(value, self.max_bytes, self.depth):  # first, since encoding a large value is slow
            problems.append(Problem(path, f"is larger than {self.max_bytes} bytes"))
            return value
        if depth_exceeds(value, self.depth):
            problems.append(Problem(path, f"is nested more than {self.depth} levels deep"))
            return {}
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError):
            problems.append(Problem(path, "is not JSON"))
            return {}
        if not is_storable_json(text):
            problems.append(Problem(path, "holds a NUL or half of a surrogate pair"))
        elif json_size(text) > self.max_bytes:
            problems.append(Problem(path, f"is larger than {self.max_bytes} bytes"))
        elif not fits_doubles(text):
            problems.append(Problem(path, "holds a whole number that is too large"))
        return value

    def schema(self) -> Schema:
        return {"type": "object"} if self.only_object else {}


@dataclass(frozen=True, slots=True)
class Zone:
    """The IANA name of a time zone."""

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, str) or len(value) > MAX_ZONE_CHARACTERS or not is_zone(value):
            problems.append(Problem(path, f"{quote(value)} is not the IANA name of a time zone"))
            return "UTC"
        return value

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": MAX_ZONE_CHARACTERS, "examples": ["UTC", "America/New_York"]}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as RFC 3339 writes it, with a zone; read as `datetime`."""

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        moment = _moment(value)
        if moment is None:
            problems.append(Problem(path, f"{quote(value)} is not a time such as 2030-01-31T12:00:00Z"))
        return moment

    def schema(self) -> Schema:
        return {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class OneOf:
    """A value of the kind `single`, or of the kind `other` if `is_other` says so."""

    single: Kind
    other: Kind
    is_other: Callable[[Any], bool]

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        return (self.other if self.is_other(value) else self.single).read(value, path, problems)

    def schema(self) -> Schema:
        return {"anyOf": [self.single.schema(), self.other.schema()]}


@dataclass(frozen=True, slots=True)
class OrNull:
    """A value of some kind, or null."""

    kind: Kind

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        return None if value is None else self.kind.read(value, path, problems)

    def schema(self) -> Schema:
        return {"anyOf": [self.kind.schema(), {"type": "null"}]}


def is_zone(name: str) -> bool:
    """Whether `name` is an IANA time zone that this machine knows."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ModuleNotFoundError, LookupError):
        return False
    return True


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo is not None and 1 < moment.year < 9999 else None


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _wrong_type(value: Any, what: str, path: str, problems: Problems, fallback: Any) -> Any:
    problems.append(Problem(path, f"{quote(value)} is not {what}"))
    return fallback
