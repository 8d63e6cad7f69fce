"""Honest callers of the attacked sidecars: their answers are compared with the expected ones."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc

from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.hostile.installation import (
    BUDGET_DOLLARS,
    HONEST,
    LIMIT_PER_MINUTE,
    LIMITED,
    SPENDER,
    SUSPENDED,
    TOGGLED,
    Installation,
)

LOST_SECONDS = 1.0
"""What a sidecar counted within so long of its being killed may be forgotten."""
WINDOW_SECONDS = 60.0
COST_DOLLARS = 0.25
CALL_SECONDS = 10.0
PAUSE_SECONDS = 0.02


class Case(NamedTuple):
    """An action and its only right outcome; None: it depends on counters or on the administrator."""

    agent_id: str
    resource: str
    outcome: int | None
    cost: float = 0.0


CASES = (
    Case(HONEST, "data", pb.OUTCOME_ALLOW),
    Case(HONEST, "secrets", pb.OUTCOME_BLOCK),
    Case(SUSPENDED, "data", pb.OUTCOME_BLOCK),
    Case("nobody-knows-me", "data", pb.OUTCOME_BLOCK),
    Case(LIMITED, "data", None),
    Case(TOGGLED, "data", None),
    Case(SPENDER, "data", None, COST_DOLLARS),
)


class Given(NamedTuple):
    """One answer: `began` and `ended` are of this process's monotonic clock, which places the decision between them."""

    began: float
    ended: float
    case: Case
    outcome: int
    decision_id: str


@dataclass
class Witness:
    """An honest caller of one sidecar."""

    address: str
    given: list[Given] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    """When the sidecar was killed."""
    errors: list[str] = field(default_factory=list)
    silenced: float | None = None
    """Since when the toggled agent is suspended here for certain; None: it may be active."""
    findings: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Ask case after case, until cancelled."""
        while True:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
            async with grpc.aio.insecure_channel(self.address, options=options) as channel:
                stub = PolicyDecisionPointStub(channel)
                with suppress(grpc.aio.AioRpcError):
                    while True:
                        for case in CASES:
                            await self._ask(stub, case)
                            await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, stub: PolicyDecisionPointStub, case: Case) -> None:
        action = pb.Action(agent_id=case.agent_id, action_type="api.read", resource=case.resource, risk_score=1)
        if case.cost:
            action.estimated_cost_usd = case.cost
        silenced, began = self.silenced, time.monotonic()
        try:
            answer = await stub.Evaluate(pb.EvaluateRequest(action=action), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            self.errors.append(f"{error.code().name}: {error.details()}")
            raise
        one = Given(began, time.monotonic(), case, answer.outcome, answer.decision_id)
        self.given.append(one)
        if case.outcome is not None and answer.outcome != case.outcome:
            self.findings.append(f"{case.agent_id} on {case.resource} was answered {answer.outcome}: {answer.message}")
        # Only if it was suspended from before the call until after the answer: a call may take longer than the pause.
        if silenced is None or self.silenced != silenced:
            return
        if case.agent_id == TOGGLED and answer.outcome == pb.OUTCOME_ALLOW:
            self.findings.append(
                f"{TOGGLED} was allowed {began - silenced:.3f} s after its suspension was acknowledged"
            )

    def durable(self) -> Iterator[Given]:
        """What was answered long enough before each kill, and so may not be forgotten."""
        for one in self.given:
            if not any(kill - LOST_SECONDS <= one.ended and one.began <= kill for kill in self.kills):
                yield one

    def overruns(self) -> list[str]:
        """Windows that admitted more than the limit and days that spent more than the budget, beside what was lost."""
        found = []
        admitted = [one for one in self.durable() if one.case.agent_id == LIMITED and _is_allow(one)]
        oldest = 0
        for newest, one in enumerate(admitted):
            # Certainly within one window: from before the first was sent until after the last was answered.
            while one.ended - admitted[oldest].began >= WINDOW_SECONDS:
                oldest += 1
            if newest - oldest + 1 > LIMIT_PER_MINUTE:
                found.append(f"{newest - oldest + 1} actions of {LIMITED} in a minute, of {LIMIT_PER_MINUTE}")
                break
        spent = sum(one.case.cost for one in self.durable() if one.case.agent_id == SPENDER and _is_allow(one))
        if spent > BUDGET_DOLLARS:
            found.append(f"{SPENDER} spent {spent} of {BUDGET_DOLLARS}")
        return found

    def latency(self, share: float) -> float:
        """The quantile of the seconds that an answer took."""
        taken = sorted(one.ended - one.began for one in self.given)
        return taken[min(len(taken) - 1, int(share * len(taken)))] if taken else 0.0


async def administer(installation: Installation, witnesses: list[Witness]) -> None:
    """Suspend and activate the toggled agent in turn, until cancelled; the witnesses learn its certain state."""
    path = f"/api/agents/registry/{TOGGLED}"
    while True:
        status, _ = await installation.admin.answer("POST", f"{path}/suspend", {"reason": "test"})
        if status == 200:
            await _acknowledged(installation, installation.revision(), len(witnesses))
            for witness in witnesses:
                witness.silenced = time.monotonic()
            await asyncio.sleep(1.0)
        for witness in witnesses:
            witness.silenced = None
        await installation.admin.answer("POST", f"{path}/activate", {"reason": "test"})
        await asyncio.sleep(1.0)


async def _acknowledged(installation: Installation, revision: int, sidecars: int) -> None:
    """Return once as many sidecars as there are have acknowledged a revision."""
    while True:
        status, content = await installation.admin.answer("GET", "/api/sidecars")
        if status == 200:
            there = [
                one for one in content["sidecars"] if one["connected"] and one["acknowledged_revision"] >= revision
            ]
            if len(there) >= sidecars:
                return
        await asyncio.sleep(0.1)


def _is_allow(one: Given) -> bool:
    return one.outcome == pb.OUTCOME_ALLOW
