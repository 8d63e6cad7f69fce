"""The records of the decision log: decisions with redacted attributes, outcomes, suspensions and gaps, as `LogRecord`s.

A decision is written by joining bytes: its request and its answer are serialized already.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError

from pdp.attributes import plain, struct_of
from pdp.core.action import MAX_ATTRIBUTE_DEPTH
from pdp.decision_log.redaction import Redaction
from pdp.v1 import decision_pb2, log_pb2
from pdp.wire.varints import varint

FRAME_BYTES = 512
"""Upper bound for the part of a record of a decision that is not its request or its answer."""
REDACTED_GROWTH = 4
"""The growth of attributes in the worst case: `[redacted]` is 14 bytes on the wire, a redacted null is four."""
NOTE_GROWTH = 4
"""The most bytes of a character of a note."""

_DECISION, _GAP, _REQUEST, _ANSWER = (
    bytes((number << 3 | 2,))
    for number in (
        log_pb2.LogRecord.DECISION_FIELD_NUMBER,
        log_pb2.LogRecord.GAP_FIELD_NUMBER,
        log_pb2.LoggedDecision.REQUEST_FIELD_NUMBER,
        log_pb2.LoggedDecision.ANSWER_FIELD_NUMBER,
    )
)
"""The tags of the fields that are written by joining bytes, as protobuf writes them."""


class Opens(NamedTuple):
    """The approval that a decision asks for, bound to the SHA-256 of the canonical action."""

    approval_id: str
    action_sha256: bytes
    timeout_seconds: int


class Entry(NamedTuple):
    """One decision: its serialized `EvaluateRequest` and `EvaluateResponse`, its time `at` in Unix seconds, its
    duration in seconds, and its cost in micro-dollars.

    `repeat_id` is the id of this record if the answer repeats an earlier one with the same idempotency key.
    """

    request: bytes
    answer: bytes
    at: float
    seconds: float
    cost_micros: int = 0
    opens: Opens | None = None
    repeat_id: str = ""
    has_attributes: bool = False


class Note(NamedTuple):
    """A record beside the decisions, `outcome` or `suspension`, with its members, which are numbers and texts."""

    kind: str
    members: Mapping[str, Any]


class NoteLog(Protocol):
    """Where notes are kept until they are sent to the store."""

    def append(self, entry: Note, *, urgent: bool) -> None:
        """Keep a note; an urgent one is sent at once."""


def weight(entry: Entry | Note, redact: Redaction) -> int:
    """The approximate memory of an entry, in bytes; never less than the size of its record."""
    if isinstance(entry, Note):
        return FRAME_BYTES + NOTE_GROWTH * sum(len(text) for text in entry.members.values() if isinstance(text, str))
    size = FRAME_BYTES + len(entry.request) + len(entry.answer)
    return size + (REDACTED_GROWTH - 1) * len(entry.request) if entry.has_attributes and redact.paths else size


def record(entry: Entry | Note, redact: Redaction) -> bytes:
    """The serialized `LogRecord` of an entry."""
    if isinstance(entry, Note):
        note = log_pb2.LogRecord()
        getattr(note, entry.kind).CopyFrom(struct_of(entry.members))
        return note.SerializeToString()
    request = _redacted(entry.request, redact) if entry.has_attributes and redact.paths else entry.request
    numbers = log_pb2.LoggedDecision(
        decided_at_microseconds=round(entry.at * 1_000_000),
        latency_nanoseconds=round(entry.seconds * 1_000_000_000),
        cost_micros=entry.cost_micros,
    )
    if entry.repeat_id:
        numbers.repeat_id = entry.repeat_id
    if entry.opens is not None:
        numbers.opens.CopyFrom(log_pb2.OpenedApproval(**entry.opens._asdict()))
    rest = numbers.SerializeToString()
    answer = entry.answer
    decision = b"".join((_REQUEST, varint(len(request)), request, _ANSWER, varint(len(answer)), answer, rest))
    return b"".join((_DECISION, varint(len(decision)), decision))


def name_of(entry: Entry | Note) -> str:
    """The entry as a log line names it."""
    if isinstance(entry, Note):
        return f"{entry.kind} note"
    try:
        return f"decision {decision_pb2.EvaluateResponse.FromString(entry.answer).decision_id}"
    except DecodeError:
        return "a decision"


def gap(first: int, last: int, at: float) -> bytes:
    """The gap record: the records `first` to `last` were dropped before they were sent."""
    lost = log_pb2.LogGap(
        first_sequence=first,
        last_sequence=last,
        records=last - first + 1,
        at_microseconds=round(at * 1_000_000),
    )
    return log_pb2.LogRecord(gap=lost).SerializeToString()


def is_gap(record: bytes) -> bool:
    """Whether a serialized record is a gap record."""
    return record[:1] == _GAP


def _redacted(request: bytes, redact: Redaction) -> bytes:
    message = decision_pb2.EvaluateRequest.FromString(request)
    attributes = plain(message.action.attributes, MAX_ATTRIBUTE_DEPTH)
    message.action.attributes.CopyFrom(struct_of(redact(attributes)))
    return message.SerializeToString()
