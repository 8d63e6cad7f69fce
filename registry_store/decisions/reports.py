"""Parses the reports of sidecars: a message → batches of a decision log, each record of them checked separately."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import quote
from pdp.log_format import batches
from pdp.log_format.batches import BadBatchError
from registry_store.decisions import notes, records
from registry_store.decisions.notes import Note, Suspension
from registry_store.decisions.records import MAX_SEQUENCE, Content, Decision, Gap, RefusedError
from registry_store.sync.nodes import NODE_ID
from registry_store.v1 import sync_pb2 as pb

MAX_RECORDS = 4_000
"""Records of the batches of one report: what a report costs whatever it says is shared by many."""
MAX_OLD_RECORDS = 1_000
"""Records of one report of a sidecar from before there were batches."""
MAX_PROBLEMS = 20
"""Problems returned for one report."""
MAX_BYTES = 4 * 1024 * 1024
"""Total size of the contents of one report, unless it has one batch alone."""
MAX_MESSAGE_BYTES = MAX_BYTES + MAX_RECORDS * 128 + 1024
"""Size of one report; the fields around a content take less than 128 bytes."""
HASH_BYTES = 32


class Refused(NamedTuple):
    """A record that the store does not keep, and why; its batch is kept."""

    sequence: int
    problem: str


@dataclass(slots=True)
class Batch:
    """A batch as it was reported; each content is with its sequence.

    `is_converted`: it is of records from before there were batches, and its hash is that of the last of them.
    """

    first: int
    last: int
    content: bytes
    previous_hash: bytes
    hash: bytes
    is_converted: bool = False
    decisions: list[tuple[int, Decision]] = field(default_factory=list)
    outcomes: list[tuple[int, notes.Outcome]] = field(default_factory=list)
    suspensions: list[tuple[int, Suspension]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    packed: bytes = field(init=False)
    """The content compressed, as the database has it."""
    sha256: bytes = field(init=False)
    """Of the content."""

    def __post_init__(self) -> None:
        self.packed, self.sha256 = zlib.compress(self.content, 1), hashlib.sha256(self.content).digest()

    def add(self, sequence: int, content: Content) -> None:
        """Add the content of a record."""
        if isinstance(content, Decision):
            self.decisions.append((sequence, content))
        elif isinstance(content, Gap):
            self.gaps.append(content)
        elif isinstance(content, Suspension):
            self.suspensions.append((sequence, content))
        else:
            self.outcomes.append((sequence, content))

    def refuse(self, agent_ids: Set[str]) -> None:
        """Refuse what is of one of these agents, which are outside the scope of the key."""
        contents: tuple[list[Any], ...] = (self.decisions, self.outcomes, self.suspensions)
        for listed in contents:
            foreign = [(sequence, one) for sequence, one in listed if _is_foreign(one, agent_ids)]
            self.refused += [Refused(sequence, _outside_scope(one.agent_id)) for sequence, one in foreign]
            listed[:] = [(sequence, one) for sequence, one in listed if not _is_foreign(one, agent_ids)]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a sidecar's log from before there were batches; `intact`: its hash matches its document.

    `record` is the serialized record that is made of its document.
    """

    sequence: int
    previous_hash: bytes
    hash: bytes
    intact: bool
    content: Content
    record: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Batches of one sidecar's log in its order, or entries from before there were batches."""

    node_id: str
    batches: tuple[Batch, ...] = ()
    entries: tuple[Entry, ...] = ()

    def contents(self, *kinds: type) -> Iterator[Any]:
        """What was reported of these kinds, except what is refused."""
        for batch in self.batches:
            lists: dict[type, list[Any]] = {
                Decision: batch.decisions,
                notes.Outcome: batch.outcomes,
                Suspension: batch.suspensions,
            }
            for kind in kinds:
                yield from (one for _, one in lists[kind])
        yield from (entry.content for entry in self.entries if isinstance(entry.content, kinds))

    def agent_ids(self) -> set[str]:
        """The agents that it speaks of; not those that the sidecar blocked because it did not know them."""
        contents = self.contents(Decision, notes.Outcome, Suspension)
        return {content.agent_id for content in contents if not _is_of_unknown(content)}

    @property
    def refused(self) -> list[Refused]:
        """The records that are refused."""
        return [refused for batch in self.batches for refused in batch.refused]

    @property
    def requests_approvals(self) -> bool:
        """Whether any decision requests an approval."""
        return any(decision.opens is not None for decision in self.contents(Decision))


def check_message(message: pb.ReportDecisionsRequest) -> None:
    """Raise `InvalidRecordError` if the message has no node id, or too much or nothing."""
    problems = Problems()
    NODE_ID.read(message.node_id, "node_id", problems)
    if message.batches and message.records:
        problems.append(Problem("records", "must be empty, because there are batches"))
    elif not message.batches and not 1 <= len(message.records) <= MAX_OLD_RECORDS:
        problems.append(Problem("records", f"must have 1 to {MAX_OLD_RECORDS} items"))
    elif sum(len(record.document) for record in message.records) > MAX_BYTES:
        problems.append(Problem("records", f"the documents are larger than {MAX_BYTES} bytes together"))
    elif len(message.batches) > 1 and sum(len(batch.content) for batch in message.batches) > MAX_BYTES:
        problems.append(Problem("batches", f"the contents are larger than {MAX_BYTES} bytes together"))
    if problems:
        raise InvalidRecordError(problems)


def read_batches(message: pb.ReportDecisionsRequest) -> tuple[Batch, ...]:
    """The batches of a message; `InvalidRecordError` names what is wrong: `batches[3].hash`."""
    problems = Problems()
    found: list[Batch] = []
    last = number = 0
    for index, sent in enumerate(message.batches):
        path = f"batches[{index}]"
        batch = _batch(sent, path, last, problems)
        if problems or batch is None:
            raise InvalidRecordError(problems)
        last, number = batch.last, number + batch.last - batch.first + 1
        if number > MAX_RECORDS:
            raise InvalidRecordError([Problem("batches", f"have more than {MAX_RECORDS} records together")])
        found.append(batch)
    return tuple(found)


def _batch(sent: pb.ChainedBatch, path: str, last: int, problems: Problems) -> Batch | None:
    for name, value in (("previous_hash", sent.previous_hash), ("hash", sent.hash)):
        if len(value) != HASH_BYTES:
            problems.append(Problem(f"{path}.{name}", f"must have {HASH_BYTES} bytes"))
    content = sent.content
    if not problems and batches.chained(sent.previous_hash, content) != sent.hash:
        problems.append(Problem(f"{path}.hash", "is not the SHA-256 of `previous_hash` and `content`"))
    try:
        opened = batches.opened(content)
    except BadBatchError as error:
        problems.append(Problem(f"{path}.content", str(error)))
        return None
    first = opened.first_sequence
    batch = Batch(first, first + len(opened.records) - 1, content, sent.previous_hash, sent.hash)
    if batch.last > MAX_SEQUENCE:
        problems.append(Problem(f"{path}.content", f"has the sequence `{batch.last}`, which is above {MAX_SEQUENCE}"))
    if first <= last:
        problems.append(Problem(f"{path}.content", f"begins with `{first}`, which does not come after `{last}`"))
    if not problems:
        _read_records(batch, opened.records)
    return batch


def _read_records(batch: Batch, found: Iterable[Any]) -> None:
    add_decision = batch.decisions.append
    for sequence, record in enumerate(found, batch.first):
        try:
            content = records.read(record)
        except RefusedError as error:
            batch.refused.append(Refused(sequence, str(error)))
            continue
        if type(content) is Decision:
            add_decision((sequence, content))
        else:
            batch.add(sequence, content)


def problems_of(entries: Iterable[Entry], agent_ids: Set[str]) -> list[Problem]:
    """The entries that are of one of these agents, which are outside the scope of the key."""
    return [
        _problem_of(f"records[{index}].document", entry.content)
        for index, entry in enumerate(entries)
        if not isinstance(entry.content, Gap) and _is_foreign(entry.content, agent_ids)
    ]


def _problem_of(path: str, content: Decision | Note) -> Problem:
    if isinstance(content, Decision):
        return Problem(f"{path}.action.agent_id", f"{quote(content.agent_id)} is outside the scope of the key")
    return Problem(path, _outside_scope(content.agent_id))


def _outside_scope(agent_id: str) -> str:
    return f"agent {quote(agent_id)} is outside the scope of the key"


def _is_foreign(content: Any, agent_ids: Set[str]) -> bool:
    return content.agent_id in agent_ids and not _is_of_unknown(content)


def _is_of_unknown(content: Any) -> bool:
    """Whether the sidecar blocked an agent that it did not know: everybody may report that."""
    return isinstance(content, Decision) and content.is_of_unknown_agent
