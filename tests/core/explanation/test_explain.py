"""Explanations: each stage, each policy, and changes that would allow the action."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.action import Action
from pdp.core.compile import CompiledAgent, CompiledServer
from pdp.core.decide import decide
from pdp.core.decision import Decision
from pdp.core.explanation.explain import Explanation, Verdict, explain, walk
from pdp.core.explanation.nearest import changes
from pdp.core.explanation.situation import Records, Situation, local_at, policies_of
from pdp.core.model import Mode, Now, Outcome, Reason
from pdp.core.usage import Usage
from tests.core.records import agent_record, policy_record
from tests.core.worlds import FOCI, Turn, World, sequences
from tests.decision_cases import Case, load
from tests.given import NOON
from tests.history import BruteForce, settle

FOLDER = Path(__file__).parent / "explanations"


def explanations(case: Case) -> list[Explanation]:
    """The steps of a case explained one after the other, each counted."""
    records, history, found = case.records(), BruteForce(), []
    for step in case.steps:
        explanation = explain(records, step.asked(), history, step.now, stale=step.stale)
        zone = records.agent.time_window_timezone if records.agent else "UTC"
        settle(history, explanation, local_at(zone, step.now.wall).day, step.now)
        found.append(explanation)
    return found


@pytest.mark.parametrize("case", load(FOLDER), ids=lambda case: case.name)
def test_an_explanation_says_why_and_what_would_allow(case: Case) -> None:
    """The fact that the case states."""
    for step, explanation in zip(case.steps, explanations(case), strict=True):
        deciding = [stage.detail for stage in explanation.stages if stage.verdict is Verdict.DECIDED]
        details = {
            "outcome": explanation.outcome.name.lower(),
            "reason": explanation.reason.name,
            "detail": deciding[-1],
            "would_allow": list(explanation.would_allow),
        }
        assert {name: details[name] for name in step.expected} == step.expected


def compiled(situation: Situation) -> Decision:
    """The same situation decided by the fast path."""
    policies = [*policies_of(situation, Mode.ENFORCE), *policies_of(situation, Mode.SHADOW)]
    agent = CompiledAgent(replace(situation.agent, policies=tuple(policies)))
    servers = {name: CompiledServer(server) for name, server in situation.servers.items()}
    return decide(agent, servers, situation.action, situation.usage, situation.now, stale=situation.stale)


@given(st.sampled_from(sorted(FOCI)).flatmap(sequences))
def test_suggested_changes_do_allow(sequence: tuple[World, Now, list[Turn]]) -> None:
    """The fast path agrees with the reference on each change, and every suggested change allows the action."""
    world, now, turns = sequence
    stale = turns[0].stale
    assert world.records.agent is not None
    situation = Situation(world.records.agent, *world.records[1:], turns[0].action, Usage(), now, stale=stale)
    explanation = explain(world.records, turns[0].action, situation.usage, now, stale=stale)
    assert (explanation.outcome is Outcome.ALLOW) <= (explanation.would_allow == ())
    allowed = set()
    for change in changes(situation, explanation.reason, explanation.policy):
        then = walk(change.situation)
        assert (compiled(change.situation).outcome, compiled(change.situation).reason) == (then.outcome, then.reason)
        if then.outcome is Outcome.ALLOW:
            allowed.add(change.what)
    if allowed:
        assert all(change.startswith(tuple(allowed)) for change in explanation.would_allow)


@given(st.sampled_from(sorted(FOCI)).flatmap(sequences))
def test_every_stage_and_every_policy_is_explained(sequence: tuple[World, Now, list[Turn]]) -> None:
    """Thirteen stages, those after the deciding one not reached; every policy that binds, in order; one decides."""
    world, now, turns = sequence
    explanation = explain(world.records, turns[0].action, Usage(), now)
    verdicts = [stage.verdict for stage in explanation.stages]
    assert len(verdicts) == 13
    first = verdicts.index(Verdict.DECIDED)
    assert set(verdicts[:first]) <= {Verdict.PASSED}
    assert set(verdicts[first + 1 : 12]) <= {Verdict.NOT_REACHED}
    assert all(bool(stage.detail) == (stage.verdict is not Verdict.NOT_REACHED) for stage in explanation.stages)
    decided = [policy.policy_id for policy in explanation.policies if policy.decided]
    assert decided == ([explanation.policy.policy_id] if explanation.policy else [])
    enforcing = [policy for policy in explanation.policies if not policy.shadow]
    assert [policy.priority for policy in enforcing] == sorted(policy.priority for policy in enforcing)
    assert all(policy.held == all(condition.held for condition in policy.conditions) for policy in enforcing)
    assert world.records.agent is not None
    situation = Situation(world.records.agent, *world.records[1:], turns[0].action, Usage(), now)
    shadows = [policy for policy in explanation.policies if policy.shadow]
    assert [one.policy_id for one in shadows] == [one.policy_id for one in policies_of(situation, Mode.SHADOW)]


def test_explaining_counts_nothing_and_moves_no_window() -> None:
    """The usage stays the same, even after a change that moves time ahead."""
    [case] = [case for case in load(FOLDER) if "rounded up" in case.name]
    usage, records, step = Usage(), case.records(), case.steps[0]
    usage.count(step.now.boot)
    explanation = explain(records, step.asked(), usage, step.now)
    assert explanation.would_allow == ("in 61.0 s",)
    assert decide(CompiledAgent(records.agent), {}, step.asked(), usage, step.now).retry_after == 61.0


@pytest.mark.parametrize(("policies", "most"), [(10, 1000), (500, 100), (7000, 9)])
def test_the_work_of_an_explanation_is_bounded(policies: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more policies fewer changes are tried, but the decision itself is always explained."""
    given = tuple(
        replace(policy_record(), policy_id=str(n), conditions={"risk_above": n % 100, "amount_above": 1000 + n})
        for n in range(policies)
    )
    agent = replace(agent_record(auto_approve_below=0), policies=given)
    tried = []

    def counted(situation: Situation) -> Explanation:
        tried.append(situation)
        return Explanation(Outcome.BLOCK, Reason.RISK_NEEDS_APPROVAL)

    monkeypatch.setattr("pdp.core.explanation.explain._reach", lambda explanation: (0, 0))
    monkeypatch.setattr("pdp.core.explanation.explain.walk", counted)
    action = Action("some-agent", "a", risk_score=100, amount=1e6)
    assert explain(Records(agent), action, Usage(), Now(NOON, 0.0)).would_allow == ()
    assert min(most - 1, 10) <= len(tried) <= most
