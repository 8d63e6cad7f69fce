"""The usage of every agent in memory, and the charges that are not on disk yet."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from pdp.core.decide import BLOCK, charge
from pdp.core.decision import Decision
from pdp.core.localtime import local_time
from pdp.core.model import Now
from pdp.core.usage import IDLE_SECONDS, UNKNOWN_ACTIONS, Usage

MAX_SECONDS = 120


class Charges(NamedTuple):
    """The charges of one agent: actions by second of the boot clock, in order, and micro-dollars by local day.

    A day may be negative: actions cost less than they were charged before.
    """

    actions: dict[int, int]
    micros: dict[int, int]


class Counters:
    """The usage of every agent; for the event loop alone.

    The counts up to `lost_until` are unknown: every limit and budget counts as used up until then.
    """

    def __init__(self, usage: dict[str, Usage] | None = None, lost_until: Now | None = None) -> None:
        self.usage = {} if usage is None else usage
        self.lost_until = lost_until
        self._oldest_first = deque(self.usage)
        self._charges: dict[str, Charges] = {}
        self._recording = False

    def of(self, agent_id: str, zone: str, boot: float) -> Usage:
        """The usage of an agent whose days are those of `zone`; a new one if it has none yet."""
        return self.usage.get(agent_id) or self._new(agent_id, zone, boot)

    def charge(self, agent_id: str, usage: Usage, decision: Decision, boot: float) -> None:
        """Count a decision that is returned."""
        if decision.outcome is BLOCK:
            return
        charge(usage, decision, boot)
        if self._recording:
            actions, micros = self._charges.get(agent_id) or self._new_charges(agent_id)
            second, day = int(boot), decision.day
            actions[second] = actions.get(second, 0) + 1
            if decision.cost_micros:
                micros[day] = micros.get(day, 0) + decision.cost_micros
            if len(actions) > MAX_SECONDS:  # the disk is stuck; a later second makes the actions count for longer
                total = sum(actions.values())
                actions.clear()
                actions[second] = total

    def settle(self, agent_id: str, day: int, difference: int) -> None:
        """Correct the spend of a local day by what an action cost beyond its estimate; negative: less."""
        usage = self.usage.get(agent_id)
        if usage is None or not difference:
            return
        usage.settle(day, difference)
        if self._recording:
            micros = (self._charges.get(agent_id) or self._new_charges(agent_id)).micros
            micros[day] = micros.get(day, 0) + difference

    def record(self) -> None:
        """Start to record charges for `take`."""
        self._recording = True

    def take(self) -> dict[str, Charges]:
        """The charges since the last call, by agent."""
        taken, self._charges = self._charges, {}
        return taken

    def copies(self, agent_ids: Iterable[str], boot: float) -> dict[str, Usage]:
        """Copies of the usage of these agents, without idle and removed ones."""
        held = ((agent_id, self.usage.get(agent_id)) for agent_id in agent_ids)
        return {agent_id: usage.copy() for agent_id, usage in held if usage is not None and not usage.is_idle(boot)}

    def _new(self, agent_id: str, zone: str, boot: float) -> Usage:
        # Each new agent checks two others, so that idle ones are removed without a sweep that decisions wait for.
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

    def _new_charges(self, agent_id: str) -> Charges:
        charges = self._charges[agent_id] = Charges({}, {})
        return charges
