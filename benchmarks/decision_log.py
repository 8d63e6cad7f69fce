"""Cost of the decision log: on the decision path, in the writing thread, and for the event loop beside it.

python -m benchmarks.decision_log
"""

import json
import platform
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pdp import wire
from pdp.app import SWITCH_SECONDS
from pdp.core.model import Now, RecordKind, Source
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.record import Entry, Note, record
from pdp.decision_log.redaction import NOTHING
from pdp.decision_log.spool import Spool
from pdp.decision_point import DecisionPoint
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, build
from pdp.v1 import decision_pb2 as pb

EXAMPLES = Path(__file__).parent.parent / "examples"
AGENT = json.loads((EXAMPLES / "financial-agent.json").read_text())
POLICY = json.loads((EXAMPLES / "high-value-policy.json").read_text())
ROUNDS, CALLS = 400, 50
BATCHES = 50


class NullLog:
    """A log that discards every entry."""

    full = crowded = False

    async def room(self) -> None:
        """There is always room."""

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Discard it."""


class LastEntryLog(NullLog):
    """A log that keeps the newest entry of a decision."""

    def append(self, entry: Entry | Note, *, urgent: bool) -> None:
        """Keep it."""
        if isinstance(entry, Entry):
            self.entry = entry


def point(log: NullLog | Spool) -> DecisionPoint:
    """A decision point with one agent of one policy and no limits."""
    limits = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")}
    policies = [POLICY | {"policy_id": "p-1", "created_at": "2026-01-01T00:00:00.000000Z"}]
    record = AGENT | limits | {"status": "active", "version": "1.0.0", "policies": policies}
    state, _ = build([RawRecord(RecordKind.AGENT, AGENT["agent_id"], json.dumps(record).encode())], "epoch", 1)
    holder = Holder()
    holder.swap(state, Source.LIVE)
    return DecisionPoint(holder, Metrics(), lambda: Now(time.time(), time.monotonic()), log)


REQUEST = wire.read_request(
    pb.EvaluateRequest(
        action=pb.Action(agent_id=AGENT["agent_id"], action_type="api.read", resource="banking_api", risk_score=10)
    )
)


def micros(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Microseconds per call: the best of many short rounds, to exclude other work on the machine."""
    best = float("inf")
    for _ in range(ROUNDS):
        before()
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        best = min(best, time.perf_counter() - started)
    return best / CALLS * 1e6


def measure_decision_path(folder: Path) -> None:
    """Time of a decision without the log and with it."""
    free, spool = point(NullLog()), Spool(DecisionLog(folder, 1 << 30, time.time))
    logged = point(spool)
    without = micros(lambda: free.evaluate(REQUEST))
    with_log = micros(lambda: logged.evaluate(REQUEST), spool._take)
    print(f"a decision: {without:.1f} us without the log, {with_log:.1f} us with it")
    spool._writer.end()  # not `end`, which would log the entries taken here as lost


def measure_thread(folder: Path, entry: Entry) -> None:
    """Time of the thread per record: to create, chain and write it, and to read it for upload."""
    written = record(entry, NOTHING)
    batch = [written] * 1000
    log = DecisionLog(folder, 1 << 30, time.time)
    started = time.process_time()
    for _ in range(BATCHES):
        deque(log.append(deque(batch)), maxlen=0)
    appended = (time.process_time() - started) / BATCHES / len(batch) * 1e6
    started = time.process_time()
    while batches := log.after(log.kept, 1000, 2 << 20):
        log.keep(batches[-1].last)
    read = (time.process_time() - started) / BATCHES / len(batch) * 1e6
    made = micros(lambda: record(entry, NOTHING))
    size = f"a record of {len(written)} bytes"
    print(f"{size}: {made:.2f} us to make, {appended:.2f} to seal and write, {read:.2f} to read again")


def measure_lag(switch_seconds: float, entry: Entry) -> None:
    """Lag of an event loop while the thread creates records, by Python's switch interval."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            record(entry, NOTHING)

    sys.setswitchinterval(switch_seconds)
    thread = threading.Thread(target=write)
    thread.start()
    late = []
    for _ in range(500):
        started = time.perf_counter()
        time.sleep(0.002)
        late.append((time.perf_counter() - started - 0.002) * 1e3)
    stop.set()
    thread.join()
    half = statistics.median(late)
    print(f"late by {half:.2f} ms at the median, at a switch interval of {switch_seconds * 1e3:g} ms")


def main() -> None:
    """Print the time of each part."""
    last = LastEntryLog()
    point(last).evaluate(REQUEST)
    print(f"Python {platform.python_version()}")
    with TemporaryDirectory() as folder:
        measure_decision_path(Path(folder) / "path")
        measure_thread(Path(folder) / "thread", last.entry)
    for switch_seconds in (sys.getswitchinterval(), SWITCH_SECONDS):
        measure_lag(switch_seconds, last.entry)


if __name__ == "__main__":
    main()
