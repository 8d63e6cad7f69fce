"""Many decisions, one after the other: each is counted, logged and with the store once, and memory stays as it is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ascend import AsyncAscendClient
from tests.hostile.installation import Installation, installed
from tests.programs import run
from tests.waiting import eventually_gives
from tests.whole import Http

AGENT = "counted-agent"
IN_FLIGHT = 64
LIMIT = 2_000_000
MIN_PER_SECOND = 100
"""Decided, and received by the store; less fails the test, which so ends."""
START_SECONDS = 60.0
POLL_SECONDS = 0.25
WARM_UP = 0.1
"""This share of the decisions, at most `MAX_WARM_UP`, fills what is remembered of the newest ones."""
MAX_WARM_UP = 100_000
MAX_GROWTH_BYTES = 12 << 20
"""Of resident memory after the warm-up: 13 bytes of each of a million decisions."""


@asynccontextmanager
async def counting(folder: Path) -> AsyncIterator[Installation]:
    """A store and a sidecar as processes, with an agent that is counted."""
    async with installed(folder, sidecars=1) as installation:
        limits = {"max_actions_per_minute": None, "max_actions_per_hour": None, "max_actions_per_day": LIMIT}
        record = {"agent_id": AGENT, "display_name": AGENT} | limits
        await installation.admin.call("POST", "/api/agents/registry", record)
        revision = installation.revision()
        http = Http(installation.sidecar_addresses[0][1])
        await eventually_gives(lambda: samples(http), lambda found: found["pdp_registry_revision"] >= revision)
        http.close()
        yield installation


class Made(NamedTuple):
    """A decision: its id, and how many actions the limit of the day admits after it."""

    decision_id: str
    remaining: int | None


async def decided(client: AsyncAscendClient, count: int) -> list[Made]:
    """So many decisions, 64 at a time; each is an allow."""
    left = iter(repeat(None, count))
    made: list[Made] = []

    async def ask() -> None:
        for _ in left:
            decision = await client.evaluate_action("api.read", "orders", risk_score=10)
            assert decision.allowed, decision
            made.append(Made(decision.decision_id, decision.rate_remaining.day))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(ask())
    return made


async def samples(http: Http) -> dict[str, float]:
    """The sums of the sidecar's metrics over their labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families((await http.call("GET", "/metrics")).body):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def shipped(http: Http, count: int) -> None:
    """Returns once the store has acknowledged so many decisions; the caller bounds the wait."""
    while (await samples(http))["pdp_decisions_shipped_total"] < count:  # noqa: ASYNC110 - of another program
        await asyncio.sleep(POLL_SECONDS)


PROTOCOLS: dict[str, Callable[[str, str], str]] = {
    "gRPC": lambda grpc, http: grpc,
    "Connect": lambda grpc, http: f"http://{http}",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("count", [3000, pytest.param(1_000_000, marks=pytest.mark.soak)], ids=["short", "full"])
async def test_each_decision_is_counted_logged_and_kept_once(tmp_path: Path, protocol: str, count: int) -> None:
    """In flat memory: after the warm-up it grows by at most 12 MiB."""
    async with counting(tmp_path) as installation, asyncio.timeout(START_SECONDS + count / MIN_PER_SECOND):
        (sidecar,), (addresses,) = installation.sidecars, installation.sidecar_addresses
        http = Http(addresses[1])
        address = PROTOCOLS[protocol](*addresses)
        async with AsyncAscendClient("", AGENT, AGENT, pdp_address=address, timeout=START_SECONDS) as client:
            warm_up = min(int(count * WARM_UP), MAX_WARM_UP)
            made = await decided(client, warm_up)
            await shipped(http, warm_up)
            warm_bytes = sidecar.resident_bytes()
            made += await decided(client, count - warm_up)
        await shipped(http, count)
        grown_bytes = sidecar.resident_bytes() - warm_bytes
        counted = (await samples(http))["pdp_decisions_total"]
        newest = await installation.admin.call("GET", f"/api/decisions?agent_id={AGENT}&limit=1")
        http.close()
        await installation.stop()
        recorded = installation.recorded()
    ids = {one.decision_id for one in made}
    assert (counted, len(made), len(ids)) == (count, count, count)
    assert (len(recorded - ids), len(ids - recorded)) == (0, 0)
    assert min(one.remaining or 0 for one in made) == LIMIT - count
    assert (newest["missing"], newest["breaks"], newest["decisions"][0]["sequence"]) == (0, 0, count)
    assert (await run("pdp", "verify-log", f"--data-dir={tmp_path / 'sidecar-0'}")).code == 0
    assert grown_bytes <= MAX_GROWTH_BYTES
    assert [fault for program in installation.programs() for fault in program.log_faults()] == []
