"""Records of sidecars from before there were batches: JSON documents, checked and made into records of today."""

import hashlib
from collections.abc import Mapping
from typing import Any

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, quote, read_fields
from pdp.core.json import strict_json
from pdp.core.json.measures import depth_exceeds
from pdp.core.kinds import Choice, Flag, Moment, Number, OrNull, Text, Whole
from pdp.core.model import Outcome
from pdp.log_format.old_documents import BadDocumentError, from_json
from registry_store.approvals import requests
from registry_store.decisions import ids, notes, records
from registry_store.decisions.records import MAX_COST_MICROS, MAX_SEQUENCE, RefusedError
from registry_store.decisions.reports import HASH_BYTES, MAX_BYTES, MAX_PROBLEMS, Entry
from registry_store.documents import lower_first
from registry_store.v1 import sync_pb2 as pb

MAX_DEPTH = 64

Document = dict[str, Any]


def read_entries(message: pb.ReportDecisionsRequest) -> tuple[Entry, ...]:
    """The entries of a message; `InvalidRecordError` names malformed fields: `records[3].document.answer.outcome`."""
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
    document = _document(record.document, f"{path}.document", problems)
    if problems or document is None:
        return None
    try:
        made = from_json(document)
        content = records.read(made)
    except (BadDocumentError, RefusedError) as error:
        problems.append(Problem(f"{path}.document", str(error)))
        return None
    hashed = record.previous_hash + record.sequence.to_bytes(8, "big") + record.document
    intact = hashlib.sha256(hashed).digest() == record.hash
    return Entry(record.sequence, record.previous_hash, record.hash, intact, content, made.SerializeToString())


def _document(raw: bytes, path: str, problems: Problems) -> Document | None:
    """The document of a record, checked."""
    try:
        document = strict_json.loads(raw)
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and depth_exceeds(document, MAX_DEPTH):
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    except ValueError as error:
        problems.append(Problem(path, f"is not JSON: {lower_first(str(error))}"))
        return None
    if not isinstance(document, dict):
        problems.append(Problem(path, f"{quote(document)} is not an object"))
        return None
    if "gap" in document:
        read_fields(_known(document["gap"], _GAP), _GAP, f"{path}.gap", problems)
    elif notes.is_note(document):
        notes.read(records.storable(document), path, problems)
    else:
        _check_decision(document, path, problems)
    return document


def _check_decision(document: Document, path: str, problems: Problems) -> None:
    values = read_fields(_known(document, DECISION), DECISION, path, problems)
    read_fields(_known(values["action"], _ACTION), _ACTION, f"{path}.action", problems)
    read_fields(_known(values["answer"], _ANSWER), _ANSWER, f"{path}.answer", problems)
    if not problems and values["opens"] is not None:
        read_fields(_known(values["opens"], _OPENS), _OPENS, f"{path}.opens", problems)


def _known(document: Any, fields: Mapping[str, Field]) -> Any:
    """The known members of a document; others are not kept."""
    if not isinstance(document, Mapping):
        return document
    return {name: document[name] for name in fields if name in document}


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
    "cost_micros": Field(Whole(0, MAX_COST_MICROS), required=True, about="What was charged, in millionths of a dollar"),
    "opens": Field(OrNull(_Object()), required=True, about="The approval that it opened; null: none"),
}
"""The members of a decision's document."""
_ACTION = {"agent_id": Field(AGENT_ID, required=True)}
_ANSWER = {"outcome": Field(Choice(Outcome), required=True)}
_OPENS = requests.OPENS
_GAP = {
    "first_sequence": Field(_COUNT, required=True),
    "last_sequence": Field(_COUNT, required=True),
    "records": Field(_COUNT, required=True),
}
