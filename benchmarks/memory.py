"""Memory of a sidecar for agents, their counters, and the answers remembered by idempotency key.

python -m benchmarks.memory [AGENTS] [KEYS]
"""

import gc
import json
import sys
import time
from pathlib import Path

from benchmarks.decision_log import NullLog
from pdp import wire
from pdp.core.action import Action
from pdp.core.model import Now, RecordKind, Source
from pdp.decision_point import DecisionPoint
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, build

MIB = 1 << 20
EXAMPLE = json.loads((Path(__file__).parent.parent / "examples" / "financial-agent.json").read_text())


def resident_mib() -> float:
    """Resident memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


def document(agent_id: str) -> bytes:
    """An active agent as the store sends it."""
    return json.dumps(EXAMPLE | {"agent_id": agent_id, "status": "active", "version": "1.0.0", "policies": []}).encode()


def main(agents: int = 10_000, keys: int = 100) -> None:
    """Load the agents, decide `keys` actions of each with as many keys, and print the cost of each step."""
    names = [f"financial-agent-{number:06}" for number in range(agents)]
    before = resident_mib()
    started = time.perf_counter()
    state, _ = build((RawRecord(RecordKind.AGENT, name, document(name)) for name in names), "epoch", 1)
    print(f"{agents} agents loaded in {time.perf_counter() - started:.1f} s")
    loaded = resident_mib()
    print(f"their records: {loaded - before:.1f} MiB, {(loaded - before) * 1024 / agents:.2f} KiB each")
    holder = Holder()
    holder.swap(state, Source.LIVE)
    point = DecisionPoint(holder, Metrics(), lambda: Now(time.time(), time.monotonic()), NullLog())
    for name in names:
        point.evaluate(wire.Request(Action(name, "api.read", "banking_api", risk_score=10)))
    counted = resident_mib()
    print(f"their counters: {counted - loaded:.1f} MiB, {(counted - loaded) * 1024 / agents:.2f} KiB each")
    started = time.perf_counter()
    for number in range(keys):
        for name in names:
            action = Action(name, "api.read", "banking_api", risk_score=10)
            point.evaluate(wire.Request(action, idempotency_key=f"{name}-{number:08}"))
    asked = agents * keys
    print(f"{asked} keyed decisions in {time.perf_counter() - started:.1f} s")
    answers = point.answers
    print(f"remembered answers: {resident_mib() - counted:.1f} MiB resident, {answers.bytes / MIB:.1f} MiB counted")
    print(f"  {len(answers)} answers of the bound's 64 MiB, {answers.evicted} gave way to newer ones")
    print(f"in all: {resident_mib():.1f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
