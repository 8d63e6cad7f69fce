"""Decisions in the order of their making: as they were made, and packed into columns that grow."""

from array import array
from bisect import bisect_left
from typing import NamedTuple

from pdp.outcomes.blocks import Agent, Block, Key, Row, id_of


class Allowed(NamedTuple):
    """A decision that allowed an action: what it charged in micro-dollars, at `at` (Unix seconds) in this time zone.

    `approval_id` is the approval that it used; empty: none.
    """

    decision_id: str
    agent_id: str
    zone: str
    at: float
    cost_micros: int
    approval_id: str = ""
    reported: bool = False


class Recent:
    """Decisions as they were made, at most a segment; while a thread packs them, only `reported` changes."""

    __slots__ = ("reported", "rows")

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.reported: set[str] = set()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latest(self) -> float:
        """The time of the last decision."""
        return self.rows[next(reversed(self.rows))][3]

    def get(self, decision_id: str) -> Allowed | None:
        """The decision with this id."""
        row = self.rows.get(decision_id)
        return None if row is None else Allowed(*row, reported=decision_id in self.reported)

    def marks(self) -> bytes:
        """For each decision, whether its outcome is known, as in a `Block`."""
        return bytes(map(self.reported.__contains__, self.rows)) if self.reported else bytes(len(self.rows))


class Segment:
    """Packed decisions in the order of their ids, to which later ones are added."""

    __slots__ = ("_agents", "_approvals", "_costs", "_heads", "_numbers", "_places", "_reported", "_tails", "_times")

    def __init__(self) -> None:
        self._heads, self._tails, self._times = array("Q"), array("Q"), array("d")
        self._costs, self._numbers, self._reported = array("q"), array("I"), bytearray()
        self._agents: list[Agent] = []
        self._places: dict[Agent, int] = {}
        self._approvals: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._reported)

    @property
    def latest(self) -> float:
        """The time of the last decision."""
        return self._times[-1]

    def precedes(self, block: Block) -> bool:
        """Whether all ids of a block are greater than those here."""
        return (block.heads[0], block.tails[0]) > (self._heads[-1], self._tails[-1])

    def extend(self, block: Block, reported: bytes) -> None:
        """Add a block with other marks of what is reported."""
        numbers, start = block.numbers, len(self)
        places = [self._place(agent) for agent in block.agents]
        if places != list(range(len(places))):
            numbers = array("I", map(places.__getitem__, numbers))
        self._approvals |= {start + place: approval for place, approval in block.approvals.items()}
        self._heads += block.heads
        self._tails += block.tails
        self._times += block.times
        self._costs += block.costs
        self._numbers += numbers
        self._reported += reported

    def seal(self) -> None:
        """Free what only `extend` needs."""
        self._places = {}

    def find(self, key: Key) -> int | None:
        """The place of the decision whose id has these halves."""
        head, tail = key
        if not self._heads[0] <= head <= self._heads[-1]:  # as in all segments but one
            return None
        place = bisect_left(self._heads, head)
        # A second process of the same millisecond may begin ids in the same way.
        while place < len(self) and self._heads[place] == head:
            if self._tails[place] == tail:
                return place
            place += 1
        return None

    def at(self, place: int) -> Allowed:
        """The decision at that place."""
        agent_id, zone = self._agents[self._numbers[place]]
        return Allowed(
            id_of(self._heads[place], self._tails[place]),
            agent_id,
            zone,
            self._times[place],
            self._costs[place],
            self._approvals.get(place, ""),
            bool(self._reported[place]),
        )

    def report(self, place: int) -> None:
        """Note that the outcome of the decision at that place is known."""
        self._reported[place] = 1

    def block(self) -> Block:
        """A copy."""
        return Block(
            self._heads[:],
            self._tails[:],
            self._times[:],
            self._costs[:],
            self._numbers[:],
            bytes(self._reported),
            self._agents.copy(),
            self._approvals.copy(),
        )

    def _place(self, agent: Agent) -> int:
        place = self._places.setdefault(agent, len(self._agents))
        if place == len(self._agents):
            self._agents.append(agent)
        return place
