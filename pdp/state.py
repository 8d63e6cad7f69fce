"""The compiled registry that the sidecar decides from: every agent and server of one revision.

A state is built completely and then swapped in; nothing edits a state that decisions may read.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pdp.core.compile import CompiledAgent, CompiledPolicy, CompiledServer, PolicySet, binds
from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.explanation.situation import Records
from pdp.core.model import Now, RecordKind, Selector, Source, StaleMode, Status
from pdp.core.records import read_agent, read_organisation_policy, read_server
from pdp.metrics import Metrics
from pdp.placeholder import placeholder_for


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


class OrganisationPolicy(NamedTuple):
    """A compiled organisation policy, and the agents that it binds; `policy` is None while it is inactive."""

    selector: Selector | None
    policy: CompiledPolicy | None


Compiled = CompiledAgent | OrganisationPolicy | CompiledServer


class State:
    """The registry as of one revision. Immutable; `apply` and `build` make new ones."""

    __slots__ = ("_compiled", "_documents", "agents", "epoch", "revision", "servers")

    def __init__(
        self,
        epoch: str,
        revision: int,
        documents: dict[tuple[RecordKind, str], bytes],
        compiled: dict[RecordKind, dict[str, Any]],
    ) -> None:
        self.epoch = epoch
        self.revision = revision
        self._documents = documents
        self._compiled = compiled
        self.agents: Mapping[str, CompiledAgent] = MappingProxyType(compiled[RecordKind.AGENT])
        self.servers: Mapping[str, CompiledServer] = MappingProxyType(compiled[RecordKind.MCP_SERVER])

    def records(self) -> Iterator[RawRecord]:
        """Every record, from which `build` makes this state again."""
        for (kind, name), document in self._documents.items():
            yield RawRecord(kind, name, document)

    def uncompiled(self, agent_id: str) -> Records:
        """The records that apply to an agent, parsed again from their documents, for `explain`."""
        agent = self._documents.get((RecordKind.AGENT, agent_id))
        return Records(
            agent=None if agent is None else read_agent(json.loads(agent)),
            organisation=tuple(
                read_organisation_policy(json.loads(document))
                for (kind, _), document in self._documents.items()
                if kind is RecordKind.ORGANISATION_POLICY
            ),
            servers={
                name: read_server(json.loads(self._documents[RecordKind.MCP_SERVER, name])) for name in self.servers
            },
        )


def build(
    records: Iterable[RawRecord], epoch: str, revision: int, last: State | None = None
) -> tuple[State, tuple[RefusedRecord, ...]]:
    """The state of a snapshot. A record that does not compile keeps its state from `last`, if it has one."""
    return _apply_records(State(epoch, revision, {}, {kind: {} for kind in RecordKind}), records, revision, last)


def apply(state: State, records: Iterable[RawRecord], revision: int) -> tuple[State, tuple[RefusedRecord, ...]]:
    """The state after a change. A record that does not compile stays as it was, except for an agent's status.

    If the status can be read and is not `active`, it takes effect, here and in `build`.
    """
    return _apply_records(state, records, revision, state)


def _apply_records(
    base: State, records: Iterable[RawRecord], revision: int, last: State | None
) -> tuple[State, tuple[RefusedRecord, ...]]:
    documents = dict(base._documents)
    compiled = {kind: dict(some) for kind, some in base._compiled.items()}
    refused = []
    changed: set[str] = set()
    relink = False
    for record in records:
        if record.kind is RecordKind.AGENT:
            changed.add(record.id)
        relink = relink or record.kind is RecordKind.ORGANISATION_POLICY
        if not record.document:
            documents.pop((record.kind, record.id), None)
            compiled[record.kind].pop(record.id, None)
            continue
        used: _Used | None
        try:
            used = _Used(record.document, _compile(record))
        except InvalidRecordError as error:
            used = _fallback_for(record, last)
            notes = () if used is None or not used.note else (used.note,)
            refused.append(RefusedRecord(record.kind, record.id, (*notes, *map(str, error.problems))))
        if used is not None:
            documents[record.kind, record.id], compiled[record.kind][record.id] = used.document, used.compiled
    agents = compiled[RecordKind.AGENT]
    _link(agents, agents.keys() if relink else changed & agents.keys(), compiled[RecordKind.ORGANISATION_POLICY])
    return State(base.epoch, revision, documents, compiled), tuple(refused)


class _Used(NamedTuple):
    """A document and its compiled form; `note` names the part of a refused record that takes effect anyway."""

    document: bytes
    compiled: Any
    note: str = ""


def _fallback_for(record: RawRecord, last: State | None) -> _Used | None:
    """The replacement for a record that does not compile; None if there is none, so that the record is missing."""
    if last is not None and record.id in last._compiled[record.kind]:
        good = _Used(last._documents[record.kind, record.id], last._compiled[record.kind][record.id])
        status = _inactive_status(record.document) if record.kind is RecordKind.AGENT else None
        return good if status is None else _with_status(good, status)
    if record.kind is RecordKind.ORGANISATION_POLICY and (document := placeholder_for(record.id, record.document)):
        return _Used(document, _compile(record._replace(document=document)))
    return None


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


def _with_status(good: _Used, status: Status) -> _Used:
    # Also in the document, so that the status survives a restart and `explain` sees it.
    name = status.name.lower()
    document = json.dumps(json.loads(good.document) | {"status": name}, ensure_ascii=False).encode()
    return _Used(document, good.compiled.with_status(status), f"its status takes effect anyway: `{name}`")


def _link(agents: dict[str, CompiledAgent], names: Iterable[str], organisation: Mapping[str, Any]) -> None:
    """Put each named agent under its own policies and those of the organisation that bind it."""
    policies = [entry for entry in organisation.values() if entry.policy is not None]
    shared: dict[tuple[CompiledPolicy, ...], PolicySet] = {}
    for name in tuple(names):
        agent = agents[name]
        binding = tuple(entry.policy for entry in policies if binds(entry.selector, agent.agent_type, agent.tags))
        if agent.own_policies:
            policy_set = PolicySet(agent.own_policies + binding)
        else:
            policy_set = shared.get(binding) or shared.setdefault(binding, PolicySet(binding))
        agents[name] = agent.with_policies(policy_set)


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
    return OrganisationPolicy(policy.applies_to, CompiledPolicy(policy) if policy.is_active else None)


def _server(record: RawRecord) -> CompiledServer:
    return CompiledServer(read_server(_parsed(record)))


_COMPILE: Mapping[RecordKind, Callable[[RawRecord], Compiled]] = {
    RecordKind.AGENT: _agent,
    RecordKind.ORGANISATION_POLICY: _organisation_policy,
    RecordKind.MCP_SERVER: _server,
}


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
