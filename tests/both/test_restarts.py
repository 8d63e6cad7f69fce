"""Counters and spend over restarts of real sidecars: stopped, killed, with a damaged file, after a reboot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from pdp import app
from pdp.counters.file import read
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.programs import Running, started
from tests.waiting import BOUND_SECONDS, eventually, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Beside, Central, Http, settings, sidecar, store

LIMITS = {"max_actions_per_minute": None, "max_actions_per_hour": 10, "max_daily_budget_usd": 10}


def zone_of_noon() -> str:
    """A zone in which it is about noon, so that no day ends within the test."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


async def register(central: Central) -> None:
    record = FINANCIAL | LIMITS | {"time_window_timezone": zone_of_noon()}
    answer = await central.rest.call("POST", "/api/agents/registry", record)
    assert answer.status == 201, answer


class Process:
    """A sidecar as a process, and calls to it."""

    def __init__(self, program: Running, stub: PolicyDecisionPointStub, http: Http) -> None:
        self.program = program
        self.http = http
        self._stub = stub

    async def spend(self, dollars: float) -> pb.EvaluateResponse:
        action = pb.Action(
            agent_id=AGENT,
            action_type="api.read",
            resource="banking_api",
            risk_score=10,
            estimated_cost_usd=dollars,
        )
        return await self._stub.Evaluate(pb.EvaluateRequest(action=action), timeout=BOUND_SECONDS)


@asynccontextmanager
async def serving(folder: Path, central: Central) -> AsyncIterator[Process]:
    arguments = [
        "serve",
        f"--store={central.grpc_address}",
        f"--key-file={central.key_file}",
        "--all-agents",
        "--listen=127.0.0.1:0",
        "--http=127.0.0.1:0",
        f"--data-dir={folder / 'data'}",
        "--log-format=json",
    ]
    async with started("pdp", *arguments) as program:
        addresses = await program.logged("listening")
        http = Http(addresses["http"])
        await http.until_probed(200)
        async with grpc.aio.insecure_channel(addresses["grpc"][0]) as channel:
            stub = PolicyDecisionPointStub(channel)
            dry = pb.EvaluateRequest(action=pb.Action(agent_id=AGENT, action_type="api.read"), dry_run=True)
            await eventually_gives(
                lambda: stub.Evaluate(dry), lambda answer: answer.reason != pb.REASON_AGENT_NOT_REGISTERED
            )
            yield Process(program, stub, http)
        http.close()


def counted(folder: Path) -> int:
    """The number of actions of the agent in the file."""
    usage = read(folder / "data" / "counters").usage.get(AGENT)
    return 0 if usage is None else usage.hours.total


async def test_a_clean_stop_keeps_every_count(tmp_path: Path) -> None:
    """7.50 of 10 dollars, a stop at once, and the next action knows that 2.50 are left, and of every action."""
    async with store(tmp_path) as central:
        await register(central)
        async with serving(tmp_path, central) as one:
            for _ in range(3):
                answer = await one.spend(2.5)
            assert (answer.budget_remaining_usd, answer.rate_remaining.hour) == (2.5, 7)
            assert await one.program.stopped() == 0
        async with serving(tmp_path, central) as one:
            answer = await one.spend(1)
            assert (answer.budget_remaining_usd, answer.rate_remaining.hour) == (1.5, 6)
            assert (await one.spend(2)).reason == pb.REASON_BUDGET_EXCEEDED
            assert await one.program.stopped() == 0


async def test_a_kill_forgets_nothing_that_was_written(tmp_path: Path) -> None:
    """An agent that crashes its sidecar does not reset its limits."""
    async with store(tmp_path) as central:
        await register(central)
        async with serving(tmp_path, central) as one:
            for _ in range(9):
                answer = await one.spend(1)
            assert answer.budget_remaining_usd == 1
            await eventually(lambda: counted(tmp_path) == 9)
            one.program.process.kill()
            await one.program.process.wait()
        async with serving(tmp_path, central) as one:
            answer = await one.spend(0.5)
            assert (answer.budget_remaining_usd, answer.rate_remaining.hour) == (0.5, 0)
            assert (await one.spend(0)).reason == pb.REASON_RATE_LIMIT_EXCEEDED


async def test_a_damaged_file_is_logged_and_blocks(tmp_path: Path) -> None:
    """One line in the log, a metric, and no action of an agent with limits, until the file is deleted."""
    async with store(tmp_path) as central:
        await register(central)
        async with serving(tmp_path, central) as one:
            await one.spend(1)
            assert await one.program.stopped() == 0
        path = tmp_path / "data" / "counters"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        async with serving(tmp_path, central) as one:
            assert (await one.spend(0)).reason == pb.REASON_RATE_LIMIT_EXCEEDED
            lines = [line for line in one.program.lines if "counters" in line["message"]]
            assert [line["level"] for line in lines] == ["error"]
            assert "pdp_counters_damaged_total 1.0" in (await one.http.call("GET", "/metrics")).body
            assert await one.program.stopped() == 0
        assert path.with_suffix(".damaged").stat().st_size == len(data) // 2
        path.unlink()
        async with serving(tmp_path, central) as one:
            assert (await one.spend(1)).budget_remaining_usd == 9


async def spend(beside: Beside, dollars: float) -> pb.EvaluateResponse:
    return await beside.evaluate(risk_score=10, estimated_cost_usd=dollars)


async def test_another_boot_is_logged_and_keeps_every_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wall clock gives the age of earlier counts."""
    caplog.set_level("INFO")
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
            await spend(beside, 4)
        monkeypatch.setattr(app, "boot_id", lambda: "another")
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            answer = await spend(beside, 4)
            assert (answer.budget_remaining_usd, answer.rate_remaining.hour) == (2, 8)
    assert "the counters of 1 agents are from another boot" in caplog.text


async def test_a_change_of_limits_or_policies_and_a_resync_leave_the_counters(tmp_path: Path) -> None:
    """Earlier usage counts against the new limits."""
    path = f"/api/agents/registry/{AGENT}"
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
            await spend(beside, 4)
            changes: dict[str, Any] = {"max_actions_per_hour": 5, "max_daily_budget_usd": 20}
            assert (await central.rest.call("PUT", path, changes)).status == 200
            assert (await central.rest.call("POST", f"{path}/policies", HIGH_VALUE)).status == 201
            await beside.sidecar.reached(3)
            answer = await spend(beside, 4)
            assert (answer.budget_remaining_usd, answer.rate_remaining.hour) == (12, 3)
        (tmp_path / "sidecar" / "last-good").unlink()
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(3)
            answer = await spend(beside, 4)
            assert (answer.budget_remaining_usd, answer.rate_remaining.hour) == (8, 2)
