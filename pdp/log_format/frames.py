"""Batches in a file: frames one after the other, each of which shows what is known of a batch that is torn or changed.

A frame is a mark, the length of the batch, the number of its first record, how many it has, its hash, a CRC-32 of all
these, and the batch. The hash shows any change of the batch, the CRC any change of what stands before it.
"""

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from pdp.log_format.batches import GENESIS, MAX_BATCH_RECORDS, Batch

MARK = b"\xffpdp"
"""The first bytes of a frame. They are not UTF-8, so no text in a record contains them."""
MAX_BATCH_BYTES = 1 << 20
"""The records of a batch together; one record alone is no larger."""
MAX_CONTENT_BYTES = MAX_BATCH_BYTES + (1 << 14)
"""A batch: its records and the length of each."""
MAX_SKIPPED = 1 << 20
"""A number in a frame after a damaged one is ignored if it is further than this from the last one."""

_HEADER = Struct(">4sIQI32s")
_CHECK = Struct(">I")
FRAME_BYTES = _HEADER.size + _CHECK.size
"""The bytes of a frame beside its batch."""
_FIRST_SEQUENCE, _RECORD = b"\x08", b"\x12"


class Head(NamedTuple):
    """The end of a chain: the newest used sequence, and the hash of the newest batch."""

    sequence: int = 0
    hash: bytes = GENESIS


class Cursor(NamedTuple):
    """A place in a file between two batches."""

    head: Head
    offset: int


class DamagedError(ValueError):
    """The file differs from what was written; the text says how."""


class TornError(DamagedError):
    """The file ends within a frame."""


class _Header(NamedTuple):
    length: int
    first: int
    last: int
    hash: bytes


def framed(batch: Batch) -> bytes:
    """The frame of a batch."""
    header = _HEADER.pack(MARK, len(batch.content), batch.first, batch.records, batch.hash)
    return b"".join((header, _CHECK.pack(zlib.crc32(header)), batch.content))


def parsed(data: bytes, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
    """The batches in `data`, which begins at `cursor`, each with the cursor after it.

    `TornError` if the last frame has no end, `DamagedError` at the first frame that does not continue the chain.
    """
    head, offset, at = cursor.head, cursor.offset, 0
    while at < len(data):
        header = _header(data, at)
        at += FRAME_BYTES
        content = data[at : at + header.length]
        if len(content) < header.length:
            raise TornError(f"what follows record {head.sequence} has no end")
        batch = Batch(header.first, header.last, content, head.hash, header.hash)
        if header.first <= head.sequence or not batch.is_intact:
            raise DamagedError(f"what follows record {head.sequence} does not continue the chain")
        at += header.length
        head = Head(batch.last, batch.hash)
        yield batch, Cursor(head, offset + at)


def claimed(rest: bytes, sequence: int) -> int:
    """The newest sequence, after `sequence`, that frames can have used which are torn or damaged."""
    at = 0
    while at < len(rest):
        try:
            header = _header(rest, at)
        except TornError:
            break
        except DamagedError:
            first, count = _counted(rest, at + FRAME_BYTES)
            last = first + count - 1
            sequence = last if sequence < last <= sequence + MAX_SKIPPED else sequence + count
            following = rest.find(MARK, at + 1)
            at = following if following >= 0 else len(rest)
            continue
        if sequence < header.last <= sequence + MAX_SKIPPED:
            sequence = header.last
        at += FRAME_BYTES + header.length
    return sequence


def is_torn(rest: bytes) -> bool:
    """Whether these bytes after the last batch are a part of one frame: the beginning of a write that did not end."""
    try:
        return len(rest) < FRAME_BYTES + _header(rest, 0).length
    except TornError:
        return True
    except DamagedError:
        return False


def _header(data: bytes, at: int) -> _Header:
    raw = data[at : at + _HEADER.size]
    check = data[at + _HEADER.size : at + FRAME_BYTES]
    if len(check) < _CHECK.size:
        raise TornError("the last frame has no end")
    mark, length, first, count, digest = _HEADER.unpack(raw)
    is_whole = _CHECK.pack(zlib.crc32(raw)) == check and mark == MARK
    if not is_whole or length > MAX_CONTENT_BYTES or not first or not 1 <= count <= MAX_BATCH_RECORDS:
        raise DamagedError("a frame does not begin as it was written")
    return _Header(length, first, first + count - 1, digest)


def _counted(data: bytes, at: int) -> tuple[int, int]:
    """The first number in a batch of which only the bytes are there, 0 if it cannot be read, and how many records it
    seems to hold, 1 if they cannot be counted.
    """
    if data[at : at + 1] != _FIRST_SEQUENCE:
        return 0, 1
    first, at = _number(data, at + 1)
    count = 0
    while data[at : at + 1] == _RECORD and count < MAX_BATCH_RECORDS:
        size, at = _number(data, at + 1)
        at += size
        count += 1
    return first, max(1, count)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number as protobuf writes it, and the place after it."""
    number = 0
    for shift, byte in zip(range(0, 70, 7), data[at : at + 10], strict=False):
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            break
    return number, at
