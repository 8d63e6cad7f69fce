"""The fast path against the reference, over sequences of actions, with two ways of counting."""

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pdp.core.action import Action
from pdp.core.decide import charge, decide, withdrawn
from pdp.core.decision import Decision
from pdp.core.explanation.explain import Explanation, walk
from pdp.core.explanation.situation import Situation, local_at
from pdp.core.explanation.stages import limits_of
from pdp.core.model import Now, Outcome, Reason, StaleMode
from pdp.core.usage import Usage
from tests.core.worlds import AGENT_ID, FOCI, Turn, World, sequences
from tests.history import BruteForce, settle

STAGES_0_TO_3 = {
    Reason.REGISTRY_STALE,
    Reason.AGENT_NOT_REGISTERED,
    Reason.AGENT_NOT_ACTIVE,
    Reason.ACTION_NOT_ALLOWED,
    Reason.RESOURCE_BLOCKED,
    Reason.RESOURCE_NOT_ALLOWED,
    Reason.DATA_CLASSIFICATION_BLOCKED,
    Reason.MCP_SERVER_NOT_REGISTERED,
    Reason.MCP_TOOL_BLOCKED,
    Reason.OUTSIDE_TIME_WINDOW,
}
Sequence = tuple[World, Now, list[Turn]]


class Duel:
    """One world decided twice: by `decide` and `charge`, and by the reference with every action kept in a list."""

    def __init__(self, world: World, now: Now) -> None:
        assert world.records.agent is not None
        self.world = world
        self.record = world.records.agent
        self.agent = world.state.agents[AGENT_ID]
        self.now = now
        self.usage, self.history = Usage(), BruteForce()

    def decide(self, turn: Turn, action: Action) -> Decision:
        """Decide both ways, compare the answers and the counts, and return the answer."""
        people = {"approved": turn.approved, "stale": turn.stale}
        decision = decide(self.agent, self.world.state.servers, action, self.usage, self.now, **people)
        situation = Situation(self.record, *self.world.records[1:], action, self.history, self.now, **people)
        explanation = walk(situation)
        assert comparable(decision) == comparable(explanation)
        self._check_withdrawn(action, decision, turn.stale)
        day = local_at(self.record.time_window_timezone, self.now.wall).day
        if not turn.dry_run:
            charge(self.usage, decision, self.now.boot)
            settle(self.history, explanation, day, self.now)
        limits = limits_of(self.record)
        assert self.usage.remaining(limits, self.now.boot) == self.history.remaining(limits, self.now.boot)
        assert self.usage.spent(day) == self.history.spent(day)
        return decision

    def _check_withdrawn(self, action: Action, decision: Decision, stale: StaleMode | None) -> None:
        """Exactly a block in stages 0 to 3, or stale data, revokes an earlier answer."""
        found = withdrawn(self.agent, self.world.state.servers, action, self.now, stale=stale)
        if decision.outcome is Outcome.BLOCK and decision.reason in STAGES_0_TO_3:
            assert found == decision
        elif stale is StaleMode.ESCALATE:
            assert found == Decision(Outcome.ESCALATE, Reason.REGISTRY_STALE, decision.risk_score)
        else:
            assert found is None


def comparable(answer: Decision | Explanation) -> dict[str, Any]:
    """The fields that both kinds of answer must share."""
    return {
        "outcome": answer.outcome,
        "reason": answer.reason,
        "risk_score": answer.risk_score,
        "policy": answer.policy and answer.policy.policy_id,
        "mfa_required": answer.mfa_required,
        "retry_after": answer.retry_after,
        "cost_micros": answer.cost_micros,
        "shadow": [policy.policy_id for policy in answer.shadow],
    }


def fight(sequence: Sequence) -> None:
    world, start, turns = sequence
    duel = Duel(world, start)
    action, last, set_back = turns[0].action, None, False
    for turn in turns:
        if not turn.repeat:
            action = turn.action
        again = turn.retry and turn.repeat and last is not None and last.retry_after is not None
        after, jump = (last.retry_after, 0.0) if again else (turn.after, turn.jump)
        refused_for = last.reason if again else None
        duel.now = Now(duel.now.wall + after + jump, duel.now.boot + after)
        last = duel.decide(turn, action)
        event(last.reason.name)
        set_back = set_back or jump < 0
        if refused_for is Reason.BUDGET_EXCEEDED and set_back:
            continue  # what was spent before the clock went back counts for longer than its day now seems to last
        assert last.reason is not refused_for, "the wait that a refusal named was too short"


@pytest.mark.parametrize("focus", FOCI)
@given(data=st.data())
def test_the_fast_path_decides_as_the_reference(focus: str, data: st.DataObject) -> None:
    """Outcome, reason, risk, policy, MFA, shadow, waits and counts are equal in 5 x 100 sequences."""
    fight(data.draw(sequences(focus)))


@pytest.mark.soak
@pytest.mark.parametrize("focus", FOCI)
@settings(max_examples=4_000)
@given(data=st.data())
def test_the_fast_path_decides_as_the_reference_for_long(focus: str, data: st.DataObject) -> None:
    """The same in 5 x 4,000 sequences."""
    fight(data.draw(sequences(focus)))
