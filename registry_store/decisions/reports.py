"""Parses the reports of sidecars: messages → entries of a decision log, each checked separately."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, quote, read_fields
from pdp.core.json import strict_json
from pdp.core.json.measures import depth_exceeds
from pdp.core.kinds import Choice, Flag, Moment, Number, OrNull, Text, Whole
from pdp.core.model import Outcome
from registry_store.approvals import requests
from registry_store.approvals.requests import Request
from registry_store.database.tables import Written
from registry_store.decisions import ids, notes
from registry_store.decisions.notes import Note, Suspension
from registry_store.documents import lower_first
from registry_store.sync.nodes import NODE_ID
from registry_store.v1 import sync_pb2 as pb

_NUL = b"\\u0000"
MAX_RECORDS = 1_000
MAX_PROBLEMS = 20
"""Problems returned for one report."""
MAX_BYTES = 4 * 1024 * 1024
"""Total size of the documents of one report."""
MAX_MESSAGE_BYTES = MAX_BYTES + MAX_RECORDS * 128 + 1024
"""Size of one report; the fields around a document take less than 128 bytes."""
MAX_SEQUENCE = 2**53
"""Every JSON parser reads whole numbers up to this one exactly."""
MAX_DEPTH = 64
HASH_BYTES = 32
UNKNOWN_AGENT_REASONS = ("AGENT_NOT_REGISTERED", "REGISTRY_STALE", "INTERNAL_ERROR")
"""Reasons for which a sidecar blocks before it knows the agent."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """A reported decision. `opens` is the approval that it requests, `document` everything that the sidecar wrote, and
    `written` the same as text for the database.

    If `repeat_of` is an id, the answer of that decision was returned again, and nothing was counted.
    """

    decision_id: str
    repeat_of: str | None
    decided_at: datetime
    agent_id: str
    outcome: str
    dry_run: bool
    cost_micros: int
    opens: Request | None
    document: Document
    written: Written

    @property
    def is_of_unknown_agent(self) -> bool:
        """Whether the sidecar blocked an agent that it did not know."""
        reason = self.document["answer"].get("reason")
        return self.outcome == "block" and not self.cost_micros and reason in UNKNOWN_AGENT_REASONS


@dataclass(frozen=True, slots=True)
class Gap:
    """A report that the sidecar dropped `records`; those from `first` to `last` had sequences."""

    first: int
    last: int
    records: int

    @property
    def unnumbered(self) -> int:
        """The number of dropped records without a sequence."""
        return max(0, self.records - max(0, self.last - self.first + 1))


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a sidecar's log; `intact`: its hash matches its content."""

    sequence: int
    previous_hash: str
    hash: str
    intact: bool
    content: Decision | Gap | Note


@dataclass(frozen=True, slots=True)
class Report:
    """Entries of one sidecar's log, in its order."""

    node_id: str
    entries: tuple[Entry, ...]

    @property
    def decisions(self) -> list[Decision]:
        """The entries that are decisions."""
        return [entry.content for entry in self.entries if isinstance(entry.content, Decision)]

    @property
    def outcomes(self) -> list[tuple[int, notes.Outcome]]:
        """The entries that are outcomes, with their sequences."""
        return [(entry.sequence, entry.content) for entry in self.entries if isinstance(entry.content, notes.Outcome)]

    @property
    def suspensions(self) -> list[Suspension]:
        """The entries that are suspensions of agents."""
        return [entry.content for entry in self.entries if isinstance(entry.content, Suspension)]

    @property
    def notes(self) -> list[Note]:
        """The entries that are outcomes or suspensions."""
        return [*(outcome for _, outcome in self.outcomes), *self.suspensions]

    @property
    def requests_approvals(self) -> bool:
        """Whether any decision requests an approval."""
        return any(decision.opens is not None for decision in self.decisions)


def read_report(message: pb.ReportDecisionsRequest) -> Report:
    """The report in a message; `InvalidRecordError` names malformed fields: `records[3].document.answer.outcome`."""
    problems = Problems()
    NODE_ID.read(message.node_id, "node_id", problems)
    if not 1 <= len(message.records) <= MAX_RECORDS:
        problems.append(Problem("records", f"must have 1 to {MAX_RECORDS} items"))
    elif sum(len(record.document) for record in message.records) > MAX_BYTES:
        problems.append(Problem("records", f"the documents are larger than {MAX_BYTES} bytes together"))
    if problems:
        raise InvalidRecordError(problems)
    return Report(message.node_id, _entries(message))


def _entries(message: pb.ReportDecisionsRequest) -> tuple[Entry, ...]:
    problems = Problems()
    entries: list[Entry] = []
    last = 0
    for index, record in enumerate(message.records):
        path = f"records[{index}]"
        _SEQUENCE.read(record.sequence, f"{path}.sequence", problems)
        if record.sequence <= last:
            problems.append(Problem(f"{path}.sequence", f"`{record.sequence}` does not come after `{last}`"))
        last = record.sequence
        entry = _entry(record, path, problems)
        if len(problems) >= MAX_PROBLEMS:
            break
        if entry is not None:
            entries.append(entry)
    if problems:
        raise InvalidRecordError(problems)
    return tuple(entries)


def _entry(record: pb.DecisionRecord, path: str, problems: Problems) -> Entry | None:
    for name, value in (("previous_hash", record.previous_hash), ("hash", record.hash)):
        if len(value) != HASH_BYTES:
            problems.append(Problem(f"{path}.{name}", f"must have {HASH_BYTES} bytes"))
    content = _content(record.document, f"{path}.document", problems)
    if problems or content is None:
        return None
    hashed = record.previous_hash + record.sequence.to_bytes(8, "big") + record.document
    intact = hashlib.sha256(hashed).digest() == record.hash
    return Entry(record.sequence, record.previous_hash.hex(), record.hash.hex(), intact, content)


def _content(raw: bytes, path: str, problems: Problems) -> Decision | Gap | Note | None:
    try:
        document = _storable(raw, strict_json.loads(raw))
    except ValueError as error:
        problems.append(Problem(path, f"is not JSON: {lower_first(str(error))}"))
        return None
    if not isinstance(document, dict):
        problems.append(Problem(path, f"{quote(document)} is not an object"))
        return None
    if "gap" in document:
        values = read_fields(_known(document["gap"], _GAP), _GAP, f"{path}.gap", problems)
        return None if problems else Gap(values["first_sequence"], values["last_sequence"], values["records"])
    if notes.is_note(document):
        return notes.read(document, path, problems)
    written = json.dumps(document) if _NUL in raw else raw.decode()
    return _decision(document, Written(written), path, problems)


def _decision(document: Document, written: Written, path: str, problems: Problems) -> Decision | None:
    values = read_fields(_known(document, DECISION), DECISION, path, problems)
    action = read_fields(_known(values["action"], _ACTION), _ACTION, f"{path}.action", problems)
    answer = read_fields(_known(values["answer"], _ANSWER), _ANSWER, f"{path}.answer", problems)
    if problems:
        return None
    opens = requests.read(document, path, problems)
    return Decision(
        values["decision_id"],
        values["repeat_of"],
        values["decided_at"],
        action["agent_id"],
        answer["outcome"].name.lower(),
        values["dry_run"],
        values["cost_micros"],
        opens,
        document,
        written,
    )


def _known(document: Any, fields: Mapping[str, Field]) -> Any:
    """The known members of a document; a newer sidecar may write more, which is stored unchecked."""
    if not isinstance(document, Mapping):
        return document
    return {name: document[name] for name in fields if name in document}


def _storable(raw: bytes, value: Any) -> Any:
    """The value of this JSON in a form that both databases can store; `ValueError` if they cannot.

    PostgreSQL cannot store NUL, so its symbol replaces it: no input of an agent keeps its decision out of the log.
    """
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and depth_exceeds(value, MAX_DEPTH):
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return _without_nul(value) if _NUL in raw else value


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "␀")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    return value


class _Object:
    """An object with any members."""

    def read(self, value: Any, path: str, problems: Problems) -> Any:
        if not isinstance(value, dict):
            problems.append(Problem(path, f"{quote(value)} is not an object"))
            return {}
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


_SEQUENCE = Whole(1, MAX_SEQUENCE)
_COUNT = Whole(0, MAX_SEQUENCE)
_TEXT = Text(MAX_BYTES)
_ID = Text(36, pattern=ids.PATTERN, what="a UUID of version 7 in lower case")
DECISION: dict[str, Field] = {
    "decision_id": Field(_ID, required=True, about="Unique, and sortable by the time of the decision"),
    "repeat_of": Field(
        OrNull(_ID),
        about="The decision whose answer was returned again for its idempotency key, uncounted; null: none",
    ),
    "decided_at": Field(Moment(), required=True, about="By the sidecar's clock"),
    "latency_seconds": Field(Number(0), required=True, about="How long the decision took"),
    "dry_run": Field(Flag(), required=True, about="Whether the request was a dry run"),
    "idempotency_key": Field(_TEXT, required=True, about="As the request gave it; empty: none"),
    "approval_id": Field(_TEXT, required=True, about="The approval that the request named; empty: none"),
    "action": Field(_Object(), required=True, about="As the request gave it, attributes redacted"),
    "answer": Field(_Object(), required=True, about="As the runtime got it"),
    "cost_micros": Field(Whole(0, 10**15), required=True, about="What was charged, in millionths of a dollar"),
    "opens": Field(OrNull(_Object()), required=True, about="The approval that it opened; null: none"),
}
"""The members that are checked; the whole document is stored."""
_ACTION = {"agent_id": Field(AGENT_ID, required=True)}
_ANSWER = {"outcome": Field(Choice(Outcome), required=True)}
_GAP = {
    "first_sequence": Field(_COUNT, required=True),
    "last_sequence": Field(_COUNT, required=True),
    "records": Field(_COUNT, required=True),
}
