"""Outcomes at a sidecar: each is taken once, settles the budget, and counts in the error rate."""

import json
from typing import Any

import grpc
import pytest

from pdp.core.model import Reason
from pdp.decision_log.record import Note
from pdp.outcomes import open_decisions
from pdp.outcomes.blocks import Row, packed
from pdp.outcomes.open_decisions import OpenDecisions
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from registry_store.v1.sync_pb2 import FindDecisionResponse
from tests.deciding import Bench, served
from tests.given import agent

AGENT = "billing-reader-test"
UNKNOWN = "019ca6b1-dc00-7000-8000-000000000000"
FREE = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")}
HOUR = open_decisions.OPEN_SECONDS


def named(number: int) -> str:
    """The id of a decision; a later one has a greater number."""
    return f"01a3185c-5d7c-7000-8000-{number:012x}"


def row(number: int) -> Row:
    """A decision that was made at second 1000 + `number`."""
    return named(number), AGENT, "UTC", 1000.0 + number, 0, ""


def pack(decisions: OpenDecisions) -> None:
    """Pack all of them, as the thread does."""
    for recent in decisions.take():
        decisions.adopt(recent, packed(list(recent.rows.values()), recent.marks()))


def bench(**fields: Any) -> Bench:
    """A sidecar that serves one agent without rate limits."""
    made = Bench()
    made.put(agent(AGENT, **FREE, **fields))
    return made


async def decide(stub: PolicyDecisionPointStub, agent_id: str = AGENT, **fields: Any) -> pb.EvaluateResponse:
    """A decision, by default an allow."""
    request = {name: fields.pop(name) for name in ("dry_run", "approval_id", "idempotency_key") if name in fields}
    action = pb.Action(**{"agent_id": agent_id, "action_type": "api.read", "risk_score": 1} | fields)
    return await stub.Evaluate(pb.EvaluateRequest(action=action, **request))


def outcome(decision_id: str, *, failed: bool = False, **fields: Any) -> pb.ReportOutcomeRequest:
    """A report."""
    result = pb.ACTION_RESULT_FAILED if failed else pb.ACTION_RESULT_SUCCEEDED
    return pb.ReportOutcomeRequest(decision_id=decision_id, result=result, **fields)


async def refusal(stub: PolicyDecisionPointStub, report: pb.ReportOutcomeRequest) -> tuple[grpc.StatusCode, str]:
    """The status that a report ends with, and its text."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ReportOutcome(report)
    return raised.value.code(), raised.value.details() or ""


async def left(stub: PolicyDecisionPointStub, **fields: Any) -> float:
    """What is left of the budget of the day."""
    return (await decide(stub, dry_run=True, **fields)).budget_remaining_usd


@pytest.mark.parametrize(("actual", "remaining"), [(0.0, 100.0), (4.0, 96.0), (10.0, 90.0), (130.0, 0.0), (None, 90.0)])
async def test_an_outcome_settles_the_budget_to_the_actual_cost(actual: float | None, remaining: float) -> None:
    """Below, at and above the estimate, and above the whole budget; without a cost the estimate stands."""
    sidecar = bench(max_daily_budget_usd="100")
    async with served(sidecar.service) as stub:
        answer = await decide(stub, estimated_cost_usd=10.0)
        assert answer.budget_remaining_usd == 90.0
        await stub.ReportOutcome(outcome(answer.decision_id, actual_cost_usd=actual))
        assert await left(stub) == remaining
        blocked = await decide(stub, estimated_cost_usd=remaining + 0.01)
    assert blocked.reason == Reason.BUDGET_EXCEEDED


async def test_an_outcome_after_midnight_settles_on_the_day_of_its_decision() -> None:
    """The new day keeps its whole budget."""
    sidecar = bench(max_daily_budget_usd="100")
    sidecar.pass_seconds(12 * 3600 - 60)  # the test's clock starts at noon in UTC
    async with served(sidecar.service) as stub:
        answer = await decide(stub, estimated_cost_usd=10.0)
        sidecar.pass_seconds(120)
        await stub.ReportOutcome(outcome(answer.decision_id, actual_cost_usd=40.0))
        assert await left(stub) == 100.0
        sidecar.pass_seconds(-120)
        assert await left(stub) == 60.0


async def test_a_repeated_outcome_changes_nothing() -> None:
    """The first one stands, whatever the second says."""
    sidecar = bench(max_daily_budget_usd="100")
    async with served(sidecar.service) as stub:
        answer = await decide(stub, estimated_cost_usd=10.0)
        first = await stub.ReportOutcome(outcome(answer.decision_id, actual_cost_usd=1.0))
        second = await stub.ReportOutcome(outcome(answer.decision_id, failed=True, actual_cost_usd=50.0))
        assert await left(stub) == 99.0
    assert (first.repeated, second.repeated) == (False, True)
    assert len([one for one in sidecar.log.entries if isinstance(one, Note)]) == 1


async def test_each_id_that_takes_no_outcome_is_refused_with_its_own_status() -> None:
    """Unknown, of another agent, of an agent that is no longer served, and decisions that allowed nothing."""
    sidecar = bench()
    sidecar.put(agent(AGENT, **FREE), agent("billing-writer-test"))
    async with served(sidecar.service) as stub:
        answer = await decide(stub)
        unknown = await refusal(stub, outcome(UNKNOWN))
        foreign = await refusal(stub, outcome(answer.decision_id, agent_id="billing-writer-test"))
        blocked = await refusal(
            stub, outcome((await decide(stub, risk_score=99, agent_id="nobody-at-all")).decision_id)
        )
        held = await refusal(stub, outcome((await decide(stub, risk_score=50)).decision_id))
        tried = await refusal(stub, outcome((await decide(stub, dry_run=True)).decision_id))
        sidecar.put(agent("billing-writer-test"))
        gone = await refusal(stub, outcome(answer.decision_id))
        sidecar.put(agent(AGENT, **FREE))
        assert not (await stub.ReportOutcome(outcome(answer.decision_id, agent_id=AGENT))).repeated
    assert (unknown[0], foreign[0], gone[0]) == (
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.PERMISSION_DENIED,
    )
    assert (blocked[0], held[0], tried[0]) == (grpc.StatusCode.FAILED_PRECONDITION,) * 3
    assert held[1].endswith("takes no outcome: it is `require_approval`")
    assert tried[1].endswith("takes no outcome: it is a dry run")


async def test_a_blocked_decision_takes_no_outcome() -> None:
    """It is refused, and counts nothing."""
    sidecar = bench(blocked_resources=["secrets"])
    async with served(sidecar.service) as stub:
        answer = await decide(stub, resource="secrets")
        code, message = await refusal(stub, outcome(answer.decision_id, failed=True))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert message == f"decision `{answer.decision_id}` takes no outcome: it is `block`"
    assert not any(isinstance(one, Note) for one in sidecar.log.entries)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"decision_id": ""}, "decision_id"),
        ({"decision_id": "x" * 65}, "decision_id"),
        ({"result": 0}, "result"),
        ({"result": 7}, "result"),
        ({"actual_cost_usd": -0.01}, "actual_cost_usd"),
        ({"actual_cost_usd": float("nan")}, "actual_cost_usd"),
        ({"actual_cost_usd": float("inf")}, "actual_cost_usd"),
        ({"actual_cost_usd": 1_000_000_000.01}, "actual_cost_usd"),
        ({"error": "x" * 4097}, "error"),
        ({"error": "x\0"}, "error"),
        ({"error": "x" * 70_000}, "request"),
        ({"agent_id": "x" * 65}, "agent_id"),
    ],
)
async def test_a_malformed_report_names_its_field(fields: dict[str, Any], field: str) -> None:
    """It is refused before anything is looked up."""
    sidecar = bench()
    async with served(sidecar.service) as stub:
        report = {"decision_id": "x", "result": pb.ACTION_RESULT_SUCCEEDED} | fields
        code, message = await refusal(stub, pb.ReportOutcomeRequest(**report))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(f"{field}: ")


async def test_a_decision_is_open_for_an_hour() -> None:
    """Then it has settled at its estimate, and its outcome is refused."""
    sidecar = bench(max_daily_budget_usd="100")
    async with served(sidecar.service) as stub:
        late, early = await decide(stub, estimated_cost_usd=10.0), await decide(stub, estimated_cost_usd=10.0)
        sidecar.pass_seconds(HOUR - 1)
        await stub.ReportOutcome(outcome(early.decision_id, actual_cost_usd=0.0))
        sidecar.pass_seconds(1)
        code, message = await refusal(stub, outcome(late.decision_id, actual_cost_usd=0.0))
        assert await left(stub) == 90.0
    assert code is grpc.StatusCode.NOT_FOUND
    assert message == f"no decision `{late.decision_id}` was made here within the last hour"


async def test_a_repeat_of_an_idempotency_key_is_the_same_decision() -> None:
    """Both answers have the id of the one action, which has one outcome."""
    sidecar = bench()
    async with served(sidecar.service) as stub:
        first, again = await decide(stub, idempotency_key="k"), await decide(stub, idempotency_key="k")
        assert first.decision_id == again.decision_id
        assert not (await stub.ReportOutcome(outcome(again.decision_id))).repeated
        assert (await stub.ReportOutcome(outcome(first.decision_id))).repeated


async def test_an_outcome_is_recorded_for_the_store() -> None:
    """With what was charged, what it cost, and the error."""
    sidecar = bench()
    async with served(sidecar.service) as stub:
        answer = await decide(stub, estimated_cost_usd=0.5)
        report = outcome(answer.decision_id, failed=True, actual_cost_usd=0.75, error="timed out\n<b>")
        await stub.ReportOutcome(report)
    note = sidecar.log.entries[-1]
    assert isinstance(note, Note)
    assert (note.kind, sidecar.log.urgent) == ("outcome", 0)
    assert note.members == {
        "decision_id": answer.decision_id,
        "agent_id": AGENT,
        "activations": 0,
        "approval_id": "",
        "decided_at": "2026-11-20T12:00:00.000000Z",
        "reported_at": "2026-11-20T12:00:00.000000Z",
        "result": "failed",
        "charged_micros": 500_000,
        "actual_cost_micros": 750_000,
        "error": "timed out\n<b>",
    }


async def test_the_json_endpoint_answers_the_same() -> None:
    """With the statuses of HTTP, and every wrong field at once."""
    sidecar = bench(blocked_resources=["secrets"])
    async with served(sidecar.service) as stub:
        allowed, blocked = await decide(stub), await decide(stub, resource="secrets")

    async def told(**report: Any) -> tuple[int, Any]:
        return await sidecar.service.outcome_json(json.dumps(report).encode())

    assert await told(decision_id=allowed.decision_id, result="failed", error="x") == (200, {"repeated": False})
    assert await told(decision_id=allowed.decision_id, result="succeeded") == (200, {"repeated": True})
    assert (await told(decision_id="x", result="succeeded"))[0] == 404
    assert (await told(decision_id=allowed.decision_id, result="failed", agent_id="other"))[0] == 403
    assert (await told(decision_id=blocked.decision_id, result="failed"))[0] == 409
    status, problem = await told(decision_id="", result="maybe", actual_cost_usd=-1, error=7, extra=1)
    assert (status, [one["path"] for one in problem["errors"]]) == (
        400,
        ["extra", "decision_id", "result", "actual_cost_usd", "error"],
    )
    assert (await sidecar.service.outcome_json(b"{"))[1]["errors"][0]["path"] == "request"


async def test_nothing_is_taken_that_cannot_be_recorded() -> None:
    """A full log that may lose nothing refuses outcomes as it refuses decisions."""
    sidecar = bench()
    async with served(sidecar.service) as stub:
        answer = await decide(stub)
        sidecar.log.full = True
        assert (await refusal(stub, outcome(answer.decision_id)))[0] is grpc.StatusCode.UNAVAILABLE
        sidecar.log.full = False
        assert not (await stub.ReportOutcome(outcome(answer.decision_id))).repeated


@pytest.mark.parametrize("packed_at", [None, 9, 19, 34])
def test_open_decisions_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch, packed_at: int | None) -> None:
    """The oldest settle at their estimate first; what is left can still be reported."""
    monkeypatch.setattr(open_decisions, "SEGMENT", 10)
    monkeypatch.setattr(open_decisions, "MAX_DECISIONS", 30)
    decisions = OpenDecisions()
    for number in range(35):
        decisions.add(row(number))
        if number == packed_at:
            pack(decisions)
    assert (len(decisions), decisions.dropped) == (25, 10)
    assert [decisions.get(named(number), 1040.0) is not None for number in (9, 10, 34)] == [False, True, True]


@pytest.mark.parametrize("packed_at", [None, 9, 19, 24])
def test_open_decisions_are_bounded_in_time(monkeypatch: pytest.MonkeyPatch, packed_at: int | None) -> None:
    """What is older than an hour is dropped as soon as its segment is."""
    monkeypatch.setattr(open_decisions, "SEGMENT", 10)
    decisions = OpenDecisions()
    for number in range(25):
        decisions.add(row(number))
        if number == packed_at:
            pack(decisions)
    decisions.expire(1000.0 + HOUR + 19)
    assert (len(decisions), decisions.dropped) == (5, 0)
    decisions.expire(1000.0 + HOUR + 24)
    assert len(decisions) == 0
    decisions.add(row(8000))
    assert decisions.get(named(8000), 9001.0) is not None


@pytest.mark.parametrize("packed_at", [(), (9,), (19,), (9, 14, 19)])
def test_decisions_before_and_after_the_clock_is_set_back_are_found(packed_at: tuple[int, ...]) -> None:
    """Their ids do not increase then; each is there with its own mark, and none twice."""
    decisions = OpenDecisions()
    order = [*range(100, 110), *range(10), *range(110, 115)]
    for place, number in enumerate(order):
        decisions.add(row(number))
        if not number % 3:
            decisions.report(named(number))
        if place in packed_at:
            pack(decisions)
    pack(decisions)
    found = [decisions.get(named(number), 1200.0) for number in order]
    assert [(one.at, one.reported) for one in found if one is not None] == [
        (1000.0 + number, not number % 3) for number in order
    ]
    assert len(decisions) == len(order)


def test_a_clock_that_is_set_back_again_and_again_makes_few_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond their number the oldest decisions settle early, however few they are."""
    monkeypatch.setattr(open_decisions, "MAX_SEGMENTS", 4)
    decisions = OpenDecisions()
    for number in reversed(range(6)):
        decisions.add(row(number))
        pack(decisions)
    assert (len(decisions), decisions.dropped) == (4, 2)
    assert [decisions.get(named(number), 1010.0) is not None for number in range(6)] == [True] * 4 + [False] * 2


async def test_an_approval_whose_action_failed_is_named() -> None:
    """The record of the outcome names the approval that the decision used, and is sent at once."""
    sidecar = bench()
    sidecar.people.granted.add("appr-1")
    async with served(sidecar.service) as stub:
        answer = await decide(stub, risk_score=50, approval_id="appr-1")
        assert answer.reason == Reason.APPROVED
        await stub.ReportOutcome(outcome(answer.decision_id, failed=True))
    note = sidecar.log.entries[-1]
    assert isinstance(note, Note)
    assert (note.members["approval_id"], sidecar.log.urgent) == ("appr-1", 1)


FOUND: tuple[tuple[dict[str, Any], str], ...] = (
    ({"node_id": "another", "outcome": "allow"}, "PERMISSION_DENIED"),
    ({"node_id": "another", "outcome": "allow", "has_outcome": True}, "PERMISSION_DENIED"),
    ({"outcome": "block"}, "FAILED_PRECONDITION"),
    ({"outcome": "allow", "dry_run": True}, "FAILED_PRECONDITION"),
    ({"outcome": "allow"}, "FAILED_PRECONDITION"),
    ({"outcome": "allow", "agent_id": "other-agent-prod"}, "PERMISSION_DENIED"),
)


@pytest.mark.parametrize(("found", "code"), FOUND)
async def test_the_store_tells_of_a_decision_that_is_not_known_here(found: dict[str, Any], code: str) -> None:
    """Of another sidecar, or an old one of this sidecar; without the store it is unknown."""
    sidecar, decision_id = bench(), UNKNOWN
    about = FindDecisionResponse(**{"node_id": "", "agent_id": AGENT} | found)
    sidecar.people.decisions[decision_id] = about
    async with served(sidecar.service) as stub:
        assert (await refusal(stub, outcome(decision_id, agent_id=AGENT)))[0].name == code
        sidecar.people.go(present=False)
        assert (await refusal(stub, outcome(decision_id)))[0] is grpc.StatusCode.NOT_FOUND


async def test_an_old_outcome_is_a_repeat() -> None:
    """This sidecar no longer knows it, but the store does."""
    sidecar, decision_id = bench(), UNKNOWN
    about = FindDecisionResponse(agent_id=AGENT, outcome="allow", has_outcome=True)
    sidecar.people.decisions[decision_id] = about
    async with served(sidecar.service) as stub:
        assert (await stub.ReportOutcome(outcome(decision_id))).repeated
