"""Attributes of an action and parameters of a policy, as equal Python values from protobuf's Struct and JSON."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from pdp.core.json.canonical_json import double


class TooDeepError(ValueError):
    """Lists and objects are nested too deep."""


def plain(message: Struct, depth: int = 100) -> dict[str, Any]:
    """A Struct as Python values, sorted by name because its own order varies; numbers as `double` returns them.

    `TooDeepError` if it nests more than `depth` levels, `ValueError` for a number that is not finite.
    """
    if not depth:
        raise TooDeepError
    fields = message.fields
    return {name: _plain_value(fields[name], depth) for name in sorted(fields)}


def struct_of(values: Mapping[str, Any]) -> Struct:
    """A Struct of Python values, as `plain` returns them; tuples are lists."""
    message = Struct()
    _fill(message, values)
    return message


def _fill(message: Struct, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        _fill_value(message.fields[name], value)


def _fill_value(message: Value, value: Any) -> None:
    if value is None:
        message.null_value = NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, int | float):
        message.number_value = value
    elif isinstance(value, Mapping):
        message.struct_value.SetInParent()  # also if it is empty
        _fill(message.struct_value, value)
    elif isinstance(value, list | tuple):
        message.list_value.SetInParent()
        for item in value:
            _fill_value(message.list_value.values.add(), item)
    else:
        raise TypeError(f"`{type(value).__name__}` is no type of JSON")


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
