"""Attributes of an action and parameters of a policy, as equal Python values from protobuf's Struct and JSON."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from pdp.core.json.canonical_json import double


class Attributes(dict[str, Any]):
    """The attributes of an action, and their size on the wire."""

    __slots__ = ("byte_size",)

    def __init__(self, values: Mapping[str, Any], byte_size: int) -> None:
        super().__init__(values)
        self.byte_size = byte_size


class TooDeepError(ValueError):
    """Lists and objects are nested too deep."""


def plain(message: Struct, depth: int = 100) -> dict[str, Any]:
    """A Struct as Python values, sorted by name because its own order varies; numbers as `double` returns them.

    `TooDeepError` if it nests more than `depth` levels, `ValueError` for a number that is not finite.
    """
    if not depth:
        raise TooDeepError
    return {name: _plain_value(value, depth) for name, value in sorted(message.fields.items())}


def _plain_value(value: Value, depth: int) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return double(value.number_value)
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return plain(value.struct_value, depth - 1)
    if kind == "list_value":
        if depth == 1:
            raise TooDeepError
        return [_plain_value(item, depth - 1) for item in value.list_value.values]
    return None
