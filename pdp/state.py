"""The compiled registry that the sidecar decides from: every agent and server of one revision.

A state is built completely and then swapped in; nothing edits a state that decisions may read.
"""

import json
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pdp.core.compile import CompiledAgent, CompiledPolicy, CompiledServer
from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.explanation.situation import Records
from pdp.core.model import Now, RecordKind, Source, StaleMode, Status
from pdp.core.records import read_agent, read_organisation_policy, read_server
from pdp.metrics import Metrics
from pdp.registry.organisation import Organisation, OrganisationPolicy
from pdp.registry.placeholder import placeholder_for
from pdp.registry.shards import Shards


class RawRecord(NamedTuple):
    """One record as the store sent it, in JSON; an empty document deletes it."""

    kind: RecordKind
    id: str
    document: bytes


class RefusedRecord(NamedTuple):
    """A record that does not compile here, with every reason."""

    kind: RecordKind
    id: str
    problems: tuple[str, ...]


Compiled = CompiledAgent | OrganisationPolicy | CompiledServer
Steps = Generator[int, None, "tuple[State, tuple[RefusedRecord, ...]]"]
"""A state in the making, in steps that each take some microseconds for each hundred bytes that they yield before."""
POLICY_BYTES = 500
"""As which a policy of the organisation counts where all of them are put into an index."""


class Held(NamedTuple):
    """A record in force: its document, and what is compiled from it."""

    document: bytes
    compiled: Any


class State:
    """The registry as of one revision. Immutable; `apply` and `build` make new ones that share what did not change."""

    __slots__ = ("_compiled", "_documents", "_organisation", "agents", "epoch", "revision", "servers")

    def __init__(
        self,
        epoch: str,
        revision: int,
        documents: Mapping[RecordKind, Shards[bytes]],
        compiled: Mapping[RecordKind, Shards[Any]],
        organisation: Organisation,
    ) -> None:
        self.epoch = epoch
        self.revision = revision
        self._documents = documents
        self._compiled = compiled
        self._organisation = organisation
        self.agents: Mapping[str, CompiledAgent] = compiled[RecordKind.AGENT]
        self.servers: Mapping[str, CompiledServer] = compiled[RecordKind.MCP_SERVER]

    def records(self) -> Iterator[RawRecord]:
        """Every record, from which `build` makes this state again."""
        for kind, documents in self._documents.items():
            for name, document in documents.entries():
                yield RawRecord(kind, name, document)

    def pieces(self) -> list[object]:
        """Its parts, each small: a state that is freed piece by piece holds up no decision."""
        return [
            part for held in (self._documents, self._compiled) for shards in held.values() for part in shards.parts()
        ]

    def uncompiled(self, agent_id: str) -> Records:
        """The records that apply to an agent, parsed again from their documents, for `explain`."""
        agent = self._documents[RecordKind.AGENT].get(agent_id)
        return Records(
            agent=None if agent is None else read_agent(json.loads(agent)),
            organisation=tuple(
                read_organisation_policy(json.loads(document))
                for document in self._documents[RecordKind.ORGANISATION_POLICY].values()
            ),
            servers={
                name: read_server(json.loads(document))
                for name, document in self._documents[RecordKind.MCP_SERVER].items()
            },
        )

    def held(self, kind: RecordKind, name: str) -> Held | None:
        """A record in force; None if there is none."""
        document = self._documents[kind].get(name)
        return None if document is None else Held(document, self._compiled[kind][name])


def build(
    records: Iterable[RawRecord], epoch: str, revision: int, last: State | None = None
) -> tuple[State, tuple[RefusedRecord, ...]]:
    """The state of a snapshot. A record that does not compile keeps its state from `last`, if it has one."""
    return made(building(records, epoch, revision, last))


def apply(state: State, records: Iterable[RawRecord], revision: int) -> tuple[State, tuple[RefusedRecord, ...]]:
    """The state after a change. A record that does not compile stays as it was, except for an agent's status.

    If the status can be read and is not `active`, it takes effect, here and in `build`.
    """
    return made(applying(state, records, revision))


def building(records: Iterable[RawRecord], epoch: str, revision: int, last: State | None = None) -> Steps:
    """`build` in steps."""
    organisation = Organisation() if last is None else last._organisation
    empty: Mapping[RecordKind, Shards[Any]] = {kind: Shards() for kind in RecordKind}
    return _steps(State(epoch, revision, empty, empty, organisation), records, revision, last, relink=True)


def applying(state: State, records: Iterable[RawRecord], revision: int) -> Steps:
    """`apply` in steps."""
    return _steps(state, records, revision, state, relink=False)


def made(steps: Steps) -> tuple[State, tuple[RefusedRecord, ...]]:
    """The result of all steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            state: tuple[State, tuple[RefusedRecord, ...]] = end.value
            return state


def _steps(base: State, records: Iterable[RawRecord], revision: int, last: State | None, *, relink: bool) -> Steps:
    documents = {kind: shards.draft() for kind, shards in base._documents.items()}
    compiled = {kind: shards.draft() for kind, shards in base._compiled.items()}
    refused: list[RefusedRecord] = []
    changed: list[str] = []
    for record in records:
        yield len(record.document)
        held = last.held(record.kind, record.id) if last is not None else None
        used = _used(held, record, refused)
        if used is not None:
            documents[record.kind].put(record.id, used.document)
            compiled[record.kind].put(record.id, used.compiled)
        elif not record.document:
            documents[record.kind].remove(record.id)
            compiled[record.kind].remove(record.id)
        if record.kind is RecordKind.AGENT:
            changed.append(record.id)
        relink = relink or record.kind is RecordKind.ORGANISATION_POLICY
    organisation, agents = base._organisation, compiled[RecordKind.AGENT]
    if relink:
        yield POLICY_BYTES * len(compiled[RecordKind.ORGANISATION_POLICY])
        organisation = Organisation(compiled[RecordKind.ORGANISATION_POLICY].values(), organisation)
    for name in agents.keys() if relink else changed:
        agent = agents.get(name)
        if agent is not None:
            yield 0 if organisation.knows(agent) else POLICY_BYTES * len(compiled[RecordKind.ORGANISATION_POLICY])
            if (policies := organisation.binding(agent)) is not agent.organisation:
                agents.put(name, agent.with_organisation(policies))
    return (
        State(
            base.epoch,
            revision,
            {kind: draft.done() for kind, draft in documents.items()},
            {kind: draft.done() for kind, draft in compiled.items()},
            organisation,
        ),
        tuple(refused),
    )


def _used(held: Held | None, record: RawRecord, refused: list[RefusedRecord]) -> Held | None:
    """What is in force after the record; None if it is deleted, or refused without anything in its place."""
    try:
        return _in_place_of(held, record)
    except InvalidRecordError as error:
        used, note = _fallback_for(record, held)
        notes = (note,) if note else ()
        refused.append(RefusedRecord(record.kind, record.id, (*notes, *map(str, error.problems))))
        return used


def _in_place_of(held: Held | None, record: RawRecord) -> Held | None:
    """What a record becomes, None to delete it. In a snapshot most records are those in force, byte for byte."""
    if not record.document:
        return None
    if held is not None and held.document == record.document:
        return held
    if (
        held is not None
        and record.kind is RecordKind.AGENT
        and (status := _other_status(held.document, record.document))
    ):
        return Held(record.document, held.compiled.with_status(status))
    return Held(record.document, _compile(record))


def _other_status(before: bytes, after: bytes) -> Status | None:
    """The status in an agent's document if the rest is the same, byte for byte: many agents are stopped quickly so.

    None if the word stands there more than once, as it may in the agent's metadata.
    """
    old, new = _STATUS.search(before), _STATUS.search(after)
    if old is None or new is None or before.count(b'"status"') != 1 or after.count(b'"status"') != 1:
        return None
    if before[: old.start(1)] != after[: new.start(1)] or before[old.end(1) :] != after[new.end(1) :]:
        return None
    return _STATUSES.get(str(new[1], "ascii"))


def _fallback_for(record: RawRecord, held: Held | None) -> tuple[Held | None, str]:
    """What replaces a record that does not compile, if there is anything, and which part of it takes effect anyway."""
    if held is not None:
        status = _inactive_status(record.document) if record.kind is RecordKind.AGENT else None
        return (held, "") if status is None else _with_status(held, status)
    if record.kind is RecordKind.ORGANISATION_POLICY and (document := placeholder_for(record.id, record.document)):
        return Held(document, _compile(record._replace(document=document))), ""
    return None, ""


def _inactive_status(document: bytes) -> Status | None:
    """The status in a refused agent's document, unless it is `active` or cannot be read.

    An unknown status, of a newer store, counts as suspended.
    """
    try:
        given = json.loads(document)
    except (ValueError, RecursionError):
        return None
    name = given.get("status") if isinstance(given, dict) else None
    if not isinstance(name, str) or name == "active":
        return None
    return _STATUSES.get(name, Status.SUSPENDED)


def _with_status(held: Held, status: Status) -> tuple[Held, str]:
    # Also in the document, so that the status survives a restart and `explain` sees it.
    name = status.name.lower()
    document = json.dumps(json.loads(held.document) | {"status": name}, ensure_ascii=False).encode()
    return Held(document, held.compiled.with_status(status)), f"its status takes effect anyway: `{name}`"


def _compile(record: RawRecord) -> Compiled:
    try:
        return _COMPILE[record.kind](record)
    except InvalidRecordError:
        raise
    except Exception as error:  # a bug in this program must not block the other records
        raise InvalidRecordError([Problem("", f"cannot be compiled: {type(error).__name__}: {error}")]) from error


def _parsed(record: RawRecord) -> Any:
    try:
        return json.loads(record.document)
    except (ValueError, RecursionError) as error:
        raise InvalidRecordError([Problem("", f"is not JSON: {error}")]) from error


def _agent(record: RawRecord) -> CompiledAgent:
    return CompiledAgent(read_agent(_parsed(record)))


def _organisation_policy(record: RawRecord) -> OrganisationPolicy:
    policy = read_organisation_policy(_parsed(record))
    return OrganisationPolicy(policy, CompiledPolicy(policy) if policy.is_active else None)


def _server(record: RawRecord) -> CompiledServer:
    return CompiledServer(read_server(_parsed(record)))


_COMPILE: Mapping[RecordKind, Callable[[RawRecord], Compiled]] = {
    RecordKind.AGENT: _agent,
    RecordKind.ORGANISATION_POLICY: _organisation_policy,
    RecordKind.MCP_SERVER: _server,
}


_STATUS = re.compile(rb'"status": ?"([a-z]+)"')
_STATUSES = {status.name.lower(): status for status in Status}


class Holder:
    """The one mutable cell: the state in force, and its status towards the store.

    Data that the store has not confirmed for more than `max_staleness` seconds (None: no maximum) is stale, and
    `stale_mode` says how decisions are then made.
    """

    __slots__ = ("confirmed_at", "current", "key_revoked", "max_staleness", "source", "stale_mode")

    def __init__(self, max_staleness: float | None = None, stale_mode: StaleMode = StaleMode.BLOCK) -> None:
        self.current: State | None = None
        self.source = Source.CACHED
        self.confirmed_at = 0.0
        self.key_revoked = False
        self.max_staleness = max_staleness
        self.stale_mode = stale_mode

    @property
    def revision(self) -> int:
        """The revision in force; 0 while there is none."""
        return self.current.revision if self.current is not None else 0

    def swap(self, state: State, source: Source) -> None:
        """Put a state in force."""
        self.current = state
        self.source = source

    def confirm(self, boot: float) -> None:
        """Note that the store confirmed the state at `boot`, seconds of the boot clock."""
        self.confirmed_at = boot

    def staleness(self, boot: float) -> float:
        """Seconds since the store last confirmed the state."""
        seconds = boot - self.confirmed_at
        return seconds if seconds > 0.0 else 0.0

    def stale(self, boot: float) -> StaleMode | None:
        """The stale mode if the state is stale at `boot`, else None."""
        if self.max_staleness is None or self.staleness(boot) <= self.max_staleness:
            return None
        return self.stale_mode

    def status(self, boot: float) -> str:
        """The status of the state in one word, the most severe first."""
        if self.key_revoked:
            return "key_revoked"
        if self.stale(boot) is not None:
            return "stale"
        return self.source.name.lower()

    def watch(self, metrics: Metrics, clock: Callable[[], Now]) -> None:
        """Register its metrics."""
        metrics.watch("pdp_registry_revision", "Revision of the registry in force", lambda: self.revision)
        metrics.watch("pdp_agents", "Agents held", lambda: len(self.current.agents) if self.current else 0)
        metrics.watch(
            "pdp_staleness_seconds",
            "Time since the store last confirmed the revision in force; +Inf while there is none",
            lambda: self.staleness(clock().boot) if self.current else math.inf,
        )
        metrics.watch("pdp_key_revoked", "1 while the store refuses the key", lambda: float(self.key_revoked))
        metrics.watch(
            "pdp_stale",
            "1 while the registry data is older than --max-staleness",
            lambda: float(self.current is not None and self.stale(clock().boot) is not None),
        )
