"""Filters of decision lists: the columns taken from the records, and the conditions on them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column
from sqlalchemy.orm import InstrumentedAttribute

from pdp.v1.decision_pb2 import ShadowVerdict
from registry_store.database.decision_tables import (
    USUAL_OUTCOME,
    USUAL_REASONS,
    Decision,
)
from registry_store.decisions import ids
from registry_store.decisions.records import OUTCOMES
from registry_store.decisions.records import Decision as Decided

MAX_CHARACTERS = 256
"""Of a reason, a policy id and a tool; no sidecar writes longer ones, and an index could not hold them."""

SHADOWS = {
    "allow": Decision.shadow_allow,
    "require_approval": Decision.shadow_require_approval,
    "block": Decision.shadow_block,
    "escalate": Decision.shadow_escalate,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which decisions a list shows; None: any. `since` is included, `until` and `before` (a decision id) are not.

    `policy_id` is that of the deciding policy; `shadow` is an outcome that a shadow policy would have had.
    """

    agent_id: str | None = None
    outcome: str | None = None
    reason: str | None = None
    policy_id: str | None = None
    tool: str | None = None
    shadow: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None


COLUMNS = (
    "decision_id",
    "repeat_of",
    "agent_id",
    "outcome",
    "reason",
    "dry_run",
    "decided_at",
    "policy_id",
    "tool",
    *(column.key for column in SHADOWS.values()),
    "batch_id",
    "position",
)
"""The columns of a decision with a batch, in the order of `row`."""
_NO_SHADOWS = (None,) * len(SHADOWS)


def row(decision: Decided, batch_id: int, position: int) -> tuple[Any, ...]:
    """The columns of a decision whose record has this position in its batch."""
    message = decision.message
    answer = message.answer
    return (
        decision.decision_id,
        decision.repeat_of,
        decision.agent_id,
        decision.outcome,
        decision.reason,
        decision.dry_run,
        decision.decided_at,
        _text(answer.policy.id),
        _text(message.request.action.tool),
        *(_shadows(answer.shadow) if answer.shadow else _NO_SHADOWS),
        batch_id,
        position,
    )


def conditions(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """The SQL conditions of a filter."""
    for column in (Decision.agent_id, Decision.reason, Decision.policy_id, Decision.tool):
        if (value := getattr(wanted, column.key)) is not None:
            yield column == value
    if wanted.reason is not None and wanted.reason not in USUAL_REASONS:
        yield from (_never(Decision.reason, reason) for reason in USUAL_REASONS)
    if wanted.outcome is not None:
        # With a narrower filter, `coalesce` keeps the database off the index of outcomes.
        is_narrow = any((wanted.reason, wanted.policy_id, wanted.tool, wanted.shadow))
        yield (func.coalesce(Decision.outcome, "") if is_narrow else Decision.outcome) == wanted.outcome
        if not is_narrow and wanted.outcome != USUAL_OUTCOME:
            yield _never(Decision.outcome, USUAL_OUTCOME)
    if wanted.shadow is not None:
        yield SHADOWS[wanted.shadow] == 1
    if wanted.since is not None:
        yield Decision.decision_id >= ids.first(wanted.since)
    if wanted.until is not None:
        yield Decision.decision_id < ids.first(wanted.until)
    if wanted.before is not None:
        yield Decision.decision_id < wanted.before


def _text(value: str) -> str | None:
    return value if 0 < len(value) <= MAX_CHARACTERS and "\0" not in value else None


def _shadows(verdicts: Iterable[ShadowVerdict]) -> list[int | None]:
    """The columns of the outcomes that shadow policies would have had."""
    found = {OUTCOMES.get(verdict.outcome) for verdict in verdicts}
    return [1 if outcome in found else None for outcome in SHADOWS]


def _never(column: InstrumentedAttribute[Any], value: str) -> ColumnElement[bool]:
    # A constant, because the databases use a partial index only where its condition is among those of the query.
    constant: ColumnElement[str] = literal_column(f"'{value}'")
    return column != constant
