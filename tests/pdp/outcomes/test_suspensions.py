"""Suspension by a sidecar: at once, not before its sample, not twice, and not again for the same cause."""

from typing import Any

import pytest

from pdp.core.model import Reason
from pdp.decision_log.record import Note
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.deciding import Bench, served
from tests.given import agent
from tests.pdp.outcomes.test_outcomes import AGENT, decide, outcome

ON: dict[str, Any] = {"auto_suspend_enabled": True}
RATE = ON | {"auto_suspend_on_rate_exceeded": True, "max_actions_per_minute": 3}
BUDGET = ON | {"auto_suspend_on_budget_exceeded": True, "max_daily_budget_usd": 10}
ERRORS = ON | {"auto_suspend_on_error_rate": 0.5}


def bench(activations: int = 1, **fields: Any) -> Bench:
    """A sidecar that serves the agent, which was activated so often."""
    made = Bench()
    put(made, activations, **fields)
    return made


def put(sidecar: Bench, activations: int, **fields: Any) -> None:
    """The store sends the agent as it is now."""
    sidecar.put(agent(AGENT, activations=activations, **fields))


def suspensions(sidecar: Bench) -> list[dict[str, Any]]:
    """What the sidecar tells the store of its suspensions: trigger, figures, and the activation that they are of."""
    notes = [one.members for one in sidecar.log.entries if isinstance(one, Note) and one.kind == "suspension"]
    return [{name: note[name] for name in ("trigger", "activations", "figures")} for note in notes]


async def reasons(stub: PolicyDecisionPointStub, number: int, **fields: Any) -> list[str]:
    """The reasons of so many decisions, one after the other."""
    return [Reason((await decide(stub, **fields)).reason).name for _ in range(number)]


async def end(stub: PolicyDecisionPointStub, *results: bool) -> None:
    """Actions that succeed, or not."""
    for succeeded in results:
        await stub.ReportOutcome(outcome((await decide(stub)).decision_id, failed=not succeeded))


async def test_the_first_action_refused_for_rate_suspends() -> None:
    """The refusal says rate, and everything after it that the agent is suspended; dry runs and `Explain` too."""
    sidecar = bench(**RATE)
    async with served(sidecar.service) as stub:
        allowed = "RISK_BELOW_AUTO_APPROVE"
        assert await reasons(stub, 3) == [allowed] * 3
        assert await reasons(stub, 1, dry_run=True) == ["RATE_LIMIT_EXCEEDED"]
        assert suspensions(sidecar) == []
        assert await reasons(stub, 3) == ["RATE_LIMIT_EXCEEDED", "AGENT_NOT_ACTIVE", "AGENT_NOT_ACTIVE"]
        answer = await decide(stub, dry_run=True)
        explained = await stub.Explain(pb.ExplainRequest(action=pb.Action(agent_id=AGENT, action_type="api.read")))
    assert answer.message == f"agent `{AGENT}` is suspended"
    assert explained.decision.reason == Reason.AGENT_NOT_ACTIVE
    figures = {"window": "minute", "actions": 3, "limit": 3}
    assert suspensions(sidecar) == [{"trigger": "rate_exceeded", "activations": 1, "figures": figures}]
    assert sidecar.log.urgent == 1


async def test_the_first_action_refused_for_budget_suspends() -> None:
    """With what was spent, what it would have cost, and the budget."""
    sidecar = bench(**BUDGET)
    async with served(sidecar.service) as stub:
        await decide(stub, estimated_cost_usd=8.0)
        assert await reasons(stub, 2, estimated_cost_usd=3.0) == ["BUDGET_EXCEEDED", "AGENT_NOT_ACTIVE"]
    figures = {"spent_micros": 8_000_000, "cost_micros": 3_000_000, "budget_micros": 10_000_000}
    assert suspensions(sidecar) == [{"trigger": "budget_exceeded", "activations": 1, "figures": figures}]


async def test_too_many_failures_suspend_from_twenty_outcomes_on() -> None:
    """Nineteen failures do not; the twentieth outcome does, whatever it is."""
    sidecar = bench(**ERRORS)
    async with served(sidecar.service) as stub:
        await end(stub, *[False] * 19)
        assert suspensions(sidecar) == []
        await end(stub, True)
        assert await reasons(stub, 1) == ["AGENT_NOT_ACTIVE"]
    figures = {"failed": 19, "reported": 20, "limit": 0.5}
    assert suspensions(sidecar) == [{"trigger": "error_rate", "activations": 1, "figures": figures}]


async def test_the_error_rate_is_that_of_the_last_hundred() -> None:
    """Failures from before count no more."""
    sidecar = bench(**ERRORS)
    async with served(sidecar.service) as stub:
        await end(stub, *[True] * 11, *[False] * 9, *[True] * 91, *[False] * 49)
        assert suspensions(sidecar) == []
        await end(stub, False)
    assert suspensions(sidecar)[0]["figures"] == {"failed": 50, "reported": 100, "limit": 0.5}


@pytest.mark.parametrize("fields", [{"auto_suspend_enabled": False}, {"auto_suspend_on_rate_exceeded": False}])
async def test_a_trigger_that_is_off_suspends_nobody(fields: dict[str, Any]) -> None:
    """Neither by its own switch, nor by that of all."""
    sidecar = bench(**RATE | fields)
    async with served(sidecar.service) as stub:
        assert (await reasons(stub, 5))[3:] == ["RATE_LIMIT_EXCEEDED"] * 2
    assert suspensions(sidecar) == []


async def test_a_suspension_outlasts_changes_until_a_person_activates_the_agent() -> None:
    """The store has not heard of it yet, has heard of it, and was told by a person that the agent may go on."""
    sidecar = bench(**RATE)
    async with served(sidecar.service) as stub:
        await reasons(stub, 4)
        put(sidecar, 1, **RATE, description="changed meanwhile")
        assert await reasons(stub, 1) == ["AGENT_NOT_ACTIVE"]
        put(sidecar, 1, **RATE, status="suspended")
        put(sidecar, 2, **RATE)
        assert await reasons(stub, 1) == ["RATE_LIMIT_EXCEEDED"]


async def test_the_same_actions_do_not_suspend_again() -> None:
    """After the activation the limit still refuses, but only what is counted anew is a new cause."""
    sidecar = bench(**RATE)
    async with served(sidecar.service) as stub:
        await reasons(stub, 4)
        put(sidecar, 2, **RATE)
        assert set(await reasons(stub, 5)) == {"RATE_LIMIT_EXCEEDED"}
        assert len(suspensions(sidecar)) == 1
        sidecar.pass_seconds(62)
        assert (await reasons(stub, 5))[3:] == ["RATE_LIMIT_EXCEEDED", "AGENT_NOT_ACTIVE"]
    assert [one["activations"] for one in suspensions(sidecar)] == [1, 2]


async def test_the_same_spend_does_not_suspend_again() -> None:
    """An action without a cost is no new cause; the next one that is paid for is."""
    sidecar = bench(**BUDGET)
    async with served(sidecar.service) as stub:
        await reasons(stub, 2, estimated_cost_usd=6.0)
        put(sidecar, 2, **BUDGET)
        await reasons(stub, 1)
        assert await reasons(stub, 2, estimated_cost_usd=6.0) == ["BUDGET_EXCEEDED"] * 2
        assert len(suspensions(sidecar)) == 1
        await reasons(stub, 1, estimated_cost_usd=1.0)
        assert await reasons(stub, 2, estimated_cost_usd=6.0) == ["BUDGET_EXCEEDED", "AGENT_NOT_ACTIVE"]


async def test_the_same_failures_do_not_suspend_again() -> None:
    """After the activation twenty outcomes are needed anew."""
    sidecar = bench(**ERRORS)
    async with served(sidecar.service) as stub:
        await end(stub, *[False] * 20)
        put(sidecar, 2, **ERRORS)
        await end(stub, *[False] * 19)
        assert len(suspensions(sidecar)) == 1
        await end(stub, False)
    assert [one["activations"] for one in suspensions(sidecar)] == [1, 2]


async def test_a_suspension_is_reported_until_the_store_acts_on_it() -> None:
    """A record can be lost with the disk; the store takes it once however often it comes."""
    sidecar = bench(**RATE)
    state = sidecar.holder.current
    assert state is not None
    async with served(sidecar.service) as stub:
        await reasons(stub, 4)
    suspender = sidecar.service.point.suspender
    suspender.report_again(state)
    first, second = suspensions(sidecar)
    assert first == second
    put(sidecar, 1, **RATE, status="suspended")
    assert sidecar.holder.current is not None
    suspender.report_again(sidecar.holder.current)
    assert len(suspensions(sidecar)) == 2


async def test_a_reported_failure_of_a_watched_agent_is_sent_at_once() -> None:
    """The store adds up what several sidecars see."""
    sidecar = bench(**ERRORS)
    async with served(sidecar.service) as stub:
        await end(stub, True, False)
    assert sidecar.log.urgent == 1
