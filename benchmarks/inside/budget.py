"""The budget of a decision: what each part of it takes of the processor, in one process and without a network.

python -m benchmarks budget

`whole` is the servicer's handler, from the bytes of a request to those of the answer, with limits, a budget, ten
policies, metrics, and the record in the buffer of the log. The parts are called alone, on values like those that the
handler gives them. `the rest` is what the whole takes beside them. The records are written by a thread, under the same
interpreter lock, and sent to the store in batches.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks import compiled, report
from benchmarks.compiled import NOW
from benchmarks.inside.state import NoLog
from benchmarks.options import Options
from benchmarks.peers import rule
from benchmarks.report import Column, Table
from pdp.core.decide import charge, decide
from pdp.core.ids import DecisionIds
from pdp.core.usage import Usage
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.record import Entry, record, weight
from pdp.decision_log.redaction import NOTHING
from pdp.endpoints.connect import Context
from pdp.metrics import Metrics
from pdp.serving.requests import Peer
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench

WHOLE, REST = "whole, until the answer", "the rest"
MADE, WRITTEN = "in the thread: make the record", "in the thread: seal and write it"
TIME = Column("time", "µs")
CALLS = 1000
BATCH = 20
"""Records that are written at once, as the thread does."""
LOG_BYTES = 1 << 30


class OnlyWeighed(NoLog):
    """A log that does with a decision what the event loop does, and keeps nothing."""

    def append(self, entry: Any, *, urgent: bool) -> None:
        """Weigh it."""
        weight(entry, NOTHING)


def run(options: Options) -> None:
    """The table of `budget`."""
    notes = [f"each figure of a round is the median of {CALLS:,} calls; the ratio is to the whole"]
    table = Table("The budget of a decision", (TIME,), WHOLE, notes)
    with TemporaryDirectory() as folder:
        on_loop, in_thread = parts(DecisionLog(Path(folder), LOG_BYTES, lambda: NOW.wall))
        for _ in range(options.rounds):
            for name, micros in [*with_rest(in_turns(on_loop)).items(), *in_turns(in_thread).items()]:
                table.add(name, {TIME.name: micros / (BATCH if name == WRITTEN else 1)})
    report.write("budget", options.command("budget"), [table])


def with_rest(found: Mapping[str, float]) -> dict[str, float]:
    """The times with what the whole takes beside its parts."""
    return {**found, REST: 2 * found[WHOLE] - sum(found.values())}


def in_turns(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The microseconds of each part; they take turns, so that each finds the caches much as in a decision."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(CALLS):
        for name, work in works.items():
            began = perf_counter()
            work()
            taken[name].append(perf_counter() - began)
    return {name: median(seconds) * 1e6 for name, seconds in taken.items()}


def parts(log: DecisionLog) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]]:
    """What is measured on the event loop and in the thread of the log, by its name."""
    state, usage, metrics = compiled.state(rule.policies()), Usage(), Metrics()
    agent, action, raw = state.agents[rule.AGENT_ID], compiled.action(rule.ALLOWED), rule.request(rule.ALLOWED)
    decision = decide(agent, state.servers, action, usage, NOW)
    ids = DecisionIds(secrets.randbits)

    def answer() -> bytes:
        return compiled.answer(decision, state, usage, ids.next(NOW.wall))

    def count() -> None:
        metrics.decided(action.agent_id, decision.outcome, decision.reason, 1e-5, decision.cost_micros)
        metrics.policies.add(decision)

    entry = Entry(compiled.parsed(raw).raw, answer(), NOW.wall, 1e-5, decision.cost_micros)
    written = record(entry, NOTHING)

    def write() -> None:
        deque(log.append(deque([written] * BATCH)), maxlen=0)

    on_loop = {
        WHOLE: whole(),
        "parse the request": lambda: compiled.parsed(raw),
        "decide": lambda: decide(agent, state.servers, action, usage, NOW),
        "charge": lambda: charge(usage, decision, NOW.boot),
        "make the answer, as bytes": answer,
        "count it in the metrics": count,
        "weigh it for the log": lambda: weight(entry, NOTHING),
    }
    return on_loop, {MADE: lambda: record(entry, NOTHING), WRITTEN: write}


def whole() -> Callable[[], bytes]:
    """The handler, which never waits for anything here."""
    bench = Bench(OnlyWeighed())  # type: ignore[arg-type]  # it is used as any log
    handler: Any = compiled.evaluating(bench)
    raw, context = rule.request(rule.ALLOWED), Context(Peer())

    def call() -> bytes:
        try:
            handler(raw, context).send(None)
        except StopIteration as done:
            answered: bytes = done.value
            return answered
        raise AssertionError("the decision waited")

    if pb.EvaluateResponse.FromString(asyncio.run(_once(call))).outcome != pb.OUTCOME_ALLOW:
        raise AssertionError("the rule did not allow the action")
    return call


async def _once(call: Callable[[], bytes]) -> bytes:
    return call()
