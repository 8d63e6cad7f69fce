"""The size of the registry data in force: time of `decide`, load, memory, and pauses of decisions meanwhile.

python -m benchmarks state

Each round of a number of agents is a process of its own, in which decisions are made one after the other on the event
loop, as fast as it lets them, while a snapshot is put in force and then changes of one agent. The way from the store,
and the last good state on the disk, are not in it. Time without an answer is a pause.
"""

import asyncio
import json
import subprocess
import sys
import time
from array import array
from functools import partial
from typing import Any

from benchmarks import compiled, report
from benchmarks.compiled import NOW
from benchmarks.memory import document, resident_mib
from benchmarks.options import Options
from benchmarks.peers import rule
from benchmarks.report import ROOT, Column, Table, interleaved
from pdp import wire
from pdp.app import SWITCH_SECONDS
from pdp.core.decide import decide
from pdp.core.model import Outcome, RecordKind
from pdp.core.usage import Usage
from pdp.decision_log.record import Entry, Note
from pdp.decision_point import DecisionPoint
from pdp.metrics import Metrics
from pdp.state import Holder
from pdp.sync.replica import Records, Replica

POLICIES = (10, 100, 1_000, 10_000)
AGENTS = (1, 1_000, 10_000, 100_000)
CHANGES = 20
MAX_ROUNDS = 2
BATCH_SECONDS = 0.05
QUIET_SECONDS = 0.5
TIME = Column("decide", "µs")
COLUMNS = (
    TIME,
    Column("load", "s"),
    Column("each", "KiB"),
    Column("pause, loading", "ms"),
    Column("change", "ms"),
    Column("longest", "ms"),
    Column("pause, changing", "ms"),
    Column("pause, neither", "ms"),
)


class NoLog:
    """A decision log that keeps nothing."""

    full = crowded = False

    async def room(self) -> None:
        """There is always room."""

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Discard it."""


def run(options: Options) -> None:
    """Both tables, and the plots of the time of `decide`."""
    rounds = min(options.rounds, MAX_ROUNDS)
    policies = Table("decide, by the policies of an agent", (TIME,), _of(POLICIES[0], "policies"))
    policies.notes = ["the rule is the last of them; the other policies are about other resources"]
    interleaved(policies, options.rounds, {_of(n, "policies"): partial(with_policies, n) for n in POLICIES})
    agents = Table("By the number of agents", COLUMNS, _of(AGENTS[0], "agents"))
    agents.notes = [
        "decisions are for an agent with ten policies; each other one is examples/financial-agent.json",
        f"change: the median of {CHANGES} changes of one agent, until each is in force, and the longest of them",
        "pause: the longest time without a decision while all agents are loaded, while one is changed, and in between",
    ]
    interleaved(agents, rounds, {_of(n, "agents"): partial(with_agents, n) for n in AGENTS})
    plots = []
    for table, kind, numbers in ((policies, "policies", POLICIES), (agents, "agents", AGENTS)):
        points = [(number, table.median(_of(number, kind), TIME.name)) for number in numbers]
        title = f"Time of decide by the number of {kind}"
        plots.append(report.plot(f"decide_by_{kind}", title, (kind, "µs"), {"decide": points}, log=(True, False)))
    report.write("state", options.command("state"), [policies, agents], plots=plots)


def with_policies(number: int) -> dict[str, float]:
    """The time of `decide` for an agent with so many policies."""
    others = [
        {
            "policy_name": f"Other {n}",
            "policy_action": "block",
            "priority": n,
            "conditions": {"resource_in": [f"r-{n}"]},
        }
        for n in range(1, number)
    ]
    return {TIME.name: decide_micros([*others, rule.RULE | {"priority": number}])}


def decide_micros(policies: list[dict[str, Any]]) -> float:
    """The processor time of one decision for the rule's agent with these policies."""
    state, usage, action = compiled.state(policies), Usage(), compiled.action(rule.ALLOWED)
    agent = state.agents[rule.AGENT_ID]
    if decide(agent, state.servers, action, usage, NOW).outcome is not Outcome.ALLOW:
        raise AssertionError("the rule did not decide")
    return repeated(lambda: decide(agent, state.servers, action, usage, NOW))


def repeated(work: Any) -> float:
    """Microseconds of processor time for one call of `work`."""
    calls, began, spent = 0, time.thread_time(), 0.0
    while spent < BATCH_SECONDS:
        for _ in range(50):
            work()
        calls += 50
        spent = time.thread_time() - began
    return spent / calls * 1e6


def with_agents(number: int) -> dict[str, float]:
    """One round with so many agents, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inside.state", str(number)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


class Deciding:
    """Decisions one after the other, and how long each turn of the event loop took until the next one."""

    def __init__(self, holder: Holder) -> None:
        self._point = DecisionPoint(holder, Metrics(), lambda: NOW, NoLog())
        self._request = wire.Request(compiled.action(rule.ALLOWED))
        self._gaps = array("d")

    async def run(self) -> None:
        """Decide until cancelled."""
        last = time.perf_counter()
        while True:
            self._point.evaluate(self._request)
            await asyncio.sleep(0)
            now = time.perf_counter()
            self._gaps.append(now - last)
            last = now

    def longest_ms(self) -> float:
        """The longest pause since the last call."""
        longest = max(self._gaps, default=0.0) * 1000
        del self._gaps[:]
        return longest


async def measured(number: int) -> dict[str, float]:
    """The columns of a row; the agent of the decisions is there from the beginning."""
    holder = Holder()
    replica = Replica(holder, Metrics(), lambda _state, _complete: None)
    await replica.replace(records([rule.AGENT_ID]), "epoch", 1)
    deciding = Deciding(holder)
    task = asyncio.create_task(deciding.run())
    await asyncio.sleep(QUIET_SECONDS)
    quiet = deciding.longest_ms()
    names = [rule.AGENT_ID, *(f"agent-{n:06}-production" for n in range(1, number))]
    before = resident_mib()
    snapshot = records(names)
    await asyncio.sleep(0)
    deciding.longest_ms()
    began = time.perf_counter()
    await replica.replace(snapshot, "epoch", 2)
    loaded, loading = time.perf_counter() - began, deciding.longest_ms()
    del snapshot
    each = (resident_mib() - before) * 1024 / number
    await asyncio.sleep(0)
    deciding.longest_ms()
    changes = [await changed(replica, names[-1], revision) for revision in range(2, 2 + CHANGES)]
    changing = deciding.longest_ms()
    task.cancel()
    state, usage, action = holder.current, Usage(), compiled.action(rule.ALLOWED)
    assert state is not None  # noqa: S101 - it was put in force above
    micros = repeated(lambda: decide(state.agents[rule.AGENT_ID], state.servers, action, usage, NOW))
    values = (micros, loaded, each, loading, sorted(changes)[CHANGES // 2], max(changes), changing, quiet)
    return dict(zip((column.name for column in COLUMNS), values, strict=True))


async def changed(replica: Replica, name: str, revision: int) -> float:
    """Milliseconds until a change of this agent is in force."""
    change = records([name])
    began = time.perf_counter()
    await replica.advance(revision, revision + 1, change)
    return (time.perf_counter() - began) * 1000


def records(names: list[str]) -> Records:
    """The agents of these names, as they come from the store."""
    found = Records()
    for name in names:
        of_rule = json.dumps(compiled.stored(rule.policies())).encode() if name == rule.AGENT_ID else None
        found.add(RecordKind.AGENT.value, name, of_rule or document(name))
    return found


def _of(number: int, kind: str) -> str:
    return f"{number:,} {kind if number > 1 else kind.removesuffix('s')}"


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    print(json.dumps(asyncio.run(measured(int(sys.argv[1])))))
