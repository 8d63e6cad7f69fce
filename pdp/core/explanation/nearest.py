"""Candidate changes that might allow an action, each at the nearest value that makes a difference.

Their number is bounded, and they come from what the deciding rule checks; `explain` tries each of them. If a policy
decides, the action type and the MCP server stay: with another one it would be another action.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf, isfinite, nextafter
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from pdp.core.conditions import Clause, clauses
from pdp.core.explanation.situation import Situation, clause_held, policies_of
from pdp.core.explanation.stages import WEEKDAYS, limits_of, thresholds
from pdp.core.fields import quote
from pdp.core.messages import dollars, tenths
from pdp.core.model import Mode, Now, Outcome, PolicyRecord, Reason, ServerRecord, Status, Transport

MAX_NAMED = 8
"""How many of a rule's names (resources, tools, …) are tried."""

DAYS = 8
"""Today and a whole week: within them every window opens."""

ANYTHING_ELSE = "something-else"


class Change(NamedTuple):
    """One change: in words (`what`, and its new `value`), and the situation after it.

    Changes of the same `what` are listed together if `alternative`; otherwise only the nearest one is listed.
    """

    what: str
    value: str
    situation: Situation
    alternative: bool = False

    def __str__(self) -> str:
        return f"{self.what} {self.value}".rstrip()


AnyNumber = TypeVar("AnyNumber", int, float)
Dimension = Callable[[Situation, list[Clause]], Iterator[Change]]
"""The changes of one thing, nearest first; the clauses are the relevant conditions of policies."""


def changes(situation: Situation, reason: Reason, policy: PolicyRecord | None) -> Iterator[Change]:
    """The changes that are relevant to the reason of the decision."""
    by_policy = reason >= Reason.POLICY_MATCHED and reason is not Reason.REGISTRY_STALE
    relevant = _relevant_clauses(situation, policy) if by_policy else []
    operators = [name for clause in relevant for name in clause.name.split(", ") if name in _BY_OPERATOR]
    for dimension in dict.fromkeys((*_BY_REASON.get(reason, ()), *map(_BY_OPERATOR.__getitem__, operators))):
        yield from dimension(situation, relevant)


def merged(found: Iterable[Change]) -> list[str]:
    """The changes in words, with alternatives joined."""
    values: dict[str, list[str]] = {}
    for change in found:
        listed = values.setdefault(change.what, [])
        if not listed or (change.alternative and change.value not in listed):
            listed.append(change.value)
    return [f"{what} {' or '.join(listed)}".rstrip() for what, listed in values.items()]


def _relevant_clauses(situation: Situation, policy: PolicyRecord | None) -> list[Clause]:
    """The relevant conditions: those of the deciding policy, and of each earlier allow the only one that fails."""
    relevant = list(clauses(policy.conditions)) if policy is not None else []
    for earlier in policies_of(situation, Mode.ENFORCE):
        if earlier is policy:
            break
        failing = [clause for clause in clauses(earlier.conditions) if not clause_held(clause, earlier, situation)]
        if earlier.policy_action is Outcome.ALLOW and len(failing) == 1:
            relevant += failing
    return relevant


def _with_action(situation: Situation, **fields: Any) -> Situation:
    return situation._replace(action=replace(situation.action, **fields))


def _active(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    yield Change("the agent active", "", situation._replace(agent=replace(situation.agent, status=Status.ACTIVE)))


def _confirmed(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    yield Change("the registry data confirmed by the store", "", situation._replace(stale=None))


def _registered(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    name = situation.action.mcp_server
    server = ServerRecord(name, name, "", "", Transport.HTTP, True, (), (), {})
    servers = {**situation.servers, name: server}
    yield Change(f"MCP server {quote(name)} registered", "", situation._replace(servers=servers))


def _mfa(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    yield Change("MFA verified", "", _with_action(situation, mfa_verified=True))


def _risks(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    low, high = thresholds(situation)
    mfa = situation.agent.requires_mfa_above
    down, up = {high: f"at most {high}", mfa: f"at most {mfa}", low - 1: f"below {low}"}, {}
    for policy in policies_of(situation, Mode.ENFORCE):
        for name, score in policy.conditions.items():
            if name == "risk_above":
                down[score], up[score + 1] = f"at most {score}", f"above {score}"
            elif name == "risk_below":
                down[score - 1], up[score] = f"below {score}", f"at least {score}"
    for risk, text in _nearest(situation.risk, down, up):
        if risk >= 0:
            where, changed = _with_risk(situation, risk)
            yield Change("risk", text + where, changed)


def _nearest(now: float, down: Mapping[AnyNumber, str], up: Mapping[AnyNumber, str]) -> list[tuple[AnyNumber, str]]:
    """The lower and the higher values with their descriptions, the nearest to `now` first."""
    edges = [edge for edge in down.items() if edge[0] < now] + [edge for edge in up.items() if edge[0] > now]
    return sorted(edges, key=lambda edge: abs(edge[0] - now))


def _with_risk(situation: Situation, risk: int) -> tuple[str, Situation]:
    """Which score of the registry must change for the effective risk to be `risk`, and the situation then."""
    agent, action, governing = situation.agent, situation.action, situation.governing
    if governing is not None and action.tool in governing.tool_risk_overrides:
        other = replace(governing, tool_risk_overrides={**governing.tool_risk_overrides, action.tool: risk})
        servers = {**situation.servers, action.mcp_server: other}
        return f" in tool_risk_overrides of {quote(action.mcp_server)}", situation._replace(servers=servers)
    changed = _with_action(situation, risk_score=risk)
    if agent.action_risk_scores.get(action.action_type, 0) <= risk:
        return "", changed
    scores = {**agent.action_risk_scores, action.action_type: risk}
    return ", in action_risk_scores too", changed._replace(agent=replace(agent, action_risk_scores=scores))


def _amounts(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    down: dict[float, str] = {}
    up: dict[float, str] = {}
    for name, _, n in relevant:
        if name == "amount_above":
            down[float(n)], up[nextafter(n, inf)] = f"at most {n}", f"above {n}"
        elif name == "amount_below":
            down[nextafter(n, -inf)], up[float(n)] = f"below {n}", f"at least {n}"
    given = situation.action.amount
    edges = [*down.items(), *up.items()] if given is None else _nearest(given, down, up)
    for amount, text in edges:
        yield Change("amount", text, _with_action(situation, amount=amount))


def _costs(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    budget = situation.agent.max_daily_budget_usd
    left = max(0, int((budget or 0) * 1_000_000) - situation.usage.spent(situation.local.day))
    yield Change("estimated cost", f"at most {dollars(left)}", _with_action(situation, estimated_cost_micros=left))


def _waits(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    wait = situation.usage.wait(limits_of(situation.agent), situation.now.boot)
    if isfinite(wait):
        seconds = tenths(wait)
        yield Change("in", f"{seconds:.1f} s", _later(situation, seconds))


def _times(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    """The next times at which the window opens, an hour of a condition begins, or a day begins."""
    agent, zone = situation.agent, ZoneInfo(situation.agent.time_window_timezone)
    clocks = {(0, 0)} | {(hour, 0) for name, _, hours in relevant if "hour" in name for hour in _hours(hours)}
    if agent.time_window_enabled:
        start = agent.time_window_start
        clocks.add((int(start[:2]), int(start[3:])))
    today = datetime.fromordinal(situation.local.day).replace(tzinfo=zone)
    instants = {
        (today + timedelta(days=days)).replace(hour=hour, minute=minute, fold=fold).timestamp(): (days, hour, minute)
        for days in range(DAYS)
        for hour, minute in clocks
        for fold in (0, 1)
    }
    for instant in sorted(instants):
        if instant > situation.now.wall:
            days, hour, minute = instants[instant]
            date = (today + timedelta(days=days)).date()
            text = f"{hour:02}:{minute:02} {zone.key} on {WEEKDAYS[date.isoweekday()]} {date}"
            yield Change("after", text, _later(situation, instant - situation.now.wall))


def _hours(operand: Any) -> list[int]:
    return [hour for hour in (operand if isinstance(operand, tuple) else (operand,)) if hour < 24]


def _later(situation: Situation, seconds: float) -> Situation:
    # Windows only roll forward, so each look into the future needs a separate copy.
    wall, boot = situation.now
    return situation._replace(now=Now(wall + seconds, boot + seconds), usage=deepcopy(situation.usage))


def _data_classifications(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    agent, carried = situation.agent, situation.action.data_classifications
    allowed, named = agent.allowed_data_classifications, _named(relevant, ("data_classification",))
    unwanted = {label for label in carried if label in agent.blocked_data_classifications or label in named}
    unwanted |= {label for label in carried if allowed and label not in allowed}
    if unwanted:
        rest = tuple(label for label in carried if label not in unwanted)
        what = f"without data classification {' and '.join(map(quote, sorted(unwanted)))}"
        yield Change(what, "", _with_action(situation, data_classifications=rest))
    for label in [label for label in (*allowed, *named) if label not in carried][:MAX_NAMED]:
        more = _with_action(situation, data_classifications=(*carried, label))
        yield Change("with data classification", quote(label), more, alternative=True)


def _attributes(situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
    attributes = situation.action.attributes
    for clause in relevant:
        if clause.name == "attribute_equals":
            path, wanted = clause.operand
            what = f"attribute {quote(path)}"
            equal = _with_action(situation, attributes=_with_attribute(attributes, path, wanted))
            yield Change(what, f"equal to {quote(wanted)}", equal)
            other = ANYTHING_ELSE if wanted != ANYTHING_ELSE else None
            unequal = _with_action(situation, attributes=_with_attribute(attributes, path, other))
            yield Change(what, f"other than {quote(wanted)}", unequal)


def _with_attribute(attributes: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    if rest:
        inner = attributes.get(name)
        value = _with_attribute(inner if isinstance(inner, Mapping) else {}, rest, value)
    return {**attributes, name: value}


@dataclass(frozen=True, slots=True)
class _OtherTexts:
    """Other values of a text field: those that the agent may use, those that policies name, and any other."""

    field: str
    operators: tuple[str, ...]
    allowed: Callable[[Situation], Iterable[str]]
    outside: str

    def __call__(self, situation: Situation, relevant: list[Clause]) -> Iterator[Change]:
        label = self.field.replace("_", " ")
        named = _named(relevant, self.operators)
        for value in list(dict.fromkeys((*self.allowed(situation), *named)))[:MAX_NAMED]:
            yield Change(label, quote(value), _with_action(situation, **{self.field: value}), alternative=True)
        what = f"other than {' and '.join(map(quote, named))}" if named else f"outside {self.outside}"
        yield Change(f"{label} {what}", "", _with_action(situation, **{self.field: ANYTHING_ELSE}))


def _named(relevant: list[Clause], operators: tuple[str, ...]) -> list[str]:
    """The values in the conditions with these operators; a glob is its own example, since it matches itself."""
    named: dict[str, None] = {}
    for name, _, operand in relevant:
        if name in operators:
            named |= dict.fromkeys([operand] if isinstance(operand, str) else operand)
    return list(named)


_action_types = _OtherTexts("action_type", (), lambda s: s.agent.allowed_action_types, "the allowed ones")
_resources = _OtherTexts(
    "resource",
    ("resource_in", "resource_not_in", "resource_matches"),
    lambda s: s.agent.allowed_resources,
    "blocked_resources",
)
_tools = _OtherTexts(
    "tool",
    ("tool_in",),
    lambda s: s.agent.mcp_capabilities.get(s.action.mcp_server, ()),
    "blocked_tools",
)
_environments = _OtherTexts("environment", ("environment",), lambda s: (), "the policies")

_BY_REASON: Mapping[Reason, tuple[Dimension, ...]] = {
    Reason.AGENT_NOT_ACTIVE: (_active,),
    Reason.ACTION_NOT_ALLOWED: (_action_types,),
    Reason.RESOURCE_BLOCKED: (_resources,),
    Reason.RESOURCE_NOT_ALLOWED: (_resources,),
    Reason.DATA_CLASSIFICATION_BLOCKED: (_data_classifications,),
    Reason.MCP_SERVER_NOT_REGISTERED: (_registered,),
    Reason.MCP_TOOL_BLOCKED: (_tools,),
    Reason.OUTSIDE_TIME_WINDOW: (_times,),
    Reason.RATE_LIMIT_EXCEEDED: (_waits,),
    Reason.BUDGET_EXCEEDED: (_costs, _times),
    Reason.RISK_ABOVE_MAXIMUM: (_risks,),
    Reason.RISK_NEEDS_APPROVAL: (_risks,),
    Reason.MFA_REQUIRED: (_mfa, _risks),
    Reason.REGISTRY_STALE: (_confirmed,),
}
_BY_OPERATOR: Mapping[str, Dimension] = {
    "risk_above": _risks,
    "risk_below": _risks,
    "amount_above": _amounts,
    "amount_below": _amounts,
    "resource_in": _resources,
    "resource_not_in": _resources,
    "resource_matches": _resources,
    "data_classification": _data_classifications,
    "hour_after": _times,
    "hour_before": _times,
    "day_in": _times,
    "tool_in": _tools,
    "attribute_equals": _attributes,
    "environment": _environments,
}
