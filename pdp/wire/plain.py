"""Plain requests, read from their bytes: a message of protobuf, with a call for each field, takes twice as long.

A request is plain if it is small, its fields are in the order of their numbers and within their bounds, and its texts
are shorter than 128 bytes. Protobuf reads every other one, and tells what is wrong with it.
"""

from collections.abc import Callable, Iterator
from struct import Struct, error
from sys import float_info
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError

from pdp.attributes import plain
from pdp.core.action import FIELDS, MAX_ATTRIBUTE_DEPTH, REQUEST, Action, Converted, kind_of
from pdp.core.fields import Kind
from pdp.core.kinds import Flag, Json, ListOf, Number, Text, Whole
from pdp.v1 import decision_pb2 as pb
from pdp.wire.requests import Request

MAX_BYTES = 4096
"""A larger request is not plain: while it is read, others wait."""
MAX_TEXT_BYTES = 127
"""A longer text is not plain: its length takes more than one byte."""
_VARINT, _FIXED64, _LENGTH = 0, 1, 2
_NEXT = "tag = data[at]"


def _compile_reader() -> Callable[[bytes], Request | None]:
    """Generates the function, from the fields of the messages: a loop over the fields takes twice as long."""
    names: dict[str, Any] = {
        "Action": Action,
        "Request": Request,
        "double": Struct("<d").unpack_from,
        "new": tuple.__new__,
        "read_attributes": _read_attributes,
    }
    names["errors"] = (IndexError, UnicodeDecodeError, error)
    action = [
        line for name in FIELDS for line in _field(pb.Action.DESCRIPTOR.fields_by_name[name], kind_of(name), names)
    ]
    beside = [name for name in REQUEST if name != "action"]
    request = [
        line
        for name in beside
        for line in _field(pb.EvaluateRequest.DESCRIPTOR.fields_by_name[name], REQUEST[name].kind, names)
    ]
    texts = [name for name in FIELDS if isinstance(kind_of(name), Text)]
    lists = [f"*{name}" for name in FIELDS if isinstance(kind_of(name), ListOf)]
    required = " and ".join(name for name in FIELDS if FIELDS[name].required)
    body = [
        # With a byte more there is a tag to look at after the last field. A tag of the request that follows the action
        # can be that of a later field of the action: then the action is not where it says to end, and is not plain.
        f"if len(raw) > {MAX_BYTES}: return None",
        "data = raw + b'\\0'",
        f"if data[0] != {_tag(pb.EvaluateRequest.DESCRIPTOR.fields_by_name['action'], _LENGTH)}: return None",
        "at, size = 2, data[1]",
        "if size > 127:",
        "    if data[2] > 127: return None",
        "    at, size = 3, size & 127 | data[2] << 7",
        "end = at + size",
        _NEXT,
        *action,
        "if at != end: return None",
        *request,
        "if at != len(raw): return None",
    ]
    source = [
        "def read(raw):",
        "    try:",
        *(f"        {line}" for line in body),
        "    except errors: return None",
        f"    if not ({required}): return None",
        # A program that ends a text at the NUL would act on another text than the one that was decided on.
        f"    if b'\\0' in raw and '\\0' in ''.join(({', '.join([*texts, *lists])},)): return None",
        f"    return new(Request, (Action({', '.join(FIELDS)}), {', '.join(beside)}, raw))",
    ]
    exec(compile("\n".join(source), __file__, "exec"), names)  # noqa: S102
    reader: Callable[[bytes], Request | None] = names["read"]
    return reader


def _field(field: Any, kind: Kind, names: dict[str, Any]) -> Iterator[str]:
    """The lines that read a field, if it comes next."""
    name = field.name
    names[f"default_{name}"] = FIELDS[name].default if name in FIELDS else REQUEST[name].default
    inner = kind.kind if isinstance(kind, Converted) else kind
    if isinstance(inner, ListOf):
        yield f"{name} = ()"
        yield f"while tag == {_tag(field, _LENGTH)}:"
        yield from _indented(_text("item", MAX_TEXT_BYTES))
        yield f"    {name} += (item,)"
        yield f"if len({name}) > {inner.max_items}: return None"
        return
    lines: Iterator[str]
    match inner:
        case Text():
            tag, lines = _tag(field, _LENGTH), _text(name, min(inner.max_length, MAX_TEXT_BYTES))
        case Flag():
            tag, lines = _tag(field, _VARINT), _small(name, 0, 1)
        case Whole():
            tag, lines = _tag(field, _VARINT), _small(name, inner.low, min(inner.high, MAX_TEXT_BYTES))
        case Number():
            tag, lines = _tag(field, _FIXED64), _number(name, inner)
        case Json():
            tag, lines = _tag(field, _LENGTH), _attributes(name)
        case _:
            raise TypeError(f"{name}: a field of this kind cannot be read from bytes")
    yield f"if tag == {tag}:"
    yield from _indented(lines)
    if isinstance(kind, Converted) and field.message_type is None:
        names[f"convert_{name}"] = kind.convert
        yield f"    {name} = convert_{name}({name})"
    elif isinstance(inner, Flag):
        yield f"    {name} = {name} == 1"
    yield f"else: {name} = default_{name}"


def _text(name: str, most: int) -> Iterator[str]:
    yield "start, size = at + 2, data[at + 1]"
    yield f"if size > {most}: return None"
    yield "at = start + size"
    yield f"{name} = data[start:at].decode()"
    yield _NEXT


def _small(name: str, low: int, high: int) -> Iterator[str]:
    yield f"{name} = data[at + 1]"
    yield f"if not {low} <= {name} <= {high}: return None"
    yield "at += 2"
    yield _NEXT


def _number(name: str, kind: Number) -> Iterator[str]:
    yield f"({name},) = double(data, at + 1)"
    yield f"if not {kind.low!r} <= {name} <= {min(kind.high, float_info.max)!r}: return None"
    yield "at += 9"
    yield _NEXT


def _attributes(name: str) -> Iterator[str]:
    yield "start, size = at + 2, data[at + 1]"
    yield "if size > 127:"
    yield "    if data[start] > 127: return None"
    yield "    start, size = at + 3, size & 127 | data[start] << 7"
    yield "at = start + size"
    yield f"{name} = read_attributes(data[start:at])"
    yield f"if {name} is None: return None"
    yield _NEXT


def _read_attributes(raw: bytes) -> dict[str, Any] | None:
    """The attributes in a serialized Struct; None if protobuf must tell what is wrong with them."""
    message = struct_pb2.Struct()
    try:
        message.ParseFromString(raw)
        # They are logged as they came, and what nobody checked must not be: see `read_request`.
        message.DiscardUnknownFields()
        return plain(message, MAX_ATTRIBUTE_DEPTH) if message.ByteSize() == len(raw) else None
    except (DecodeError, ValueError):
        return None


def _tag(field: Any, wire_type: int) -> int:
    number: int = field.number
    return number << 3 | wire_type


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


read_plain = _compile_reader()
"""The request of a serialized `EvaluateRequest` that is plain; None if protobuf must read it."""
