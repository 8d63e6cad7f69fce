"""Notes beside the decisions in the log of a sidecar: outcomes of actions, and suspensions of agents."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pdp.core.action import AGENT_ID, MAX_ERROR_CHARACTERS, MAX_ID_CHARACTERS
from pdp.core.errors import Problems
from pdp.core.fields import Field, join, read_fields
from pdp.core.kinds import Choice, Json, Moment, Number, OrNull, Text, Whole
from pdp.core.model import Result, Trigger
from pdp.core.records import ACTIVATIONS
from pdp.core.usage import MAX_OUTCOMES
from registry_store.decisions import ids

MICROS = Whole(0, 10**15)
ID = Text(36, pattern=ids.PATTERN, what="a UUID of version 7 in lower case")
OUTCOME: dict[str, Field] = {
    "decision_id": Field(ID, required=True),
    "agent_id": Field(AGENT_ID, required=True),
    "activations": Field(ACTIVATIONS, required=True),
    "approval_id": Field(Text(MAX_ID_CHARACTERS), required=True),
    "decided_at": Field(Moment(), required=True),
    "reported_at": Field(Moment(), required=True),
    "result": Field(Choice(Result), Result.FAILED, required=True),
    "charged_micros": Field(MICROS, required=True),
    "actual_cost_micros": Field(OrNull(MICROS), required=True),
    "error": Field(Text(MAX_ERROR_CHARACTERS), required=True),
}
SUSPENSION: dict[str, Field] = {
    "agent_id": Field(AGENT_ID, required=True),
    "activations": Field(ACTIVATIONS, required=True),
    "trigger": Field(Choice(Trigger), Trigger.ERROR_RATE, required=True),
    "figures": Field(Json(1024, 2, only_object=True), {}, required=True),
    "at": Field(Moment(), required=True),
}
COUNT = Whole(0, 2**31)
FIGURES: dict[Trigger, dict[str, Field]] = {
    Trigger.ERROR_RATE: {
        "failed": Field(Whole(1, MAX_OUTCOMES), required=True),
        "reported": Field(Whole(1, MAX_OUTCOMES), required=True),
        "limit": Field(Number(0, 1), required=True),
    },
    Trigger.BUDGET_EXCEEDED: {
        name: Field(MICROS, required=True) for name in ("spent_micros", "cost_micros", "budget_micros")
    },
    Trigger.RATE_EXCEEDED: {
        "window": Field(Text(6, pattern="minute|hour|day", what="minute, hour or day"), required=True),
        "actions": Field(COUNT, required=True),
        "limit": Field(COUNT, required=True),
    },
}
"""The figures that a sidecar gives as the cause of a suspension."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an allowed action ended: it was charged `charged_micros`, and cost `actual_cost_micros`; None: the same."""

    decision_id: str
    agent_id: str
    activations: int
    approval_id: str
    decided_at: datetime
    reported_at: datetime
    result: Result
    charged_micros: int
    actual_cost_micros: int | None
    error: str

    @property
    def difference_micros(self) -> int:
        """What the action cost beyond what was charged; negative: less."""
        return 0 if self.actual_cost_micros is None else self.actual_cost_micros - self.charged_micros


@dataclass(frozen=True, slots=True)
class Suspension:
    """A sidecar suspended an agent that had been activated `activations` times, because of these figures."""

    agent_id: str
    activations: int
    trigger: Trigger
    figures: Mapping[str, Any]
    at: datetime


Note = Outcome | Suspension


def read(document: Mapping[str, Any], path: str, problems: Problems) -> Note | None:
    """The note in a record; None if it is none, or has problems, which are added to `problems`."""
    for name, read_note in (("outcome", _outcome), ("suspension", _suspension)):
        if name in document:
            return read_note(document[name], join(path, name), problems)
    return None


def is_note(document: Mapping[str, Any]) -> bool:
    """Whether a record is a note and no decision."""
    return "action" not in document and ("outcome" in document or "suspension" in document)


def _outcome(document: Any, path: str, problems: Problems) -> Outcome | None:
    values = read_fields(_known(document, OUTCOME), OUTCOME, path, problems)
    return None if problems else Outcome(**values)


def _suspension(document: Any, path: str, problems: Problems) -> Suspension | None:
    values = read_fields(_known(document, SUSPENSION), SUSPENSION, path, problems)
    fields = FIGURES.get(values["trigger"], {})
    values["figures"] = read_fields(_known(values["figures"], fields), fields, join(path, "figures"), problems)
    return None if problems else Suspension(**values)


def _known(document: Any, fields: Mapping[str, Field]) -> Any:
    # A newer sidecar may write more.
    return {name: document[name] for name in fields if name in document} if isinstance(document, Mapping) else document
