"""A sidecar's counters on a machine with test clocks: stopped, killed, started again, rebooted."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from pdp.core.action import Action
from pdp.core.decide import decide
from pdp.core.localtime import local_time
from pdp.core.model import Now, Outcome, RecordKind
from pdp.counters.content import Moment
from pdp.counters.writer import FLUSH_SECONDS, CountersWriter
from pdp.state import RawRecord, build
from tests.given import NOON, agent


class Inline:
    """Runs disk work in the test itself; `before` runs before each piece of work."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.before = before

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        self.before()
        return work()


def finish(work: Awaitable[None]) -> None:
    """Run a coroutine to its end; it may yield, but never waits."""
    for waited_for in work.__await__():
        assert waited_for is None


class Admitted(NamedTuple):
    """One action that was admitted: when in true time, on which local day by the wall clock, and its cost."""

    at: float
    day: int
    micros: int


class Machine:
    """One agent with limits, its sidecar, and the clocks: true time, boot clock, and a wall clock that may be wrong."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.path = folder / "counters"
        self.agent_id = "billing-reader-test"
        record = RawRecord(RecordKind.AGENT, self.agent_id, json.dumps(agent(self.agent_id, **fields)).encode())
        self.state, _ = build([record], "epoch", 1)
        self.agent = self.state.agents[self.agent_id]
        self.time = 1_000_000.0
        self.booted, self.boots, self.wrong = 0.0, 1, 0.0
        self.admitted: list[Admitted] = []
        self.unwritten: list[Admitted] = []
        self.start()

    @property
    def now(self) -> Now:
        return Now(NOON + self.time + self.wrong, self.time - self.booted)

    def start(self) -> None:
        self.sidecar = CountersWriter(self.path, f"boot-{self.boots}", lambda: self.now)

    def ask(self, dollars: float = 0.0) -> bool:
        """Whether one more action is admitted now."""
        now, counters = self.now, self.sidecar.counters
        action = Action(self.agent_id, "api.read", risk_score=0, estimated_cost_micros=round(dollars * 1e6))
        usage = counters.of(self.agent_id, self.agent.zone, now.boot)
        decision = decide(self.agent, self.state.servers, action, usage, now)
        counters.charge(self.agent_id, usage, decision, now.boot)
        if decision.outcome is Outcome.ALLOW:
            one = Admitted(self.time, local_time(self.agent.zone, now.wall).day, decision.cost_micros)
            self.admitted.append(one)
            self.unwritten.append(one)
        return decision.outcome is Outcome.ALLOW

    def ask_all(self, dollars: float = 0.0, most: int = 10_000) -> int:
        """How many actions are admitted one after the other."""
        return next((count for count in range(most) if not self.ask(dollars)), most)

    def wait(self) -> float:
        """The wait of the rate limits, as the sidecar reports it."""
        usage = self.sidecar.counters.of(self.agent_id, self.agent.zone, self.now.boot)
        return usage.wait(self.agent.limits, self.now.boot)

    def flush(self) -> None:
        finish(self.sidecar._flush(Inline()))
        self.unwritten.clear()

    def advance(self, seconds: float) -> None:
        """Let time pass; the sidecar writes half a second after what it admitted."""
        first = min(seconds, FLUSH_SECONDS)
        self.time += first
        self.flush()
        self.time += seconds - first

    def step(self, seconds: float) -> None:
        """Set the wall clock, which the sidecar sees within half a second."""
        self.wrong += seconds
        self.advance(FLUSH_SECONDS)

    def stop(self) -> None:
        self.sidecar.close()
        finish(self.sidecar.run(Inline()))
        self.unwritten.clear()

    def kill(self) -> None:
        """Kill it: unwritten charges are lost."""
        self.sidecar._file.close()
        for one in self.unwritten:
            self.admitted.remove(one)
        self.unwritten.clear()

    def kill_while_writing(self, share: float) -> None:
        """Kill it during a write, of which the disk has a part."""
        before, place = self.path.read_bytes(), self.path.stat().st_ino
        finish(self.sidecar._flush(Inline()))
        after = self.path.read_bytes()
        if self.path.stat().st_ino == place and self.unwritten:
            changed = [at for at in range(len(after)) if after[at] != before[at]]
            cut = changed[0] + int(share * (changed[-1] - changed[0]))
            self.path.write_bytes(after[:cut] + before[cut:])
        self.kill()

    def reboot(self, seconds: float, *, right: bool, early: float = 0.0) -> None:
        """Reboot the machine after some time and start the sidecar; the wall clock may be corrected."""
        self.time += seconds
        self.booted, self.boots = self.time - early, self.boots + 1
        self.wrong = 0.0 if right else self.wrong
        self.start()


def moment(now: Now) -> Moment:
    return Moment(now.wall, now.boot, now.wall)
