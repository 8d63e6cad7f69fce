"""Messages → actions, within the bounds of each field."""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter, gt
from sys import float_info
from typing import Any

from pdp.attributes import TooDeepError, plain
from pdp.core.action import (
    AGENT_ID,
    ATTRIBUTE_OF,
    FIELDS,
    MAX_ACTION_BYTES,
    MAX_ATTRIBUTE_DEPTH,
    Action,
    Converted,
    kind_of,
    texts_of,
)
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.kinds import ListOf, Number, Text, Whole
from pdp.v1 import decision_pb2 as pb


def read_action(message: pb.Action) -> Action:
    """Reads the action of a message; `InvalidActionError` that names the invalid field."""
    size = message.ByteSize()
    if size > MAX_ACTION_BYTES:
        raise InvalidActionError(Problem("action", f"is larger than {MAX_ACTION_BYTES} bytes"))
    action = _read(message)
    # A program that ends a text at the NUL would act on another text than the one that was decided on.
    if not all(_required(action)) or "\0" in "".join(texts_of(action)):
        _raise_problem(action)
    if size > _WITHIN_BOUNDS_BYTES and any(map(gt, map(len, _bounded(action)), _BOUNDS)):
        _raise_problem(action)
    return action


class _RaiseFirst(Problems):
    """Raises the first problem, under the name of its field, as `InvalidActionError`."""

    def append(self, problem: Problem) -> None:
        raise InvalidActionError(problem._replace(path=problem.path.partition("[")[0]))


_RAISE_FIRST = _RaiseFirst()


def _read_attributes(message: Any, path: str, problems: Problems) -> dict[str, Any]:
    """Decodes the attributes of a message before the decision, so that each decision can be recorded."""
    try:
        return plain(message, MAX_ATTRIBUTE_DEPTH)
    except TooDeepError:
        problems.append(Problem(path, f"is nested more than {MAX_ATTRIBUTE_DEPTH} levels deep"))
    except ValueError:
        problems.append(Problem(path, "holds a number that is not finite"))
    return {}


def _raise_problem(action: Action) -> None:
    """Raises `InvalidActionError` for a required field that is missing, or a text or list that is out of bounds."""
    for name, kind in _BOUNDED.items():
        path, value = f"action.{name}", getattr(action, ATTRIBUTE_OF[name])
        if FIELDS[name].required and not value:
            raise InvalidActionError(Problem(path, "is required"))
        kind.read(value, path, _RAISE_FIRST)


def _compile_reader() -> Callable[[pb.Action], Action]:
    """Generates the function that reads an action from a message: a loop over the fields takes twice as long."""
    names: dict[str, Any] = {"Action": Action, "problems": _RAISE_FIRST}
    values = []
    for name in FIELDS:
        field, kind = pb.Action.DESCRIPTOR.fields_by_name[name], kind_of(name)
        value = f"tuple(message.{name})" if isinstance(kind, ListOf) else f"message.{name}"
        if field.has_presence:
            inner = kind.kind if isinstance(kind, Converted) else kind
            names[f"read_{name}"] = inner.read if field.message_type is None else _read_attributes
            names[f"default_{name}"] = FIELDS[name].default
            read = f"read_{name}(message.{name}, 'action.{name}', problems)"
            if isinstance(inner, Whole | Number):
                names[f"low_{name}"], names[f"high_{name}"] = inner.low, min(inner.high, float_info.max)
                read = f"(value if low_{name} <= (value := message.{name}) <= high_{name} else {read})"
            if isinstance(kind, Converted) and field.message_type is None:
                names[f"convert_{name}"] = kind.convert
                read = f"convert_{name}({read})"
            value = f"{read} if message.HasField('{name}') else default_{name}"
        values.append(value)
    reader: Callable[[pb.Action], Action] = eval(f"lambda message: Action({', '.join(values)})", names)  # noqa: S307
    return reader


_read = _compile_reader()
# The pattern of an agent id is checked only if no agent has the id.
_BOUNDED = {
    name: replace(kind, pattern=None) if kind is AGENT_ID else kind
    for name in FIELDS
    if isinstance(kind := kind_of(name), Text | ListOf)
}
_BOUNDS = [kind.max_length if isinstance(kind, Text) else kind.max_items for kind in _BOUNDED.values()]
_bounded = attrgetter(*(ATTRIBUTE_OF[name] for name in _BOUNDED))
_required = attrgetter(*(ATTRIBUTE_OF[name] for name, field in FIELDS.items() if field.required))
# Each item of a list takes at least two bytes on the wire, so a smaller action is within all of these bounds.
_WITHIN_BOUNDS_BYTES = min(_BOUNDS)
