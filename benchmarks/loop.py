"""Time from an approval until the agent that waits goes on, and from the cause of a suspension until it is everywhere.

python -m benchmarks.loop [ROUNDS]

A store on SQLite and two sidecars run as programs of their own. An approval counts from the request to approve until
the waiting agent has asked again and is allowed. A suspension counts from sending the action or outcome that causes it
to the first sidecar until the second one, asked again and again, refuses the agent. An agent that no sidecar serves is
watched in minutes, so the fourth trigger is left out.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ascend import AgentAction, AsyncAscendClient
from tests.hostile.installation import Installation, installed
from tests.waiting import eventually_gives

MAX_RESUME_SECONDS = 0.2
MAX_SUSPENSION_SECONDS = 1.0
MIN_REPORTED = 20
"""Outcomes that are reported before an error rate suspends."""
CHEAP = AgentAction(action_type="data.read", resource="reports", risk_score=1)
DEAR = AgentAction(action_type="data.read", resource="reports", risk_score=1, estimated_cost_usd=2)
HELD = AgentAction(action_type="transaction.process", resource="banking_api", risk_score=50)

Round = Callable[[Installation, Sequence[AsyncAscendClient], str], Awaitable[float]]
"""One measurement, in seconds, with an agent of its own."""


async def approval(place: Installation, clients: Sequence[AsyncAscendClient], agent_id: str) -> float:
    """An agent that waits for people in `run`."""
    await _register(place, clients, agent_id)
    gone_on = 0.0

    async def go_on() -> None:
        nonlocal gone_on
        gone_on = time.perf_counter()

    waiting = asyncio.create_task(clients[0].run(HELD, go_on, agent_id=agent_id))
    approval_id = await _pending(place, agent_id)
    began = time.perf_counter()
    await place.admin.call("POST", f"/api/approvals/{approval_id}/approve", {})
    await waiting
    return gone_on - began


async def exceeded_rate(place: Installation, clients: Sequence[AsyncAscendClient], agent_id: str) -> float:
    """The second action of an agent that may take one in a minute."""
    await _register(place, clients, agent_id, auto_suspend_on_rate_exceeded=True, max_actions_per_minute=1)
    await clients[0].evaluate(CHEAP, agent_id=agent_id)
    return await _suspended(clients, agent_id, lambda: clients[0].evaluate(CHEAP, agent_id=agent_id))


async def exceeded_budget(place: Installation, clients: Sequence[AsyncAscendClient], agent_id: str) -> float:
    """An action that costs more than its agent may spend in a day."""
    await _register(place, clients, agent_id, auto_suspend_on_budget_exceeded=True, max_daily_budget_usd=1)
    return await _suspended(clients, agent_id, lambda: clients[0].evaluate(DEAR, agent_id=agent_id))


async def error_rate(place: Installation, clients: Sequence[AsyncAscendClient], agent_id: str) -> float:
    """The last of the failures that make an error rate."""
    await _register(place, clients, agent_id, auto_suspend_on_error_rate=0.5)
    decisions = [await clients[0].evaluate(CHEAP, agent_id=agent_id) for _ in range(MIN_REPORTED)]

    async def fail(number: int) -> None:
        await clients[0].report_outcome(decisions[number], error="failed", agent_id=agent_id)

    for number in range(MIN_REPORTED - 1):
        await fail(number)
    return await _suspended(clients, agent_id, lambda: fail(MIN_REPORTED - 1))


MEASURED: dict[str, tuple[Round, float]] = {
    "approved, until the agent goes on": (approval, MAX_RESUME_SECONDS),
    "rate exceeded, until suspended at the other": (exceeded_rate, MAX_SUSPENSION_SECONDS),
    "budget exceeded, until suspended at the other": (exceeded_budget, MAX_SUSPENSION_SECONDS),
    "error rate, until suspended at the other": (error_rate, MAX_SUSPENSION_SECONDS),
}


async def _register(place: Installation, clients: Sequence[AsyncAscendClient], agent_id: str, **fields: Any) -> None:
    """Register an agent that suspends by itself, and return once both sidecars have it."""
    suspends = {"auto_suspend_enabled": any(name.startswith("auto_suspend") for name in fields)}
    body = {"agent_id": agent_id, "display_name": agent_id} | suspends | fields
    await place.admin.call("POST", "/api/agents/registry", body)
    for client in clients:
        ask = partial(client.evaluate, CHEAP, agent_id=agent_id, dry_run=True)
        await eventually_gives(ask, lambda decision: decision.reason != "AGENT_NOT_REGISTERED")


async def _pending(place: Installation, agent_id: str) -> str:
    ask = partial(place.admin.call, "GET", f"/api/approvals?status=pending&agent_id={agent_id}")
    found = await eventually_gives(ask, lambda answer: answer["approvals"])
    approval_id: str = found["approvals"][0]["approval_id"]
    return approval_id


async def _suspended(
    clients: Sequence[AsyncAscendClient], agent_id: str, cause: Callable[[], Awaitable[object]]
) -> float:
    """Seconds from `cause` until the other sidecar refuses the agent."""
    began = time.perf_counter()
    await cause()
    ask = partial(clients[1].evaluate, CHEAP, agent_id=agent_id, dry_run=True)
    while (await ask()).reason != "AGENT_NOT_ACTIVE":  # noqa: ASYNC110 - the condition is of another program
        await asyncio.sleep(0.001)
    return time.perf_counter() - began


async def measure(rounds: int) -> None:
    """Print a line for each kind of measurement, whose rounds alternate."""
    taken: dict[str, list[float]] = {name: [] for name in MEASURED}
    with tempfile.TemporaryDirectory() as folder:
        async with installed(Path(folder)) as place:
            clients = [AsyncAscendClient("", "", "", pdp_address=grpc) for grpc, _ in place.sidecar_addresses]
            try:
                for number in range(rounds):
                    for kind, (name, (once, _)) in enumerate(MEASURED.items()):
                        taken[name].append(await once(place, clients, f"agent-{kind}-{number}-test"))
            finally:
                for client in clients:
                    await client.close()
    print(f"{rounds} rounds, ms{'':34}  median     p99     max   bound  max/bound")
    for name, seconds in taken.items():
        _, bound = MEASURED[name]
        p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
        times = "".join(f"{value * 1000:8.1f}" for value in (statistics.median(seconds), p99, max(seconds)))
        print(f"{name:46}{times}{bound * 1000:8.0f}{max(seconds) / bound:11.2f}")


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
