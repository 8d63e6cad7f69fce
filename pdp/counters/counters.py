"""What every agent has used, in memory, and the charges that are not on the disk yet."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from pdp.core.compile import CompiledAgent
from pdp.core.decide import charge
from pdp.core.decision import Decision
from pdp.core.localtime import local_time
from pdp.core.model import Now, Outcome
from pdp.core.usage import IDLE_SECONDS, UNKNOWN_ACTIONS, Usage

MAX_UNSORTED = 1000
MAX_SECONDS = 120


class Charges(NamedTuple):
    """What one agent was charged: actions by second of the boot clock, in order, and micro-dollars by local day."""

    actions: dict[int, int]
    micros: dict[int, int]


class Counters:
    """The usage of every agent; for the event loop alone.

    `lost_until`: what was counted up to that moment is not known, and counts as used, whoever used it.
    """

    def __init__(self, usage: dict[str, Usage] | None = None, lost_until: Now | None = None) -> None:
        self.usage = {} if usage is None else usage
        self.lost_until = lost_until
        self._oldest_first = deque(self.usage)
        self._unsorted: list[tuple[str, str, Now, int]] = []
        self._charges: dict[str, Charges] = {}
        self._recording = False

    def of(self, agent_id: str, zone: str, boot: float) -> Usage:
        """The usage of an agent whose days are those of `zone`; a new one where it has none yet."""
        return self.usage.get(agent_id) or self._new(agent_id, zone, boot)

    def charge(self, agent_id: str, agent: CompiledAgent, usage: Usage, decision: Decision, now: Now) -> None:
        """Count a decision that is given."""
        if decision.outcome is Outcome.BLOCK:
            return
        charge(agent, usage, decision, now)
        if self._recording:
            self._unsorted.append((agent_id, agent.zone, now, decision.cost_micros))
            if len(self._unsorted) >= MAX_UNSORTED:
                self._sort()

    def record(self) -> None:
        """From now on keep what is charged, for `take`."""
        self._recording = True

    def take(self) -> dict[str, Charges]:
        """What was charged since it was last taken, by agent."""
        self._sort()
        taken, self._charges = self._charges, {}
        return taken

    def copies(self, agent_ids: Iterable[str], boot: float) -> dict[str, Usage]:
        """What these agents have used up to now; those that are idle or gone are left out."""
        held = ((agent_id, self.usage.get(agent_id)) for agent_id in agent_ids)
        return {agent_id: usage.copy() for agent_id, usage in held if usage is not None and not usage.is_idle(boot)}

    def _new(self, agent_id: str, zone: str, boot: float) -> Usage:
        # Two others are looked at for each that comes, so that idle ones go and nobody waits for a sweep of all.
        for _ in range(min(2, len(self._oldest_first))):
            other = self._oldest_first.popleft()
            if self.usage[other].is_idle(boot):
                del self.usage[other]
            else:
                self._oldest_first.append(other)
        self._oldest_first.append(agent_id)
        usage = Usage()
        if self.lost_until is not None and boot - self.lost_until.boot < IDLE_SECONDS:
            second, day = int(self.lost_until.boot), local_time(zone, self.lost_until.wall).day
            usage = Usage.unknown(second, day)
            self._charges[agent_id] = Charges({second: UNKNOWN_ACTIONS}, usage.micros_by_day.copy())
        self.usage[agent_id] = usage
        return usage

    def _sort(self) -> None:
        for agent_id, zone, now, micros in self._unsorted:
            charges = self._charges.get(agent_id)
            if charges is None:
                charges = self._charges[agent_id] = Charges({}, {})
            actions, second = charges.actions, int(now.boot)
            actions[second] = actions.get(second, 0) + 1
            if len(actions) > MAX_SECONDS:  # the disk stands still; what counts as later counts for longer
                together = sum(actions.values())
                actions.clear()
                actions[second] = together
            if micros:
                day = local_time(zone, now.wall).day
                charges.micros[day] = charges.micros.get(day, 0) + micros
        self._unsorted.clear()
