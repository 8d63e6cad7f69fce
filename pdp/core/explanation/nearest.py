"""Changes that might allow an action: what could be other than it is, at the nearest value where that matters.

These are candidates, bounded in number and taken from what the deciding rule looks at; `explain` tries each of them.
The action type and the MCP server stay as they are wherever a policy decides: another one would be another action.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf, isfinite, nextafter
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from pdp.core.amounts import dollars, tenths
from pdp.core.conditions import Clause, clauses
from pdp.core.explanation.situation import Situation, clause_held, policies_of
from pdp.core.explanation.stages import WEEKDAYS, limits_of, thresholds
from pdp.core.fields import quote
from pdp.core.model import Mode, Now, Outcome, PolicyRecord, Reason, ServerRecord, Status, Transport

MAX_NAMED = 8
"""How many of a rule's own names (resources, tools, …) are tried."""

DAYS = 8
"""Today and a whole week: within them every window opens."""

ANYTHING_ELSE = "something-else"


class Change(NamedTuple):
    """One thing other than it is: in words (`what`, and its new `value`), and the situation then.

    Where `alternative`, it stands beside the others of the same `what`; else only the nearest of them is told.
    """

    what: str
    value: str
    situation: Situation
    alternative: bool = False

    def __str__(self) -> str:
        return f"{self.what} {self.value}".rstrip()


AnyNumber = TypeVar("AnyNumber", int, float)
Dimension = Callable[[Situation, list[Clause]], Iterator[Change]]
"""The changes of one thing, nearest first; the clauses are the conditions of policies that matter."""


def changes(situation: Situation, reason: Reason, policy: PolicyRecord | None) -> Iterator[Change]:
    """The changes that bear on why the action was decided."""
    by_policy = reason >= Reason.POLICY_MATCHED and reason is not Reason.REGISTRY_STALE
    bearing = _bearing(situation, policy) if by_policy else []
    operators = [name for clause in bearing for name in clause.name.split(", ") if name in _BY_OPERATOR]
    for dimension in dict.fromkeys((*_BY_REASON.get(reason, ()), *map(_BY_OPERATOR.__getitem__, operators))):
        yield from dimension(situation, bearing)


def merged(found: Iterable[Change]) -> list[str]:
    """The changes in words, alternatives to each other as one."""
    values: dict[str, list[str]] = {}
    for change in found:
        told = values.setdefault(change.what, [])
        if not told or (change.alternative and change.value not in told):
            told.append(change.value)
    return [f"{what} {' or '.join(told)}".rstrip() for what, told in values.items()]


def _bearing(situation: Situation, policy: PolicyRecord | None) -> list[Clause]:
    """The conditions that matter: those of the deciding policy, and the one that fails of each allow before it."""
    bearing = list(clauses(policy.conditions)) if policy is not None else []
    for earlier in policies_of(situation, Mode.ENFORCE):
        if earlier is policy:
            break
        failing = [clause for clause in clauses(earlier.conditions) if not clause_held(clause, earlier, situation)]
        if earlier.policy_action is Outcome.ALLOW and len(failing) == 1:
            bearing += failing
    return bearing


def _act(situation: Situation, **fields: Any) -> Situation:
    return situation._replace(action=replace(situation.action, **fields))


def _active(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    yield Change("the agent active", "", situation._replace(agent=replace(situation.agent, status=Status.ACTIVE)))


def _confirmed(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    yield Change("the registry data confirmed by the store", "", situation._replace(stale=None))


def _registered(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    name = situation.action.mcp_server
    server = ServerRecord(name, name, "", "", Transport.HTTP, True, (), (), {})
    servers = {**situation.servers, name: server}
    yield Change(f"MCP server {quote(name)} registered", "", situation._replace(servers=servers))


def _mfa(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    yield Change("MFA verified", "", _act(situation, mfa_verified=True))


def _risks(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    low, high = thresholds(situation)
    mfa = situation.agent.requires_mfa_above
    down, up = {high: f"at most {high}", mfa: f"at most {mfa}", low - 1: f"below {low}"}, {}
    for policy in policies_of(situation, Mode.ENFORCE):
        for name, score in policy.conditions.items():
            if name == "risk_above":
                down[score], up[score + 1] = f"at most {score}", f"above {score}"
            elif name == "risk_below":
                down[score - 1], up[score] = f"below {score}", f"at least {score}"
    for risk, told in _nearest(situation.risk, down, up):
        if risk >= 0:
            where, changed = _with_risk(situation, risk)
            yield Change("risk", told + where, changed)


def _nearest(now: float, down: Mapping[AnyNumber, str], up: Mapping[AnyNumber, str]) -> list[tuple[AnyNumber, str]]:
    """The values to come down to and to go up to, with what is said of them, those next to `now` first."""
    edges = [edge for edge in down.items() if edge[0] < now] + [edge for edge in up.items() if edge[0] > now]
    return sorted(edges, key=lambda edge: abs(edge[0] - now))


def _with_risk(situation: Situation, risk: int) -> tuple[str, Situation]:
    """The situation in which the effective risk is `risk`, and which of the registry's own scores that takes."""
    agent, action, governing = situation.agent, situation.action, situation.governing
    if governing is not None and action.tool in governing.tool_risk_overrides:
        other = replace(governing, tool_risk_overrides={**governing.tool_risk_overrides, action.tool: risk})
        servers = {**situation.servers, action.mcp_server: other}
        return f" in tool_risk_overrides of {quote(action.mcp_server)}", situation._replace(servers=servers)
    changed = _act(situation, risk_score=risk)
    if agent.action_risk_scores.get(action.action_type, 0) <= risk:
        return "", changed
    scores = {**agent.action_risk_scores, action.action_type: risk}
    return ", in action_risk_scores too", changed._replace(agent=replace(agent, action_risk_scores=scores))


def _amounts(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    down: dict[float, str] = {}
    up: dict[float, str] = {}
    for name, _, n in bearing:
        if name == "amount_above":
            down[float(n)], up[nextafter(n, inf)] = f"at most {n}", f"above {n}"
        elif name == "amount_below":
            down[nextafter(n, -inf)], up[float(n)] = f"below {n}", f"at least {n}"
    given = situation.action.amount
    edges = [*down.items(), *up.items()] if given is None else _nearest(given, down, up)
    for amount, told in edges:
        yield Change("amount", told, _act(situation, amount=amount))


def _costs(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    budget = situation.agent.max_daily_budget_usd
    left = max(0, int((budget or 0) * 1_000_000) - situation.usage.spent(situation.local.day))
    yield Change("estimated cost", f"at most {dollars(left)}", _act(situation, estimated_cost_micros=left))


def _waits(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    wait = situation.usage.wait(limits_of(situation.agent), situation.now.boot)
    if isfinite(wait):
        seconds = tenths(wait)
        yield Change("in", f"{seconds:.1f} s", _later(situation, seconds))


def _times(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    """The next times at which the window opens, a named hour begins, or a day does."""
    agent, zone = situation.agent, ZoneInfo(situation.agent.time_window_timezone)
    clocks = {(0, 0)} | {(hour, 0) for name, _, hours in bearing if "hour" in name for hour in _hours(hours)}
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
            told = f"{hour:02}:{minute:02} {zone.key} on {WEEKDAYS[date.isoweekday()]} {date}"
            yield Change("after", told, _later(situation, instant - situation.now.wall))


def _hours(operand: Any) -> list[int]:
    return [hour for hour in (operand if isinstance(operand, tuple) else (operand,)) if hour < 24]


def _later(situation: Situation, seconds: float) -> Situation:
    # Windows only roll forward, so that each look into the future takes a copy of its own.
    wall, boot = situation.now
    return situation._replace(now=Now(wall + seconds, boot + seconds), usage=deepcopy(situation.usage))


def _data_classifications(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    agent, carried = situation.agent, situation.action.data_classifications
    allowed, named = agent.allowed_data_classifications, _named(bearing, ("data_classification",))
    unwanted = {label for label in carried if label in agent.blocked_data_classifications or label in named}
    unwanted |= {label for label in carried if allowed and label not in allowed}
    if unwanted:
        rest = tuple(label for label in carried if label not in unwanted)
        what = f"without data classification {' and '.join(map(quote, sorted(unwanted)))}"
        yield Change(what, "", _act(situation, data_classifications=rest))
    for label in [label for label in (*allowed, *named) if label not in carried][:MAX_NAMED]:
        more = _act(situation, data_classifications=(*carried, label))
        yield Change("with data classification", quote(label), more, alternative=True)


def _attributes(situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
    attributes = situation.action.attributes
    for clause in bearing:
        if clause.name == "attribute_equals":
            path, wanted = clause.operand
            what = f"attribute {quote(path)}"
            equal = _act(situation, attributes=_with_attribute(attributes, path, wanted))
            yield Change(what, f"equal to {quote(wanted)}", equal)
            other = ANYTHING_ELSE if wanted != ANYTHING_ELSE else None
            unequal = _act(situation, attributes=_with_attribute(attributes, path, other))
            yield Change(what, f"other than {quote(wanted)}", unequal)


def _with_attribute(attributes: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    if rest:
        inner = attributes.get(name)
        value = _with_attribute(inner if isinstance(inner, Mapping) else {}, rest, value)
    return {**attributes, name: value}


@dataclass(frozen=True, slots=True)
class _OtherText:
    """Other values of a text field: those that the agent may use, those that the policies name, and any other."""

    field: str
    operators: tuple[str, ...]
    allowed: Callable[[Situation], Iterable[str]]
    outside: str

    def __call__(self, situation: Situation, bearing: list[Clause]) -> Iterator[Change]:
        label = self.field.replace("_", " ")
        named = _named(bearing, self.operators)
        for value in list(dict.fromkeys((*self.allowed(situation), *named)))[:MAX_NAMED]:
            yield Change(label, quote(value), _act(situation, **{self.field: value}), alternative=True)
        what = f"other than {' and '.join(map(quote, named))}" if named else f"outside {self.outside}"
        yield Change(f"{label} {what}", "", _act(situation, **{self.field: ANYTHING_ELSE}))


def _named(bearing: list[Clause], operators: tuple[str, ...]) -> list[str]:
    """What these operators name; a glob stands for itself, since it matches itself."""
    named: dict[str, None] = {}
    for name, _, operand in bearing:
        if name in operators:
            named |= dict.fromkeys([operand] if isinstance(operand, str) else operand)
    return list(named)


_action_types = _OtherText("action_type", (), lambda s: s.agent.allowed_action_types, "the allowed ones")
_resources = _OtherText(
    "resource",
    ("resource_in", "resource_not_in", "resource_matches"),
    lambda s: s.agent.allowed_resources,
    "blocked_resources",
)
_tools = _OtherText(
    "tool",
    ("tool_in",),
    lambda s: s.agent.mcp_capabilities.get(s.action.mcp_server, ()),
    "blocked_tools",
)
_environments = _OtherText("environment", ("environment",), lambda s: (), "the policies")

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
