"""Every decision of `cases/*.yaml` by the core and by the reference: the folder above tests the layers of the wire."""

from collections.abc import Iterable

import pytest

from pdp import wire
from pdp.core.decide import charge, decide
from pdp.core.explanation.explain import explain
from pdp.core.explanation.situation import Records, local_at
from pdp.core.explanation.stages import limits_of
from pdp.core.model import Source
from pdp.core.usage import Usage
from pdp.state import State
from pdp.v1 import decision_pb2 as pb
from tests.decision_cases import Answer, Case, Step, load
from tests.history import BruteForce, settle


@pytest.mark.parametrize("case", load(), ids=lambda case: case.name)
def test_the_core_decides_a_case(case: Case) -> None:
    """The fact that the case states holds for `decide` and `charge`."""
    case.hold(core_answers(case.state(), case.steps))


@pytest.mark.parametrize("case", load(), ids=lambda case: case.name)
def test_the_reference_decides_a_case(case: Case) -> None:
    """The fact that the case states holds for `explain`, with every action kept in a list."""
    records, history = case.records(), BruteForce()
    case.hold([_reference_answer(records, history, step) for step in case.steps])


def test_there_are_at_least_150_cases() -> None:
    """Their names are unique."""
    names = [case.name for case in load()]
    assert len(names) >= 150
    assert len(set(names)) == len(names)


def core_answers(state: State, steps: Iterable[Step]) -> list[Answer]:
    """The answers of `decide` to the steps, with one count that starts empty."""
    usage = Usage()
    return [_core_answer(state, usage, step) for step in steps]


def _core_answer(state: State, usage: Usage, step: Step) -> Answer:
    action = step.asked()
    agent = state.agents.get(action.agent_id)
    decision = decide(agent, state.servers, action, usage, step.now, approved=step.approved, stale=step.stale)
    answer = wire.Answer(decision, "", "the core does not say", 1, Source.LIVE, 0.0)
    if agent is not None:
        day = local_at(agent.zone, step.now.wall).day
        if not step.dry_run:
            charge(usage, decision, step.now.boot)
        answer.remaining = usage.remaining(agent.limits, step.now.boot)
        answer.budget_micros = _left(agent.budget_micros, usage, day)
    return wire.answer_json(pb.EvaluateResponse.FromString(wire.write_answer(answer)))


def _reference_answer(records: Records, history: BruteForce, step: Step) -> Answer:
    action, now = step.asked(), step.now
    explanation = explain(records, action, history, now, approved=step.approved, stale=step.stale)
    answer = {
        "outcome": explanation.outcome.name.lower(),
        "reason": explanation.reason.name,
        "risk_score": explanation.risk_score,
        "mfa_required": explanation.mfa_required,
        "policy": explanation.policy and {"name": explanation.policy.policy_name},
        "action_params": explanation.policy.action_params if explanation.policy else {},
        "shadow": [{"policy": {"name": policy.policy_name}} for policy in explanation.shadow],
        "retry_after": explanation.retry_after,
    }
    if records.agent is None:
        return answer
    day = local_at(records.agent.time_window_timezone, now.wall).day
    if not step.dry_run:
        settle(history, explanation, day, now)
    budget = records.agent.max_daily_budget_usd
    left = _left(None if budget is None else int(budget * 1_000_000), history, day)
    return answer | {
        "rate_remaining": history.remaining(limits_of(records.agent), now.boot)._asdict(),
        "budget_remaining_usd": None if left is None else left / 1_000_000,
    }


def _left(budget_micros: int | None, usage: Usage | BruteForce, day: int) -> int | None:
    return None if budget_micros is None else max(0, budget_micros - usage.spent(day))
