"""Registry data that the store has not confirmed for too long; the test moves the clocks."""

import json

import pytest

from pdp import wire
from pdp.asking import Approving
from pdp.core.model import Now, Source, StaleMode
from pdp.state import Holder
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.deciding import Bench, answer_in, served
from tests.given import agent

ACTION = {"agent_id": "billing-reader-test", "action_type": "api.read"}
BOUND = 30.0
in_each_mode = pytest.mark.parametrize(
    ("mode", "outcome", "reason"),
    [
        (StaleMode.SERVE, "ALLOW", "RISK_BELOW_AUTO_APPROVE"),
        (StaleMode.ESCALATE, "ESCALATE", "REGISTRY_STALE"),
        (StaleMode.BLOCK, "BLOCK", "REGISTRY_STALE"),
    ],
)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=100))
    bench.holder.max_staleness = BOUND
    return bench


def request(risk_score: int = 10, **beside: object) -> pb.EvaluateRequest:
    return pb.EvaluateRequest(action=pb.Action(**ACTION, risk_score=risk_score), **beside)


def summary(answer: pb.EvaluateResponse) -> tuple[str, str, float]:
    """Outcome, reason and staleness."""
    names = pb.Outcome.Name(answer.outcome), pb.Reason.Name(answer.reason)
    return names[0].removeprefix("OUTCOME_"), names[1].removeprefix("REASON_"), answer.staleness


@in_each_mode
async def test_staleness_is_computed_as_each_decision_is_made(
    bench: Bench, mode: StaleMode, outcome: str, reason: str
) -> None:
    """At the bound it is not stale, a moment later it is, though nothing but time has passed."""
    bench.holder.stale_mode = mode
    async with served(bench.service) as stub:
        bench.pass_seconds(BOUND)
        assert summary(await stub.Evaluate(request())) == ("ALLOW", "RISK_BELOW_AUTO_APPROVE", BOUND)
        bench.pass_seconds(0.125)
        assert summary(await stub.Evaluate(request())) == (outcome, reason, BOUND + 0.125)
        bench.holder.confirm(bench.now.boot)
        assert summary(await stub.Evaluate(request())) == ("ALLOW", "RISK_BELOW_AUTO_APPROVE", 0.0)


@in_each_mode
async def test_a_remembered_allow_is_revoked_while_the_data_is_stale(
    bench: Bench, mode: StaleMode, outcome: str, reason: str
) -> None:
    """A repeat under an idempotency key passes stage 0 like any other request, and is the first answer again later."""
    bench.holder.stale_mode = mode
    async with served(bench.service) as stub:
        first = await stub.Evaluate(request(idempotency_key="k"))
        bench.pass_seconds(BOUND + 1)
        assert summary(await stub.Evaluate(request(idempotency_key="k")))[:2] == (outcome, reason)
        bench.holder.confirm(bench.now.boot)
        again = await stub.Evaluate(request(idempotency_key="k"))
    assert again.decision_id == first.decision_id


def test_without_a_maximum_nothing_is_ever_stale() -> None:
    """It is off by default."""
    assert Holder().stale(1e9) is None


async def test_a_jump_of_the_wall_clock_makes_nothing_stale_or_fresh(bench: Bench) -> None:
    """Only the boot clock counts."""
    bench.now = Now(bench.now.wall + 1e6, bench.now.boot)
    async with served(bench.service) as stub:
        assert summary(await stub.Evaluate(request()))[:2] == ("ALLOW", "RISK_BELOW_AUTO_APPROVE")
        bench.now = Now(bench.now.wall - 2e6, bench.now.boot + BOUND + 1)
        assert summary(await stub.Evaluate(request()))[:2] == ("BLOCK", "REGISTRY_STALE")


async def test_a_stale_escalation_opens_no_approval(bench: Bench) -> None:
    """An approval cannot allow the action while the data is stale, and with fresh data it is decided again."""
    bench.holder.stale_mode = StaleMode.ESCALATE
    bench.pass_seconds(BOUND + 1)
    async with served(bench.service) as stub:
        answer = await stub.Evaluate(request(risk_score=50))
    assert summary(answer)[:2] == ("ESCALATE", "REGISTRY_STALE")
    assert not answer.approval_id
    assert [entry.opens for entry in bench.log.entries] == [None]
    assert answer.rate_remaining.minute == 99


async def test_an_approval_is_not_spent_on_stale_data(bench: Bench) -> None:
    """It does not pass stage 0, the store is not asked to take it, and once the data is fresh it counts."""
    bench.holder.stale_mode = StaleMode.ESCALATE
    bench.people.granted.add("a1")
    bench.pass_seconds(BOUND + 1)
    async with served(bench.service) as stub:
        stale = await stub.Evaluate(request(risk_score=50, approval_id="a1"))
        assert not bench.people.asked
        bench.holder.confirm(bench.now.boot)
        fresh = await stub.Evaluate(request(risk_score=50, approval_id="a1"))
    assert summary(stale)[:2] == ("ESCALATE", "REGISTRY_STALE")
    assert summary(fresh)[:2] == ("ALLOW", "APPROVED")


async def test_data_that_goes_stale_while_an_approval_is_taken_escalates(bench: Bench) -> None:
    """An approval granted a moment before does not allow the action."""
    bench.holder.stale_mode = StaleMode.ESCALATE
    bench.people.granted.add("a1")
    asked = wire.read_request(request(risk_score=50, approval_id="a1"))
    given = await bench.service.approvals.use(asked)
    bench.pass_seconds(BOUND + 1)
    assert summary(bench.evaluate(asked, Approving(given)))[:2] == ("ESCALATE", "REGISTRY_STALE")


async def test_an_approval_for_another_action_blocks_stale_or_not(bench: Bench) -> None:
    """Also if the data went stale after the approval was used: stale data never allows more."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_APPROVED)
    bench.holder.stale_mode = StaleMode.ESCALATE
    asked = wire.read_request(request(risk_score=50, approval_id="a1"))
    given = await bench.service.approvals.use(asked)
    bench.pass_seconds(BOUND + 1)
    assert summary(bench.evaluate(asked, Approving(given)))[:2] == ("BLOCK", "APPROVAL_MISMATCH")


@pytest.mark.parametrize("mode", list(StaleMode))
@pytest.mark.parametrize("agent_id", ["billing-reader-test", "unknown-agent"])
async def test_an_explanation_agrees_with_the_decision(bench: Bench, mode: StaleMode, agent_id: str) -> None:
    """In each mode, also for an unregistered agent; the first stage is shown."""
    bench.holder.stale_mode = mode
    bench.pass_seconds(BOUND + 1)
    asked = request(risk_score=50)
    asked.action.agent_id = agent_id
    async with served(bench.service) as stub:
        explained = await stub.Explain(pb.ExplainRequest(action=asked.action))
        answer = await stub.Evaluate(asked)
    assert summary(explained.decision) == summary(answer)
    assert explained.stages[0].stage == "registry data"
    assert "older than allowed" in explained.stages[0].detail


async def test_stale_decisions_are_logged_and_counted_by_their_reason(bench: Bench) -> None:
    """As every other is; JSON has the reason's name."""
    bench.pass_seconds(BOUND + 1)
    _, answer = await bench.service.evaluate_json(json.dumps({"action": ACTION}).encode())
    assert (answer["outcome"], answer["reason"], answer["source"]) == ("block", "REGISTRY_STALE", "live")
    assert [answer_in(entry).reason for entry in bench.log.entries] == [pb.REASON_REGISTRY_STALE]
    assert b'pdp_decisions_total{outcome="block",reason="REGISTRY_STALE"} 1.0' in bench.metrics.text()


def test_the_status_of_the_data_is_one_word(bench: Bench) -> None:
    """The most severe first: a refused key, staleness, then whether the stream confirms it."""
    holder, boot = bench.holder, bench.now.boot
    assert holder.status(boot) == "live"
    holder.source = Source.CACHED
    assert holder.status(boot) == "cached"
    assert holder.status(boot + BOUND + 1) == "stale"
    holder.key_revoked = True
    assert holder.status(boot + BOUND + 1) == "key_revoked"
