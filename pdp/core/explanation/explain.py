"""The decision told stage by stage, straight from the records: slow, obvious, and what `decide` is tested against.

Nothing here is compiled or cached; each stage is a function that reads as its row of the specification.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from enum import IntEnum
from math import inf
from typing import NamedTuple

from pdp.core.conditions import MISSING, Clause, clauses
from pdp.core.explanation.nearest import Change, changes, merged
from pdp.core.explanation.situation import History, Records, Situation, clause_held, held, policies_of, value_seen
from pdp.core.explanation.stages import STAGES, Finding, Ruling, deciding_policy, mfa, registry_data
from pdp.core.fields import quote
from pdp.core.model import Action, Mode, Now, Outcome, PolicyRecord, Reason, StaleMode

MAX_POLICIES_READ = 50_000
"""Over all changes that are tried, so that an agent with thousands of policies is explained in about a second."""

MIN_TRIED = 8
MAX_CHAINED = 6
MAX_SUGGESTIONS = 8
NO_RULING = Ruling(Outcome.BLOCK, Reason.INTERNAL_ERROR)


class Verdict(IntEnum):
    """What came of a stage; the values are those of `pdp.v1.Verdict`."""

    PASSED = 1
    DECIDED = 2
    NOT_REACHED = 3


class StageVerdict(NamedTuple):
    """What came of one stage, and why."""

    stage: str
    verdict: Verdict
    detail: str


class ConditionVerdict(NamedTuple):
    """One condition of a policy: what it expects and what it saw, both as JSON, and whether it held."""

    operator: str
    expected: str
    seen: str
    held: bool


class PolicyVerdict(NamedTuple):
    """One policy that binds the agent; `decided` marks the one that gave the outcome of its stage."""

    policy_id: str
    policy_name: str
    priority: int
    outcome: Outcome
    shadow: bool
    held: bool
    decided: bool
    conditions: tuple[ConditionVerdict, ...]


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
    stages: tuple[StageVerdict, ...] = ()
    policies: tuple[PolicyVerdict, ...] = ()
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
        return _unregistered(action, stale)
    situation = Situation(
        records.agent, records.organisation, records.servers, action, deepcopy(usage), now, approved, stale
    )
    explanation = walk(situation)
    return replace(
        explanation, policies=_policies(situation, explanation), would_allow=_would_allow(situation, explanation)
    )


def _unregistered(action: Action, stale: StaleMode | None) -> Explanation:
    """The action of an agent without records: only the first two stages can be asked."""
    freshness = registry_data(stale)
    told = [_verdict(STAGES[0][0], freshness)]
    if freshness.ruling is None:
        told.append(StageVerdict("agent", Verdict.DECIDED, f"no agent {quote(action.agent_id)} is registered here"))
    told += [StageVerdict(name, Verdict.NOT_REACHED, "") for name, _ in STAGES[len(told) :]]
    outcome, reason, _ = freshness.ruling or Ruling(Outcome.BLOCK, Reason.AGENT_NOT_REGISTERED)
    return Explanation(outcome, reason, stages=tuple(told))


def walk(situation: Situation) -> Explanation:
    """The procedure itself: the first stage that rules decides; MFA may hold back an allow; a person may let pass.

    Stale data escalates what is not blocked, and no person lets that pass.
    """
    ruling: Ruling | None = None
    told = []
    for name, stage in STAGES:
        if ruling is not None and not (stage is mfa and ruling.outcome is Outcome.ALLOW):
            told.append(StageVerdict(name, Verdict.NOT_REACHED, ""))
            continue
        finding = stage(situation)
        told.append(_verdict(name, finding))
        ruling = finding.ruling or ruling
    ruling = ruling or NO_RULING
    if situation.stale is StaleMode.ESCALATE and ruling.outcome is not Outcome.BLOCK:
        ruling = Ruling(Outcome.ESCALATE, Reason.REGISTRY_STALE)
        told[0] = told[0]._replace(verdict=Verdict.DECIDED)
    elif situation.approved and ruling.outcome in (Outcome.REQUIRE_APPROVAL, Outcome.ESCALATE):
        ruling = Ruling(Outcome.ALLOW, Reason.APPROVED)
    return _explanation(situation, ruling, tuple(told))


def _verdict(stage: str, finding: Finding) -> StageVerdict:
    return StageVerdict(stage, Verdict.DECIDED if finding.ruling else Verdict.PASSED, finding.detail)


def _explanation(situation: Situation, ruling: Ruling, told: tuple[StageVerdict, ...]) -> Explanation:
    outcome, reason, retry_after = ruling
    if reason < Reason.POLICY_MATCHED or situation.stale is StaleMode.BLOCK:  # blocked before any policy was asked
        return Explanation(outcome, reason, situation.risk, retry_after=retry_after, stages=told)
    needs_mfa = outcome is not Outcome.BLOCK and reason is not Reason.APPROVED and mfa(situation).ruling is not None
    return Explanation(
        outcome,
        reason,
        situation.risk,
        policy=deciding_policy(situation),
        mfa_required=needs_mfa,
        cost_micros=(situation.action.estimated_cost_micros or 0) if outcome is Outcome.ALLOW else 0,
        shadow=tuple(policy for policy in policies_of(situation, Mode.SHADOW) if held(policy, situation)),
        stages=told,
    )


def _policies(situation: Situation, explanation: Explanation) -> tuple[PolicyVerdict, ...]:
    bound = policies_of(situation, Mode.ENFORCE) + policies_of(situation, Mode.SHADOW)
    return tuple(_policy_verdict(policy, situation, policy is explanation.policy) for policy in bound)


def _policy_verdict(policy: PolicyRecord, situation: Situation, decided: bool) -> PolicyVerdict:
    return PolicyVerdict(
        policy.policy_id,
        policy.policy_name,
        policy.priority,
        policy.policy_action,
        policy.mode is Mode.SHADOW,
        held(policy, situation),
        decided,
        tuple(_condition_verdict(clause, policy, situation) for clause in clauses(policy.conditions)),
    )


def _condition_verdict(clause: Clause, policy: PolicyRecord, situation: Situation) -> ConditionVerdict:
    expected, seen = clause.operand, value_seen(clause, situation)
    name = clause.name
    if name == "attribute_equals":
        path, expected = expected
        name = f"{name} {path}"
    told = str(seen) if seen is MISSING else _json(seen)
    return ConditionVerdict(name, _json(expected), told, clause_held(clause, policy, situation))


def _would_allow(situation: Situation, explanation: Explanation) -> tuple[str, ...]:
    """The nearest single changes that allow; where there is none, pairs; where there is none, one chain.

    Each is tried: what stands here was allowed by the procedure itself.
    """
    if explanation.outcome is Outcome.ALLOW:
        return ()
    policies = len(policies_of(situation, Mode.ENFORCE))
    left = iter(range(max(MIN_TRIED, MAX_POLICIES_READ // (1 + policies))))
    single = [change for change, then in _tried(situation, explanation, left) if then.outcome is Outcome.ALLOW]
    found = merged(single or _pairs(situation, explanation, left)) or _chain(situation, explanation, left)
    return tuple(found[:MAX_SUGGESTIONS])


def _tried(situation: Situation, explanation: Explanation, left: Iterator[int]) -> Iterator[tuple[Change, Explanation]]:
    """Each change with what it leads to, for as long as tries are left."""
    for _, change in zip(left, changes(situation, explanation.reason, explanation.policy), strict=False):
        yield change, walk(change.situation)


def _pairs(situation: Situation, explanation: Explanation, left: Iterator[int]) -> Iterator[Change]:
    for first, then in _tried(situation, explanation, left):
        if (then.reason, then.policy) != (explanation.reason, explanation.policy):
            for second, last in _tried(first.situation, then, left):
                if last.outcome is Outcome.ALLOW:
                    yield second._replace(what=f"{first}, and {second.what}")


def _chain(situation: Situation, explanation: Explanation, left: Iterator[int]) -> list[str]:
    """Changes that allow together, each the first after which the procedure comes further; none if it gets stuck."""
    told: list[str] = []
    while explanation.outcome is not Outcome.ALLOW:
        reached = _reach(explanation)
        further = next((step for step in _tried(situation, explanation, left) if _reach(step[1]) > reached), None)
        if further is None or len(told) == MAX_CHAINED:
            return []
        change, explanation = further
        situation = change.situation
        told.append(str(change))
    return [", and ".join(told)]


def _reach(explanation: Explanation) -> tuple[float, int, bool]:
    """How far the procedure came: by the stage that decided, by the policy, and by whether its data is fresh."""
    if explanation.outcome is Outcome.ALLOW:
        return inf, 0, True
    freshness, *later = explanation.stages
    decided = next((index for index, stage in enumerate(later) if stage.verdict is Verdict.DECIDED), -1)
    priority = explanation.policy.priority if explanation.policy else 0
    return decided, priority, freshness.verdict is not Verdict.DECIDED


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
