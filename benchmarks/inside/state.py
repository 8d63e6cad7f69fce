"""The size of the registry data in force: time of `decide`, load, memory, and pauses of decisions meanwhile.

python -m benchmarks state

Each round of a number of agents is a process of its own, in which decisions are made one after the other on the event
loop, as fast as it lets them, while a snapshot is put in force, then changes of one agent, then a policy of the
organisation that binds every agent, then a snapshot in which every agent is stopped. The way from the store, and the
last good state on the disk, are not in it. Time without an answer is a pause: in time of the processor, of which other
programs take nothing, so that load of the machine makes no pauses.
"""

import asyncio
import gc
import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from statistics import median
from typing import Any, TypeAlias

from benchmarks import compiled, report
from benchmarks.compiled import NOW
from benchmarks.memory import document, resident_mib
from benchmarks.options import Options
from benchmarks.peers import rule
from benchmarks.report import ROOT, Column, Table, interleaved
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
LOG = (True, True)
BATCH_SECONDS = 0.05
QUIET_SECONDS = 0.5
SETTLE_SECONDS = 0.01
ORGANISATION_POLICY = {
    "policy_id": "pol-all",
    "policy_name": "Nothing secret",
    "created_at": "2026-01-01T00:00:00.000000Z",
    "policy_action": "block",
    "conditions": {"data_classification": ["secret"]},
}
TIME = Column("decide", "µs")
COLUMNS = (
    TIME,
    Column("load", "s"),
    Column("each", "KiB"),
    Column("change", "ms"),
    Column("longest change", "ms"),
    Column("p99, changing", "ms"),
    Column("organisation", "s"),
    Column("stop", "s"),
    Column("pause, quiet", "ms"),
    Column("pause, loading", "ms"),
    Column("pause, organisation", "ms"),
    Column("pause, stop", "ms"),
)
Conditions: TypeAlias = Callable[[int], dict[str, Any]]
ALIKE: Mapping[str, Conditions] = {
    "resources": lambda n: {"resource_in": [f"r-{n}"]},
    "action types": lambda n: {"action_type": f"type-{n}"},
    "globs": lambda n: {"resource_matches": f"customers/{n:05}/*"},
    "attributes": lambda n: {"attribute_equals": {"customer": f"c-{n}"}},
    "amounts": lambda n: {"amount_above": 1000 + n},
    "bands of amounts": lambda n: {"amount_above": 1000 + n * 7919 % 10_007, "amount_below": 1002 + n * 7919 % 10_007},
    "risks": lambda n: {"risk_above": 30 + n % 60},
    "pairs": lambda n: {"resource_in": [f"r-{n % 100}"], "action_type": f"type-{n // 100}"},
}
KINDS: Mapping[str, Conditions] = {
    **ALIKE,
    "globs of another middle": lambda n: {"resource_matches": f"*-{n:05}-*"},
    "mixed": lambda n: tuple(ALIKE.values())[n % len(ALIKE)](n),
}
"""Conditions of policy number n, which does not hold; of the last kind, each of another of the first eight."""


class NoLog:
    """A decision log that keeps nothing."""

    full = crowded = False

    async def room(self) -> None:
        """There is always room."""

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Discard it."""


def run(options: Options) -> None:
    """Both tables, and the plots of the time of `decide`."""
    policies = [by_policies(kind, options.rounds) for kind in KINDS]
    agents = Table("By the number of agents", COLUMNS, _of(AGENTS[0], "agents"))
    agents.notes = [
        "decisions are for an agent with ten policies; each other one is examples/financial-agent.json",
        f"change: the median of {CHANGES} changes of one agent, until each is in force; p99 of decisions meanwhile",
        "organisation: a policy that binds every agent; stop: a snapshot in which every agent is suspended",
        "pause: the longest time without a decision; all but `decide` is the processor time of the whole process",
    ]
    rounds = min(options.rounds, MAX_ROUNDS)
    interleaved(agents, rounds, {_of(n, "agents"): partial(with_agents, n) for n in AGENTS})
    points = {
        kind: [(number, table.median(_of(number, "policies"), TIME.name)) for number in POLICIES]
        for kind, table in zip(KINDS, policies, strict=True)
    }
    at = [(number, agents.median(_of(number, "agents"), TIME.name)) for number in AGENTS]
    plots = [
        report.plot(
            "decide_by_policies", "Time of decide by the number of policies", ("policies", "µs"), points, log=LOG
        ),
        report.plot(
            "decide_by_agents", "Time of decide by the number of agents", ("agents", "µs"), {"decide": at}, log=LOG
        ),
    ]
    report.write("state", options.command("state"), [*policies, agents], plots=plots)


def by_policies(kind: str, rounds: int) -> Table:
    """The time of `decide` by the number of policies of one kind."""
    notes = ["the rule is the last of the policies, and the only one that holds"]
    table = Table(f"decide, by the policies of an agent: {kind}", (TIME,), _of(POLICIES[0], "policies"), notes)
    numbers = POLICIES
    return interleaved(table, rounds, {_of(n, "policies"): partial(with_policies, kind, n) for n in numbers})


def with_policies(kind: str, number: int) -> dict[str, float]:
    """The time of `decide` for an agent with so many policies of this kind."""
    others = [
        {"policy_name": f"Other {n}", "policy_action": "block", "priority": n, "conditions": KINDS[kind](n)}
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
        self._request = compiled.parsed(rule.request(rule.ALLOWED))
        self._gaps = array("d")

    async def run(self) -> None:
        """Decide until cancelled."""
        last = time.process_time()
        while True:
            self._point.evaluate(self._request)
            await asyncio.sleep(0)
            now = time.process_time()
            self._gaps.append(now - last)
            last = now

    def pauses(self) -> tuple[float, float]:
        """The longest pause since the last call and the p99, in milliseconds."""
        gaps = sorted(self._gaps) or [0.0]
        del self._gaps[:]
        return gaps[-1] * 1000, gaps[len(gaps) * 99 // 100] * 1000


async def measured(number: int) -> dict[str, float]:
    """The columns of a row; the agent of the decisions is there from the beginning."""
    holder = Holder()
    replica = Replica(holder, Metrics(), lambda _state, _complete: None)
    await replica.replace(records([rule.AGENT_ID]), "epoch", 1)
    deciding = Deciding(holder)
    task = asyncio.create_task(deciding.run())
    await asyncio.sleep(QUIET_SECONDS)
    found = {"pause, quiet": deciding.pauses()[0]}
    names = [rule.AGENT_ID, *(f"agent-{n:06}-production" for n in range(1, number))]
    before = resident_mib()
    load = records(names)
    found["load"], found["pause, loading"], _ = await timed(deciding, replica.replace(load, "epoch", 2))
    found["each"] = (resident_mib() - before) * 1024 / number
    changes, p99 = [], []
    for revision in range(2, 2 + CHANGES):
        seconds, _, late = await timed(
            deciding, replica.advance(revision, revision + 1, records([names[-1]], revision))
        )
        changes.append(seconds * 1000)
        p99.append(late)
    found |= {"change": median(changes), "longest change": max(changes), "p99, changing": median(p99)}
    binding = Records()
    binding.add(RecordKind.ORGANISATION_POLICY.value, "pol-all", json.dumps(ORGANISATION_POLICY).encode())
    advance = replica.advance(2 + CHANGES, 3 + CHANGES, binding)
    found["organisation"], found["pause, organisation"], _ = await timed(deciding, advance)
    state, usage, action = holder.current, Usage(), compiled.action(rule.ALLOWED)
    assert state is not None  # noqa: S101 - it was put in force above
    agent, servers = state.agents[rule.AGENT_ID], state.servers
    del state  # so that it is the replica that frees it
    found[TIME.name] = repeated(lambda: decide(agent, servers, action, usage, NOW))
    stop = replica.replace(records(names, status="suspended"), "epoch", 4 + CHANGES)
    found["stop"], found["pause, stop"], _ = await timed(deciding, stop)
    task.cancel()
    return {column.name: found[column.name] for column in COLUMNS}


async def timed(deciding: Deciding, work: Coroutine[Any, Any, object]) -> tuple[float, float, float]:
    """The processor seconds of the work, and the longest pause and the p99 of decisions, in milliseconds."""
    await asyncio.sleep(0)
    deciding.pauses()
    began = time.process_time()
    await work
    seconds = time.process_time() - began
    await asyncio.sleep(SETTLE_SECONDS)
    return seconds, *deciding.pauses()


def records(names: list[str], revision: int = 0, status: str = "active") -> Records:
    """The agents of these names, as they come from the store; another `revision` makes other documents."""
    found = Records()
    for name in names:
        if name == rule.AGENT_ID:
            raw = json.dumps(compiled.stored(rule.policies()) | {"status": status}).encode()
        else:
            raw = document(name).replace(b'"status": "active"', f'"status": "{status}"'.encode())
        found.add(RecordKind.AGENT.value, name, raw.replace(b'"1.0.0"', f'"1.{revision}.0"'.encode()))
    return found


def _of(number: int, kind: str) -> str:
    return f"{number:,} {kind if number > 1 else kind.removesuffix('s')}"


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # as a sidecar does once it has started
    print(json.dumps(asyncio.run(measured(int(sys.argv[1])))))
