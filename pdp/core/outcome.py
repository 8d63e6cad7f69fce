"""The outcome of an action, and the one table of the fields of its report."""

from enum import IntEnum
from typing import NamedTuple

from pdp.core.action import COST, MAX_ID_CHARACTERS
from pdp.core.fields import Field
from pdp.core.kinds import Choice, OrNull, Text

MAX_ERROR_CHARACTERS = 4096


class Result(IntEnum):
    """How an action ended; the values are those of `pdp.v1.ActionResult`."""

    SUCCEEDED = 1
    FAILED = 2


class OutcomeReport(NamedTuple):
    """The report of a runtime; the fields are those of `REPORT`. `agent_id` is empty if the caller names no agent."""

    decision_id: str
    result: Result
    actual_cost_micros: int | None = None
    error: str = ""
    agent_id: str = ""


REPORT: dict[str, Field] = {
    "decision_id": Field(Text(MAX_ID_CHARACTERS, 1), required=True, about="The decision that allowed the action"),
    "result": Field(Choice(Result), required=True, about="How the action ended"),
    "actual_cost_usd": Field(OrNull(COST), None, about="What it cost in US dollars; null: its estimate"),
    "error": Field(Text(MAX_ERROR_CHARACTERS), "", about="Why it failed"),
    "agent_id": Field(Text(MAX_ID_CHARACTERS), "", about="The agent whose action it was; empty: not checked"),
}
