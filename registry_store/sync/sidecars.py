"""The sidecars that are or were connected to this store, and what each has acknowledged or refused."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from pdp.core.model import RecordKind
from registry_store.documents import Document, to_json
from registry_store.sync.subscriptions import Subscription

MAX_REMEMBERED = 10_000
MAX_UNACKNOWLEDGED = 1_000
MAX_REFUSALS = 1_000
MAX_PROBLEMS = 20
"""Of one refusal."""
MAX_REFUSED_ID, MAX_PROBLEM = 256, 1_000
"""Characters of a refusal that are kept."""

Records = frozenset[tuple[RecordKind, str]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that did not compile in the sidecar, whose last good state therefore stays in force there."""

    kind: RecordKind
    id: str
    problems: tuple[str, ...]


@dataclass(slots=True)
class Sidecar:
    """One sidecar, as its stream shows it."""

    node_id: str
    key_id: str
    key_name: str
    software_version: str
    subscription: Subscription
    connected_at: datetime
    last_heard_at: datetime
    node_name: str = ""
    """What its operator calls it, for people alone."""
    connected: bool = True
    rotated: bool = False
    """Whether the store ended the stream at its scheduled end: the sidecar is expected back at once."""
    sent_revision: int = 0
    acknowledged_revision: int = 0
    refusals: dict[tuple[RecordKind, str], Refusal] = field(default_factory=dict)
    unacknowledged: deque[tuple[int, float, Records | None]] = field(default_factory=deque)

    def sent(self, revision: int, committed_at: float, records: Records | None) -> None:
        """Note a change on its way (`records` None: a snapshot), to be acknowledged."""
        self.sent_revision = revision
        self.unacknowledged.append((revision, committed_at, records))
        while len(self.unacknowledged) > MAX_UNACKNOWLEDGED:
            self.unacknowledged.popleft()

    def acknowledged(self, revision: int, refusals: list[Refusal]) -> list[float]:
        """Note that everything up to `revision` is in force but for `refusals`; returns when each was committed."""
        commits = []
        while self.unacknowledged and self.unacknowledged[0][0] <= revision:
            _, committed_at, records = self.unacknowledged.popleft()
            commits.append(committed_at)
            for key in list(self.refusals) if records is None else records:
                self.refusals.pop(key, None)
        self.acknowledged_revision = max(self.acknowledged_revision, revision)
        self.refusals |= {(refusal.kind, refusal.id): refusal for refusal in refusals}
        while len(self.refusals) > MAX_REFUSALS:
            del self.refusals[next(iter(self.refusals))]
        return [moment for moment in commits if moment]


class Sidecars:
    """All sidecars by node id; those that left are remembered, the longest silent ones forgotten first."""

    def __init__(self) -> None:
        self._by_node: dict[str, Sidecar] = {}

    def connected(self, sidecar: Sidecar) -> Sidecar | None:
        """Take in a sidecar whose stream begins; what its node refused before is kept until it acknowledges.

        Returns what was known of its node before.
        """
        previous = self._by_node.pop(sidecar.node_id, None)
        if previous is not None:
            sidecar.refusals = previous.refusals
            sidecar.acknowledged_revision = previous.acknowledged_revision
        self._by_node[sidecar.node_id] = sidecar
        if len(self._by_node) > MAX_REMEMBERED:
            del self._by_node[next(iter(self._by_node))]
        return previous

    def page(self, limit: int, offset: int) -> tuple[list[Sidecar], int]:
        """Sidecars by node id, and how many there are."""
        ordered = sorted(self._by_node.values(), key=lambda sidecar: sidecar.node_id)
        return ordered[offset : offset + limit], len(ordered)

    def serving(self, agent_id: str, tags: Collection[str]) -> list[Sidecar]:
        """Those that decide, or when last connected decided, for an agent of these tags, by node id."""
        ordered = sorted(self._by_node.values(), key=lambda sidecar: sidecar.node_id)
        return [sidecar for sidecar in ordered if sidecar.subscription.covers(agent_id, tags)]

    def count(self) -> int:
        """How many are connected."""
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
