"""The store's own chain of each sidecar's batches: a head covers a batch, how it was kept, and the head before it."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from registry_store.database.decision_tables import NO_HEAD, DecisionBatch
from registry_store.documents import instant

GENESIS = bytes.fromhex(NO_HEAD)


class Link(NamedTuple):
    """What a head covers of a batch, beside the head before it."""

    node_id: str
    number: int
    first_sequence: int
    last_sequence: int
    is_converted: bool
    previous_hash: bytes
    hash: bytes
    content_sha256: bytes
    omitted: str
    received_at: datetime


def link_of(row: DecisionBatch, content: bytes) -> Link:
    """The link of a stored batch with this content, which is not compressed."""
    return Link(
        row.node_id,
        row.number,
        row.first_sequence,
        row.last_sequence,
        row.is_converted,
        row.previous_hash,
        row.hash,
        hashlib.sha256(content).digest(),
        row.omitted,
        row.received_at,
    )


def head_after(head: bytes, link: Link) -> bytes:
    """The head after this batch, which follows `head`."""
    lines = (
        head.hex(),
        link.node_id,
        f"{link.number} {link.first_sequence} {link.last_sequence} {int(link.is_converted)}",
        link.previous_hash.hex(),
        link.hash.hex(),
        link.content_sha256.hex(),
        link.omitted,
        instant(link.received_at),
    )
    return hashlib.sha256("\n".join(lines).encode()).digest()


def written(sequences: Iterable[int]) -> str:
    """The sequences of omitted records as the batch's row has them."""
    return ",".join(map(str, sorted(sequences)))


def read(omitted: str) -> frozenset[int]:
    """The sequences of omitted records; `ValueError` if the text is not what `written` writes."""
    return frozenset(map(int, omitted.split(","))) if omitted else frozenset()
