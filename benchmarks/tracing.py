"""What `--traces` costs a decision: the time until its answer, and the processor's time, with that of the export.

A collector in a process of its own takes the spans. The time of gRPC and of the network is not in it.

python -m benchmarks.tracing [DECISIONS]
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.decision_log import NullLog
from pdp.core.model import Now
from pdp.endpoints.connect import Context
from pdp.endpoints.connect_messages import methods
from pdp.endpoints.service import SERVICE, DecisionService
from pdp.endpoints.tracing import traced
from pdp.serving.monitoring import traces
from pdp.serving.monitoring.tracing import Tracing
from pdp.serving.requests import Peer
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench
from tests.given import NOON, agent

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
DRAIN_SECONDS = 60.0
ROUNDS = 5


class Call(NamedTuple):
    """What an interceptor of gRPC sees of a call."""

    invocation_metadata: tuple[tuple[str, str], ...]
    method: str = f"/{SERVICE}/Evaluate"


class Measured(NamedTuple):
    """The median until the answer, and the processor's time for each decision, in microseconds."""

    answer: float
    processor: float


async def decisions(
    number: int, tracing: Tracing | None = None, metadata: tuple[tuple[str, str], ...] = ()
) -> Measured:
    """Decide so often, under the parent that the metadata name, and send the spans."""
    bench = Bench()
    bench.put(agent())
    service = DecisionService(
        bench.holder,
        bench.metrics,
        lambda: Now(NOON, 1_000_000.0),
        NullLog(),
        bench.people,
        around=None if tracing is None else partial(traced, tracing),
    )
    handler: Any = methods(service.handlers())[f"/{SERVICE}/Evaluate"].handler
    action = pb.Action(agent_id="billing-reader-test", action_type="data.read", resource="reports", risk_score=1)
    raw, context = pb.EvaluateRequest(action=action).SerializeToString(), Context(Peer())
    arrive = _nothing if tracing is None else partial(tracing.grpc().intercept_service, _nothing)
    call: Any = Call(metadata)
    taken, busy = [], time.process_time()
    for _ in range(number):
        began = time.perf_counter()
        await arrive(call)
        await handler(raw, context)
        taken.append(time.perf_counter() - began)
    if tracing is not None:
        await tracing.close(DRAIN_SECONDS)
    return Measured(median(taken) * 1e6, (time.process_time() - busy) / number * 1e6)


async def _nothing(_call: Any) -> None:
    """The rest of a call's way to its handler."""


async def with_traces(number: int, metadata: tuple[tuple[str, str], ...]) -> Measured:
    """The same with `--traces`, when no span is dropped."""
    limits = {"OTEL_BSP_MAX_QUEUE_SIZE": "65536", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with mock.patch.dict(os.environ, limits), mock.patch("pdp.serving.monitoring.tracing.FLUSH_SECONDS", DRAIN_SECONDS):
        async with traces.running("pdp", plaintext=False, drain_seconds=0) as tracing:
            return await decisions(number, tracing, metadata)


VARIANTS: dict[str, Callable[[int], Awaitable[Measured]]] = {
    "without --traces": decisions,
    "with, a parent that is not sampled": partial(with_traces, metadata=(("traceparent", f"{PARENT}00"),)),
    "with, a parent that is sampled": partial(with_traces, metadata=(("traceparent", f"{PARENT}01"),)),
}


async def measure(number: int = 10_000) -> None:
    """Print a line for each variant: the medians of rounds that alternate."""
    found: dict[str, list[Measured]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, variant in VARIANTS.items():
            found[name].append(await variant(number))
    print(f"{'':38}{'until the answer':>18}{'processor':>12}   µs, medians of {ROUNDS} times {number} decisions")
    for name, rounds in found.items():
        print(f"{name:38}{median(one.answer for one in rounds):18.1f}{median(one.processor for one in rounds):12.1f}")


def main(number: int = 10_000) -> None:
    """Measure with a collector beside this process."""
    command = [sys.executable, "-m", "tests.both.collector"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as collector:
        try:
            said: Any = collector.stdout
            endpoint = f"http://{said.readline().strip()}"
            with mock.patch.dict(os.environ, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}):
                asyncio.run(measure(number))
        finally:
            collector.terminate()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
