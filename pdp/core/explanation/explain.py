"""The decision explained stage by stage from the records: slow and obvious. `decide` is tested against it.

Nothing here is compiled or cached; each stage is a function that reads like its row of the specification.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from enum import IntEnum
from math import inf
from typing import NamedTuple

from pdp.core.action import Action
from pdp.core.conditions import MISSING, Clause, clauses
from pdp.core.explanation.nearest import Change, changes, merged
from pdp.core.explanation.situation import History, Records, Situation, clause_held, held, policies_of, value_seen
from pdp.core.explanation.stages import STAGES, Finding, Ruling, deciding_policy, mfa, registry_data
from pdp.core.fields import quote
from pdp.core.model import Mode, Now, Outcome, PolicyRecord, Reason, StaleMode

MAX_POLICIES_READ = 50_000
"""Limit over all tried changes, so that explaining an agent with thousands of policies takes about a second."""

MIN_TRIES = 8
MAX_CHAIN = 6
MAX_SUGGESTIONS = 8
NO_RULING = Ruling(Outcome.BLOCK, Reason.INTERNAL_ERROR)


class Verdict(IntEnum):
    """The result of a stage; the values are those of `pdp.v1.Verdict`."""

    PASSED = 1
    DECIDED = 2
    NOT_REACHED = 3


class StageExplanation(NamedTuple):
    """The result of one stage, and why."""

    stage: str
    verdict: Verdict
    detail: str


class ConditionExplanation(NamedTuple):
    """One condition of a policy: the expected and the seen value, both as JSON, and whether it held."""

    operator: str
    expected: str
    seen: str
    held: bool


class PolicyExplanation(NamedTuple):
    """One policy that binds the agent; `decided` marks the policy that decided its stage."""

    policy_id: str
    policy_name: str
    priority: int
    outcome: Outcome
    shadow: bool
    held: bool
    decided: bool
    conditions: tuple[ConditionExplanation, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, with the fields of `Decision`, and everything that led to it.

    `policy` and `shadow` are records instead of compiled policies, with the same ids, names and priorities.
    """

    outcome: Outcome
    reason: Reason
    risk_score: int = 0
    policy: PolicyRecord | None = None
    mfa_required: bool = False
    retry_after: float | None = None
    cost_micros: int = 0
    shadow: tuple[PolicyRecord, ...] = ()
    stages: tuple[StageExplanation, ...] = ()
    policies: tuple[PolicyExplanation, ...] = ()
    would_allow: tuple[str, ...] = ()


def explain(
    records: Records,
    action: Action,
    usage: History,
    now: Now,
    *,
    approved: bool = False,
    stale: StaleMode | None = None,
) -> Explanation:
    """Why `action` is decided as it is at `now`, and the nearest changes after which it is allowed; counts nothing."""
    if records.agent is None:
        return _explain_unregistered(action, stale)
    situation = Situation(
        records.agent, records.organisation, records.servers, action, deepcopy(usage), now, approved, stale
    )
    explanation = walk(situation)
    return replace(
        explanation, policies=_policies(situation, explanation), would_allow=_changes_that_allow(situation, explanation)
    )


def _explain_unregistered(action: Action, stale: StaleMode | None) -> Explanation:
    """The explanation for an unregistered agent: only the first two stages apply."""
    freshness = registry_data(stale)
    stages = [_stage_explanation(STAGES[0][0], freshness)]
    if freshness.ruling is None:
        stages.append(
            StageExplanation("agent", Verdict.DECIDED, f"no agent {quote(action.agent_id)} is registered here")
        )
    stages += [StageExplanation(name, Verdict.NOT_REACHED, "") for name, _ in STAGES[len(stages) :]]
    outcome, reason, _ = freshness.ruling or Ruling(Outcome.BLOCK, Reason.AGENT_NOT_REGISTERED)
    return Explanation(outcome, reason, stages=tuple(stages))


def walk(situation: Situation) -> Explanation:
    """The procedure itself: the first stage with a ruling decides; an allow may need MFA; an approval then allows.

    Stale data escalates whatever is not blocked; an approval does not change that.
    """
    ruling: Ruling | None = None
    stages = []
    for name, stage in STAGES:
        if ruling is not None and not (stage is mfa and ruling.outcome is Outcome.ALLOW):
            stages.append(StageExplanation(name, Verdict.NOT_REACHED, ""))
            continue
        finding = stage(situation)
        stages.append(_stage_explanation(name, finding))
        ruling = finding.ruling or ruling
    ruling = ruling or NO_RULING
    if situation.stale is StaleMode.ESCALATE and ruling.outcome is not Outcome.BLOCK:
        ruling = Ruling(Outcome.ESCALATE, Reason.REGISTRY_STALE)
        stages[0] = stages[0]._replace(verdict=Verdict.DECIDED)
    elif situation.approved and ruling.outcome in (Outcome.REQUIRE_APPROVAL, Outcome.ESCALATE):
        ruling = Ruling(Outcome.ALLOW, Reason.APPROVED)
    return _explanation(situation, ruling, tuple(stages))


def _stage_explanation(stage: str, finding: Finding) -> StageExplanation:
    return StageExplanation(stage, Verdict.DECIDED if finding.ruling else Verdict.PASSED, finding.detail)


def _explanation(situation: Situation, ruling: Ruling, stages: tuple[StageExplanation, ...]) -> Explanation:
    outcome, reason, retry_after = ruling
    if reason < Reason.POLICY_MATCHED or situation.stale is StaleMode.BLOCK:  # blocked before the policies
        return Explanation(outcome, reason, situation.risk, retry_after=retry_after, stages=stages)
    needs_mfa = outcome is not Outcome.BLOCK and reason is not Reason.APPROVED and mfa(situation).ruling is not None
    return Explanation(
        outcome,
        reason,
        situation.risk,
        policy=deciding_policy(situation),
        mfa_required=needs_mfa,
        cost_micros=(situation.action.estimated_cost_micros or 0) if outcome is Outcome.ALLOW else 0,
        shadow=tuple(policy for policy in policies_of(situation, Mode.SHADOW) if held(policy, situation)),
        stages=stages,
    )


def _policies(situation: Situation, explanation: Explanation) -> tuple[PolicyExplanation, ...]:
    bound = policies_of(situation, Mode.ENFORCE) + policies_of(situation, Mode.SHADOW)
    return tuple(_policy_explanation(policy, situation, policy is explanation.policy) for policy in bound)


def _policy_explanation(policy: PolicyRecord, situation: Situation, decided: bool) -> PolicyExplanation:
    return PolicyExplanation(
        policy.policy_id,
        policy.policy_name,
        policy.priority,
        policy.policy_action,
        policy.mode is Mode.SHADOW,
        held(policy, situation),
        decided,
        tuple(_condition_explanation(clause, policy, situation) for clause in clauses(policy.conditions)),
    )


def _condition_explanation(clause: Clause, policy: PolicyRecord, situation: Situation) -> ConditionExplanation:
    expected, seen = clause.operand, value_seen(clause, situation)
    name = clause.name
    if name == "attribute_equals":
        path, expected = expected
        name = f"{name} {path}"
    shown = str(seen) if seen is MISSING else _json(seen)
    return ConditionExplanation(name, _json(expected), shown, clause_held(clause, policy, situation))


def _changes_that_allow(situation: Situation, explanation: Explanation) -> tuple[str, ...]:
    """The nearest single changes that allow the action; if there are none, pairs; if there are none, one chain.

    Each one is tried: the procedure itself allowed the action after every change listed here.
    """
    if explanation.outcome is Outcome.ALLOW:
        return ()
    policies = len(policies_of(situation, Mode.ENFORCE))
    tries = iter(range(max(MIN_TRIES, MAX_POLICIES_READ // (1 + policies))))
    single = [change for change, then in _try_changes(situation, explanation, tries) if then.outcome is Outcome.ALLOW]
    found = merged(single or _pairs(situation, explanation, tries)) or _chain(situation, explanation, tries)
    return tuple(found[:MAX_SUGGESTIONS])


def _try_changes(
    situation: Situation, explanation: Explanation, tries: Iterator[int]
) -> Iterator[tuple[Change, Explanation]]:
    """Each change with the explanation after it, for as long as tries are left."""
    for _, change in zip(tries, changes(situation, explanation.reason, explanation.policy), strict=False):
        yield change, walk(change.situation)


def _pairs(situation: Situation, explanation: Explanation, tries: Iterator[int]) -> Iterator[Change]:
    for first, then in _try_changes(situation, explanation, tries):
        if (then.reason, then.policy) != (explanation.reason, explanation.policy):
            for second, last in _try_changes(first.situation, then, tries):
                if last.outcome is Outcome.ALLOW:
                    yield second._replace(what=f"{first}, and {second.what}")


def _chain(situation: Situation, explanation: Explanation, tries: Iterator[int]) -> list[str]:
    """Changes that together allow the action, each the first one that gets the procedure further; empty if stuck."""
    steps: list[str] = []
    while explanation.outcome is not Outcome.ALLOW:
        reached = _reach(explanation)
        further = next((one for one in _try_changes(situation, explanation, tries) if _reach(one[1]) > reached), None)
        if further is None or len(steps) == MAX_CHAIN:
            return []
        change, explanation = further
        situation = change.situation
        steps.append(str(change))
    return [", and ".join(steps)]


def _reach(explanation: Explanation) -> tuple[float, int, bool]:
    """How far the procedure came: the stage that decided, the policy, and whether the data is fresh."""
    if explanation.outcome is Outcome.ALLOW:
        return inf, 0, True
    freshness, *later = explanation.stages
    decided = next((index for index, stage in enumerate(later) if stage.verdict is Verdict.DECIDED), -1)
    priority = explanation.policy.priority if explanation.policy else 0
    return decided, priority, freshness.verdict is not Verdict.DECIDED


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
