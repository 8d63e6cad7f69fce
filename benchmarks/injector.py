"""Time of reviews: the patch alone, and over TLS 1.3 on connections that stay, while certificates are replaced.

The processor's time stands beside the clock's, which other work on the machine prolongs.

python -m benchmarks.injector [REVIEWS]
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pdp.injector import review
from pdp.injector.patch import Namespace
from pdp.injector.settings import Settings
from tests.pdp.injector.calling import PATH, Caller, Webhook, webhook
from tests.pdp.injector.cases import SETTINGS, Case, load
from tests.tls.certificates import write_pair

CALLERS = 4
REPLACE_SECONDS = 1.0
NAMES = ("plain", "several-containers", "defaulted-second-call", "cpu-too-high")


Clock = Callable[[], float]


def alone(case: Case, reviews: int, clock: Clock) -> list[float]:
    """Seconds of each review, from the bytes of the request to those of the answer."""
    settings = Settings.from_text(**SETTINGS | case.given.get("settings", {})).sidecar
    raw = json.dumps(case.request()).encode()

    def once() -> None:
        asked = review.read(raw)
        review.write(asked.uid, review.judge(asked, Namespace(asked.namespace), settings, None, native=True))

    return [_timed(once, clock) for _ in range(reviews)]


async def over_tls(case: Case, reviews: int) -> list[float]:
    """Seconds of each review as its caller sees it, one after the other on each of some connections."""
    raw = json.dumps(case.request()).encode()
    with TemporaryDirectory() as folder:
        async with webhook(Path(folder)) as served:
            replacing = asyncio.create_task(_replace(served))
            parts = await asyncio.gather(*(_ask(served, raw, reviews // CALLERS) for _ in range(CALLERS)))
            replacing.cancel()
    return [seconds for part in parts for seconds in part]


async def measure(reviews: int = 10_000) -> None:
    """Print the percentiles of each."""
    print(f"{'':42}{'p50':>10}{'p99':>10}{'max':>10}   ms, {reviews} reviews each")
    cases = {case.name: case for case in load()}
    for name in NAMES:
        _print(f"processor, alone: {name}", alone(cases[name], reviews, time.thread_time))
    _print("clock, alone: plain", alone(cases["plain"], reviews, time.perf_counter))
    _print(f"clock, over TLS, {CALLERS} callers: plain", await over_tls(cases["plain"], reviews))


async def _ask(served: Webhook, raw: bytes, reviews: int) -> list[float]:
    caller = await Caller.connect(served.injector.address, served.context())
    taken = []
    for _ in range(reviews):
        started = time.perf_counter()
        answer = await caller.call("POST", PATH, raw)
        taken.append(time.perf_counter() - started)
        assert answer.body["response"]["allowed"]  # noqa: S101 - what is refused is another path
    caller.close()
    return taken


async def _replace(served: Webhook) -> None:
    while True:
        await asyncio.sleep(REPLACE_SECONDS)
        await asyncio.to_thread(write_pair, served.folder, served.authority)


def _timed(once: Callable[[], None], clock: Clock) -> float:
    started = clock()
    once()
    return clock() - started


def _print(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    shown = (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])
    print(f"{name:42}" + "".join(f"{value * 1000:10.2f}" for value in shown))


if __name__ == "__main__":
    asyncio.run(measure(*map(int, sys.argv[1:])))
