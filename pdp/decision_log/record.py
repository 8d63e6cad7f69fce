"""The records of the decision log: decisions with redacted attributes, outcomes and suspensions, as canonical JSON."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from pdp import wire
from pdp.attributes import Attributes
from pdp.core.action import Action, action_json, texts_of
from pdp.decision_log.redaction import Redaction
from pdp.v1 import decision_pb2 as pb

FRAME_BYTES = 2048
"""Upper bound for the part of a document that is not texts or attributes."""
TEXT_GROWTH, ATTRIBUTE_GROWTH = 6, 7


class Opens(NamedTuple):
    """The approval that a decision asks for, bound to the SHA-256 of the canonical action."""

    approval_id: str
    action_sha256: bytes
    timeout_seconds: int


class Entry(NamedTuple):
    """One decision: its time `at` in Unix seconds, its duration in seconds, and its cost in micro-dollars.

    `approval_id` is the one in the request. `repeat_id` is the id of this record if the answer repeats an earlier one
    with the same idempotency key. The action and the answer must not change afterwards.
    """

    action: Action
    answer: pb.EvaluateResponse
    at: float
    seconds: float
    dry_run: bool
    idempotency_key: str
    approval_id: str
    cost_micros: int
    opens: Opens | None
    repeat_id: str = ""


class Note(NamedTuple):
    """A record beside the decisions, `outcome` or `suspension`, with its members, which are numbers and texts."""

    kind: str
    members: Mapping[str, Any]


class NoteLog(Protocol):
    """Where notes are kept until they are sent to the store."""

    def append(self, entry: Note, *, urgent: bool) -> None:
        """Keep a note; an urgent one is sent at once."""


def weight(entry: Entry | Note) -> int:
    """The approximate memory of an entry, in bytes; never less than the size of its document.

    In the worst case a text grows sixfold (`\\u0001`), and a redacted null in a list is two bytes on the wire.
    """
    if isinstance(entry, Note):
        return FRAME_BYTES + TEXT_GROWTH * sum(len(text) for text in entry.members.values() if isinstance(text, str))
    action, attributes = entry.action, entry.action.attributes
    texts = (*texts_of(action), entry.idempotency_key, entry.approval_id)
    size = FRAME_BYTES + TEXT_GROWTH * (sum(map(len, texts)) + entry.answer.ByteSize()) + len(texts) * 3
    if isinstance(attributes, Attributes):
        return size + ATTRIBUTE_GROWTH * attributes.byte_size
    return size + ATTRIBUTE_GROWTH * len(repr(attributes)) if attributes else size


def document(entry: Entry | Note, redact: Redaction) -> bytes:
    """The record of an entry, in the form that is hashed and sent."""
    if isinstance(entry, Note):
        return canonical({entry.kind: entry.members})
    content = {
        "decision_id": entry.repeat_id or entry.answer.decision_id,
        "repeat_of": entry.answer.decision_id if entry.repeat_id else None,
        "decided_at": wire.instant(entry.at),
        "latency_seconds": round(entry.seconds, 9),
        "dry_run": entry.dry_run,
        "idempotency_key": entry.idempotency_key,
        "approval_id": entry.approval_id,
        "action": action_json(entry.action) | {"attributes": redact(entry.action.attributes)},
        "answer": wire.answer_json(entry.answer),
        "cost_micros": entry.cost_micros,
        "opens": None if entry.opens is None else _opens(entry.opens),
    }
    return canonical(content)


def name_of(entry: Entry | Note) -> str:
    """The entry as a log line names it."""
    return f"{entry.kind} note" if isinstance(entry, Note) else f"decision {entry.answer.decision_id}"


def gap(first: int, last: int, at: float) -> bytes:
    """The gap record: the records `first` to `last` were dropped before they were sent."""
    range_ = {"first_sequence": first, "last_sequence": last, "records": last - first + 1, "at": wire.instant(at)}
    return canonical({"gap": range_})


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and without whitespace, in UTF-8."""
    return _ENCODER.encode(content).encode()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _opens(opens: Opens) -> dict[str, Any]:
    return {
        "approval_id": opens.approval_id,
        "action_sha256": opens.action_sha256.hex(),
        "timeout_seconds": opens.timeout_seconds,
    }
