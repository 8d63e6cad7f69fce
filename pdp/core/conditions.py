"""The operators of a policy's conditions: one table of how each is checked, evaluated and compiled.

`seen` and `holds` define the meaning, slow and obvious; `explain` uses them. `compiled` is the fast form of the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase, translate
from functools import partial
from re import compile as compile_pattern
from typing import Any, NamedTuple

from pdp.core.action import Action
from pdp.core.errors import Problem, Problems
from pdp.core.fields import Kind, join, quote
from pdp.core.json.equality import json_equal
from pdp.core.kinds import Json, ListOf, MapOf, Number, OneOf, Text, Whole
from pdp.core.localtime import LocalTime

Test = Callable[[Action, int, LocalTime], bool]
"""A compiled condition: (action, effective risk, local time) → whether it holds."""


MAX_SUGGESTIONS = 10
MAX_SUGGESTION_CHARACTERS = 32
"""Characters of a name; a search for similar names takes longer for longer names."""


class _Missing:
    def __repr__(self) -> str:
        return "not given"


MISSING = _Missing()
"""The result of `seen` if the action does not have the value that the condition checks."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: its operand, the value that it checks, when it holds, and its compiled form.

    The test that `compiled(operand, missing)` makes returns `missing` for an action without that value.
    """

    operand: Kind
    seen: Callable[[Action, int, LocalTime, Any], Any]
    holds: Callable[[Any, Any], bool]
    compiled: Callable[[Any, bool], Test]


def check(conditions: Any, path: str, problems: Problems) -> None:
    """Append every fault of `conditions`: unknown operators, operands of a wrong type, empty ranges."""
    if not isinstance(conditions, Mapping):
        return  # the kind of the field has reported it
    sound: dict[str, Any] = {}
    for name, operand in conditions.items():
        if problems.full:
            return
        operator = OPERATORS.get(name)
        if operator is None:
            problems.append(Problem(join(path, name), _unknown_operator(name, suggest=len(problems) < MAX_SUGGESTIONS)))
            continue
        before = len(problems)
        operator.operand.read(operand, join(path, name), problems)
        if len(problems) == before:
            sound[name] = operand
    problems.extend(Problem(join(path, name), message) for name, message in _empty_ranges(sound))


class Clause(NamedTuple):
    """One condition as it is evaluated."""

    name: str
    operator: Operator
    operand: Any


def clauses(conditions: Mapping[str, Any]) -> list[Clause]:
    """The clauses that must all hold for conditions that `check` has passed.

    Hours that wrap midnight are one clause, since both ends matter; each attribute is a separate clause.
    """
    found: list[Clause] = []
    for name, operand in conditions.items():
        if name == "attribute_equals":
            found.extend(Clause(name, OPERATORS[name], pair) for pair in operand.items())
        elif not (name in ("hour_after", "hour_before") and _wraps_midnight(conditions)):
            found.append(Clause(name, OPERATORS[name], operand))
    if _wraps_midnight(conditions):
        hours = (conditions["hour_after"], conditions["hour_before"])
        found.append(Clause("hour_after, hour_before", _HOURS_OVER_MIDNIGHT, hours))
    return found


def _wraps_midnight(conditions: Mapping[str, Any]) -> bool:
    after, before = conditions.get("hour_after"), conditions.get("hour_before")
    return after is not None and before is not None and bool(after > before)


def attribute(attributes: Mapping[str, Any], path: str) -> Any:
    """The attribute at a dotted path, or MISSING."""
    return value_at(attributes, path.split("."))


def value_at(attributes: Mapping[str, Any], names: list[str]) -> Any:
    """The attribute at a path of names, or MISSING."""
    value: Any = attributes
    for name in names:
        # The check of the abstract class is slow, and nearly all of them are of this one.
        if not (type(value) is dict or isinstance(value, Mapping)) or name not in value:
            return MISSING
        value = value[name]
    return value


def matches_action_type(action_type: str, entry: str) -> bool:
    """Whether an entry of `action_type_in` covers an action type: `database.*` every one below `database.`."""
    return action_type.startswith(entry[:-1]) if entry.endswith(".*") else action_type == entry


def _unknown_operator(name: str, *, suggest: bool) -> str:
    close = get_close_matches(name, OPERATORS, 1) if suggest and len(name) <= MAX_SUGGESTION_CHARACTERS else ()
    return f"unknown operator {quote(name)}" + (f"; did you mean {quote(close[0])}" if close else "")


def _empty_ranges(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    risk_above, risk_below = conditions.get("risk_above", -1), conditions.get("risk_below", 101)
    if risk_above + 1 >= risk_below:
        found.append(("risk_below", f"no risk is above {risk_above} and below {risk_below}"))
    if conditions.get("amount_above", -1) >= conditions.get("amount_below", float("inf")):
        found.append(("amount_below", "no amount is above `amount_above` and below it"))
    if conditions.get("amount_below") == 0:
        found.append(("amount_below", "no amount is below 0"))
    after, before = conditions.get("hour_after"), conditions.get("hour_before")
    if before is not None and (before == after or (before == 0 and after is None)):
        found.append(("hour_before", f"no hour is at or after {after or 0} and before {before}"))
    return found


def _seen_field(name: str, action: Action, risk: int, local: LocalTime, operand: Any) -> Any:
    """A field of the action; an empty one counts as missing."""
    value = getattr(action, name)
    return MISSING if value in ("", (), None) else value


def _seen_risk(action: Action, risk: int, local: LocalTime, operand: Any) -> Any:
    return risk


def _seen_hour(action: Action, risk: int, local: LocalTime, operand: Any) -> Any:
    return local.hour


def _seen_weekday(action: Action, risk: int, local: LocalTime, operand: Any) -> Any:
    return local.weekday


def _seen_attribute(action: Action, risk: int, local: LocalTime, operand: Any) -> Any:
    path, _ = operand
    return attribute(action.attributes, path)


def texts(operand: Any, missing: bool = False) -> frozenset[str]:
    """The texts of an operand, which are never empty; with `missing` also the empty one, for a value not given."""
    given = (operand,) if isinstance(operand, str) else operand
    return frozenset((*given, "") if missing else given)


def _compiled_action_type_in(operand: Any, missing: bool) -> Test:
    exact = frozenset(entry for entry in operand if not entry.endswith(".*"))
    prefixes = tuple(entry[:-1] for entry in operand if entry.endswith(".*"))
    if not prefixes:
        return lambda a, r, t: a.action_type in exact
    return lambda a, r, t: a.action_type in exact or a.action_type.startswith(prefixes)


def literals(glob: str) -> list[str]:
    """The texts before, between and after the wildcards of a shell glob."""
    return _WILDCARD.split(glob)


def _compiled_resource_matches(operand: str, missing: bool) -> Test:
    """Compile a glob; the usual ones need no pattern."""
    match literals(operand) if set(_WILDCARD.findall(operand)) == {"*"} else None:
        case [start, ""]:
            return lambda a, r, t: a.resource.startswith(start) if a.resource else missing
        case ["", end]:
            return lambda a, r, t: a.resource.endswith(end) if a.resource else missing
        case ["", middle, ""]:
            return lambda a, r, t: middle in a.resource if a.resource else missing
    matched = compile_pattern(translate(operand)).match
    return lambda a, r, t: matched(a.resource) is not None if a.resource else missing


def _compiled_classification(operand: Any, missing: bool) -> Test:
    wanted = texts(operand)
    return lambda a, r, t: not wanted.isdisjoint(a.data_classifications) if a.data_classifications else missing


def _compiled_attribute_equals(operand: tuple[str, Any], missing: bool) -> Test:
    path, wanted = operand
    names = path.split(".")
    first = names[0]

    def test(action: Action, risk: int, local: LocalTime) -> bool:
        attributes = action.attributes
        if first not in attributes:
            return missing
        value = value_at(attributes, names)
        return missing if value is MISSING else json_equal(value, wanted)

    return test


def _compiled_over_midnight(operand: tuple[int, int], missing: bool) -> Test:
    after, before = operand
    return lambda a, r, t: t.hour >= after or t.hour < before


def _member(of: Callable[[frozenset[str]], Test]) -> Callable[[Any, bool], Test]:
    """Compile membership of a text field: `of` makes the test from the texts for which it holds."""
    return lambda operand, missing: of(texts(operand, missing))


def _compiled_resource_not_in(operand: Any, missing: bool) -> Test:
    some = texts(operand, not missing)
    return lambda a, r, t: a.resource not in some


def _compiled_day_in(operand: Any, missing: bool) -> Test:
    days = frozenset(operand)
    return lambda a, r, t: t.weekday in days


_WILDCARD = compile_pattern(r"[*?]|\[!?+\]?+[^\]]*+\]")
"""A bracket that nothing closes is a character as others."""
_NAME = Text(256, 1)
_NAMES = ListOf(_NAME, 4096, 1)
_RESOURCES = ListOf(Text(2048, 1), 4096, 1)
_EXACT_TYPE = Text(256, 1, r"[^*]+", "an action type (a prefix such as `database.*` goes into `action_type_in`)")
_TYPE_OR_PREFIX = Text(256, 1, r"[^*]+(?:\.\*)?", "an action type or a prefix that ends in `.*`")
_AMOUNT = Number(0, 1e15)

OPERATORS: dict[str, Operator] = {
    "action_type": Operator(
        _EXACT_TYPE,
        partial(_seen_field, "action_type"),
        lambda seen, x: seen == x,
        lambda x, missing: lambda a, r, t: a.action_type == x,
    ),
    "action_type_in": Operator(
        ListOf(_TYPE_OR_PREFIX, 4096, 1),
        partial(_seen_field, "action_type"),
        lambda seen, entries: any(matches_action_type(seen, entry) for entry in entries),
        _compiled_action_type_in,
    ),
    "risk_above": Operator(
        Whole(0, 99),
        _seen_risk,
        lambda seen, n: seen > n,
        lambda n, missing: lambda a, r, t: r > n,
    ),
    "risk_below": Operator(
        Whole(1, 100),
        _seen_risk,
        lambda seen, n: seen < n,
        lambda n, missing: lambda a, r, t: r < n,
    ),
    "amount_above": Operator(
        _AMOUNT,
        partial(_seen_field, "amount"),
        lambda seen, n: seen > n,
        lambda n, missing: lambda a, r, t: a.amount > n if a.amount is not None else missing,
    ),
    "amount_below": Operator(
        _AMOUNT,
        partial(_seen_field, "amount"),
        lambda seen, n: seen < n,
        lambda n, missing: lambda a, r, t: a.amount < n if a.amount is not None else missing,
    ),
    "resource_in": Operator(
        _RESOURCES,
        partial(_seen_field, "resource"),
        lambda seen, some: seen in some,
        _member(lambda some: lambda a, r, t: a.resource in some),
    ),
    "resource_not_in": Operator(
        _RESOURCES,
        partial(_seen_field, "resource"),
        lambda seen, some: seen not in some,
        _compiled_resource_not_in,
    ),
    "resource_matches": Operator(
        Text(1024, 1),
        partial(_seen_field, "resource"),
        fnmatchcase,
        _compiled_resource_matches,
    ),
    "data_classification": Operator(
        OneOf(_NAME, _NAMES, lambda value: isinstance(value, list | tuple)),
        partial(_seen_field, "data_classifications"),
        lambda seen, some: any(label in texts(some) for label in seen),
        _compiled_classification,
    ),
    "hour_after": Operator(
        Whole(0, 23),
        _seen_hour,
        lambda seen, h: seen >= h,
        lambda h, missing: lambda a, r, t: t.hour >= h,
    ),
    "hour_before": Operator(
        Whole(0, 24),
        _seen_hour,
        lambda seen, h: seen < h,
        lambda h, missing: lambda a, r, t: t.hour < h,
    ),
    "day_in": Operator(
        ListOf(Whole(1, 7), 7, 1),
        _seen_weekday,
        lambda seen, days: seen in days,
        _compiled_day_in,
    ),
    "mcp_server": Operator(
        _NAME,
        partial(_seen_field, "mcp_server"),
        lambda seen, x: seen == x,
        _member(lambda some: lambda a, r, t: a.mcp_server in some),
    ),
    "tool_in": Operator(
        _NAMES,
        partial(_seen_field, "tool"),
        lambda seen, some: seen in some,
        _member(lambda some: lambda a, r, t: a.tool in some),
    ),
    "attribute_equals": Operator(
        MapOf(Text(512, 1), Json(4096), 64, 1),
        _seen_attribute,
        lambda seen, pair: json_equal(seen, pair[1]),
        _compiled_attribute_equals,
    ),
    "environment": Operator(
        _NAME,
        partial(_seen_field, "environment"),
        lambda seen, x: seen == x,
        _member(lambda some: lambda a, r, t: a.environment in some),
    ),
}

_HOURS_OVER_MIDNIGHT = Operator(
    ListOf(Whole(0, 24), 2, 2),
    _seen_hour,
    lambda seen, hours: seen >= hours[0] or seen < hours[1],
    _compiled_over_midnight,
)
