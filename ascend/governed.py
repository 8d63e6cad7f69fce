"""What a call of a function means as an action, for the decorator `governed`."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ascend.action import AgentAction
from ascend.model import Question

_FIELDS = {field.name for field in dataclasses.fields(AgentAction)}


def check_ends(function: Callable[..., Any]) -> None:
    """`TypeError` for a function whose call returns before it has acted."""
    if _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise TypeError(f"`{_name(function)}` is a generator function: it acts after its call has returned")


def check_synchronous(function: Callable[..., Any]) -> None:
    """`TypeError` for a function that the synchronous client cannot run to its end."""
    check_ends(function)
    if _is_any(function, inspect.iscoroutinefunction):
        raise TypeError(f"`{_name(function)}` is a coroutine function: use `AsyncAscendClient`")


def check_asynchronous(function: Callable[..., Any]) -> None:
    """`TypeError` for a function that is not to be awaited, or acts after it was."""
    check_ends(function)
    if not _is_any(function, inspect.iscoroutinefunction):
        raise TypeError(f"`{_name(function)}` is not a coroutine function: use `AscendClient`")


class Calls:
    """The calls of one function, each as a question.

    `fields` are the fields of the action. They, `agent_id` and `idempotency_key` are values, or functions of an object
    whose attributes are the arguments of the call, with the defaults.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        action_type: str,
        fields: Mapping[str, Any],
        agent_id: str | Callable[[Any], str],
        idempotency_key: str | Callable[[Any], str],
    ) -> None:
        if unknown := sorted(fields.keys() - _FIELDS):
            raise TypeError(f"`{unknown[0]}` is not a field of an action")
        self._signature = inspect.signature(function)
        self._action_type = action_type
        self._fields = fields
        self._agent_id = agent_id
        self._idempotency_key = idempotency_key

    def question(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], own_id: str) -> Question:
        """The question of a call with these arguments, for the agent `own_id` where it names no other.

        `TypeError` if the function does not take the arguments.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        call = SimpleNamespace(**bound.arguments)
        fields = {name: _of_call(value, call) for name, value in self._fields.items()}
        return Question(
            _of_call(self._agent_id, call) or own_id,
            AgentAction(action_type=self._action_type, **fields),
            _of_call(self._idempotency_key, call) or "",
        )


def _of_call(value: Any, call: SimpleNamespace) -> Any:
    return value(call) if callable(value) else value


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _is_any(function: Callable[..., Any], *kinds: Callable[[Any], bool]) -> bool:
    """Whether a function, or an object that is called like one, is of one of these kinds."""
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    return any(kind(function) or kind(called) for kind in kinds)
