"""The frames of a counters file: a header, and after it one frame for each write.

The header holds the file's size and the offset of the charges. Each frame holds a marker, its number, its length, a
checksum of number and content, and the content. Zeros fill the file up to its size. So a truncated file differs from
one whose last write a crash interrupted.
"""

import zlib
from collections.abc import Iterator
from struct import Struct

MAGIC = b"pdp counters 1\n\0"
MARKER = b"\xf5pdc"
HEADER = Struct(">16sQQI")
_FRAME = Struct(">4sIII")


class DamagedError(ValueError):
    """The file differs from what was written; the text says how."""


def header(size: int, charges_at: int) -> bytes:
    """The header of a file of that size, whose charges begin at that offset."""
    return HEADER.pack(MAGIC, size, charges_at, zlib.crc32(b"%d %d" % (size, charges_at)))


def frame(number: int, payload: bytes) -> bytes:
    """The frame of that number with this content."""
    return _FRAME.pack(MARKER, number, len(payload), zlib.crc32(payload, number)) + payload


def contents(data: bytes) -> Iterator[bytes]:
    """The contents of the frames of a file; `DamagedError` if it is damaged, which an interrupted write is not."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise DamagedError("it is not a counters file of this version")
    _, size, charges_at, _ = HEADER.unpack_from(data)
    if header(size, charges_at) != data[: HEADER.size]:
        raise DamagedError("the checksum of its header does not match")
    if len(data) != size:
        raise DamagedError(f"it has {len(data)} bytes, not {size}")
    offset, number = HEADER.size, 0
    while (found := _valid_frame(data, offset)) is not None and found[0] == number:
        yield found[1]
        offset += _FRAME.size + len(found[1])
        number += 1
    if offset < charges_at or _has_later_frame(data, offset):
        raise DamagedError(f"the frame at byte {offset} is damaged")


def _valid_frame(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """The number and the content of the frame at `offset`; None if there is no valid frame."""
    if offset + _FRAME.size > len(data):
        return None
    marker, number, length, check = _FRAME.unpack_from(data, offset)
    payload = data[offset + _FRAME.size : offset + _FRAME.size + length]
    is_valid = marker == MARKER and payload and check == zlib.crc32(payload, number)
    return (number, payload) if is_valid else None


def _has_later_frame(data: bytes, offset: int) -> bool:
    """Whether a valid frame follows after `offset`; an interrupted write leaves none."""
    at = offset - 1
    while (at := data.find(MARKER, at + 1)) >= 0:
        if _valid_frame(data, at) is not None:
            return True
    return False
