"""The sidecars that are or were connected to this store, and what each acknowledged or refused."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pdp.core.model import RecordKind
from registry_store.documents import Document, to_json
from registry_store.sync.subscriptions import Subscription

MAX_REMEMBERED = 10_000
MAX_UNACKNOWLEDGED = 1_000
MAX_REFUSALS = 1_000
MAX_PROBLEMS = 20
"""Problems kept of one refusal."""
MAX_REFUSED_ID, MAX_PROBLEM = 256, 1_000
"""Characters kept of an id and of a problem."""

Records = frozenset[tuple[RecordKind, str]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that did not compile in the sidecar, so that its last good state stays in force there."""

    kind: RecordKind
    id: str
    problems: tuple[str, ...]


@dataclass(slots=True)
class Sidecar:
    """One sidecar and the state of its stream."""

    node_id: str
    key_id: str
    key_name: str
    software_version: str
    subscription: Subscription
    connected_at: datetime
    last_heard_at: datetime
    node_name: str = ""
    """A display name that its operator chose."""
    connected: bool = True
    rotated: bool = False
    """Whether the store ended the stream by scheduled rotation, so that the sidecar reconnects at once."""
    sent_revision: int = 0
    acknowledged_revision: int = 0
    refusals: dict[tuple[RecordKind, str], Refusal] = field(default_factory=dict)
    unacknowledged: deque[tuple[int, float, Records | None]] = field(default_factory=deque)
    unreported: list[Refusal] = field(default_factory=list)
    """Refusals that no alert tells of yet."""
    left: bool = False
    """Whether the sidecar itself ended its last stream: it was stopped, so that its silence means nothing."""
    stale_reported: bool = False
    """Whether an alert tells that it is stale."""
    _behind: tuple[int, datetime] | None = None
    """The revision that it is stuck at, and since when."""

    def sent(self, revision: int, committed_at: float, records: Records | None) -> None:
        """Note a change that was sent and awaits its acknowledgement (`records` None: a snapshot)."""
        self.sent_revision = revision
        self.unacknowledged.append((revision, committed_at, records))
        while len(self.unacknowledged) > MAX_UNACKNOWLEDGED:
            self.unacknowledged.popleft()

    def acknowledged(self, revision: int, refusals: list[Refusal]) -> list[float]:
        """Note that all up to `revision` is in force except `refusals`; returns the commit time of each change."""
        commits = []
        while self.unacknowledged and self.unacknowledged[0][0] <= revision:
            _, committed_at, records = self.unacknowledged.popleft()
            commits.append(committed_at)
            for key in list(self.refusals) if records is None else records:
                self.refusals.pop(key, None)
        self.acknowledged_revision = max(self.acknowledged_revision, revision)
        new = [refusal for refusal in refusals if self.refusals.get((refusal.kind, refusal.id)) != refusal]
        self.unreported = [*self.unreported, *new][-MAX_REFUSALS:]
        self.refusals |= {(refusal.kind, refusal.id): refusal for refusal in refusals}
        while len(self.refusals) > MAX_REFUSALS:
            del self.refusals[next(iter(self.refusals))]
        return [moment for moment in commits if moment]

    def is_stale(self, now: datetime, patience: timedelta) -> bool:
        """Whether it has applied nothing for so long, although it was sent something; ask again and again."""
        if not self.connected or self.acknowledged_revision >= self.sent_revision:
            self._behind, self.stale_reported = None, False
        elif self._behind is None or self._behind[0] != self.acknowledged_revision:
            self._behind, self.stale_reported = (self.acknowledged_revision, now), False
        return self._behind is not None and now - self._behind[1] >= patience


class Sidecars:
    """All sidecars by node id; disconnected ones are kept, and the oldest are dropped first at the limit."""

    def __init__(self) -> None:
        self._by_node: dict[str, Sidecar] = {}

    def connected(self, sidecar: Sidecar) -> Sidecar | None:
        """Add a sidecar whose stream begins; returns the previous entry of its node.

        The refusals of the previous entry are kept until the sidecar acknowledges.
        """
        previous = self._by_node.pop(sidecar.node_id, None)
        if previous is not None:
            sidecar.refusals = previous.refusals
            sidecar.unreported = previous.unreported
            sidecar.acknowledged_revision = previous.acknowledged_revision
        self._by_node[sidecar.node_id] = sidecar
        if len(self._by_node) > MAX_REMEMBERED:
            del self._by_node[next(iter(self._by_node))]
        return previous

    def all(self) -> list[Sidecar]:
        """All sidecars, connected or not."""
        return list(self._by_node.values())

    def page(self, limit: int, offset: int) -> tuple[list[Sidecar], int]:
        """A page of the sidecars in order of node id, and the total."""
        ordered = sorted(self._by_node.values(), key=lambda sidecar: sidecar.node_id)
        return ordered[offset : offset + limit], len(ordered)

    def serving(self, agent_id: str, tags: Collection[str]) -> list[Sidecar]:
        """The sidecars whose current or last subscription covers this agent, in order of node id."""
        ordered = sorted(self._by_node.values(), key=lambda sidecar: sidecar.node_id)
        return [sidecar for sidecar in ordered if sidecar.subscription.covers(agent_id, tags)]

    def count(self) -> int:
        """The number of connected sidecars."""
        return sum(sidecar.connected for sidecar in self._by_node.values())


def document(sidecar: Sidecar) -> Document:
    """The sidecar as REST shows it."""
    return Document(
        to_json(
            {
                "node_id": sidecar.node_id,
                "node_name": sidecar.node_name,
                "key_name": sidecar.key_name,
                "software_version": sidecar.software_version,
                "subscription": sidecar.subscription.describe(),
                "connected": sidecar.connected,
                "connected_at": sidecar.connected_at,
                "last_heard_at": sidecar.last_heard_at,
                "sent_revision": sidecar.sent_revision,
                "acknowledged_revision": sidecar.acknowledged_revision,
                "refusals": [
                    {"kind": refusal.kind, "id": refusal.id, "problems": refusal.problems}
                    for refusal in sidecar.refusals.values()
                ],
            }
        )
    )
