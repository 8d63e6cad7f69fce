"""Batches of records, each chained to the one before it: what a sidecar writes, sends, and the store keeps."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from pdp.v1 import log_pb2 as pb
from pdp.wire.varints import varint

MAX_BATCH_RECORDS = 1000
GENESIS = bytes(32)
"""The hash before the first batch."""

_FIRST_SEQUENCE_TAG = b"\x08"
_RECORDS_TAG = b"\x12"


class BadBatchError(ValueError):
    """The bytes are not a batch; the text says why."""


class Batch(NamedTuple):
    """A batch in its chain: the numbers of its first and last record, its bytes, and the hashes before and after it."""

    first: int
    last: int
    content: bytes
    previous_hash: bytes
    hash: bytes

    @property
    def records(self) -> int:
        """How many records it has."""
        return self.last - self.first + 1

    @property
    def is_intact(self) -> bool:
        """Whether its hash is that of its bytes."""
        return chained(self.previous_hash, self.content) == self.hash


def sealed(previous_hash: bytes, first: int, records: Iterable[bytes]) -> Batch:
    """The batch of these serialized `LogRecord`s, from number `first` on, after a batch with `previous_hash`."""
    parts = [_FIRST_SEQUENCE_TAG, varint(first)]
    last = first - 1
    for record in records:
        parts += (_RECORDS_TAG, varint(len(record)), record)
        last += 1
    content = b"".join(parts)
    return Batch(first, last, content, previous_hash, chained(previous_hash, content))


def opened(content: bytes) -> pb.LogBatch:
    """The records of a batch; `BadBatchError` if the bytes are not a batch."""
    batch = pb.LogBatch()
    try:
        batch.ParseFromString(content)
    except DecodeError:
        raise BadBatchError("is not a `pdp.v1.LogBatch`") from None
    if batch.first_sequence < 1:
        raise BadBatchError(f"`first_sequence` is `{batch.first_sequence}`, and not 1 or more")
    if not 1 <= len(batch.records) <= MAX_BATCH_RECORDS:
        raise BadBatchError(f"has {len(batch.records)} records, and not 1 to {MAX_BATCH_RECORDS}")
    return batch


def chained(previous_hash: bytes, content: bytes) -> bytes:
    """The hash of a batch with these bytes after a batch with `previous_hash`."""
    digest = hashlib.sha256(previous_hash)
    digest.update(content)
    return digest.digest()
