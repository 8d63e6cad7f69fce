"""Filters of decision lists: the columns taken from the records, and the conditions on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column
from sqlalchemy.orm import InstrumentedAttribute

from registry_store.database.decision_tables import (
    USUAL_OUTCOME,
    USUAL_REASONS,
    Decision,
)
from registry_store.decisions import ids
from registry_store.decisions.records import Decision as Decided

MAX_CHARACTERS = 256
"""Of a reason, a policy id and a tool; no sidecar writes longer ones, and an index could not hold them."""

Columns = dict[str, Sequence[Any]]

SHADOWS = {
    "allow": Decision.shadow_allow,
    "require_approval": Decision.shadow_require_approval,
    "block": Decision.shadow_block,
    "escalate": Decision.shadow_escalate,
}

_AS_REPORTED = ("decision_id", "repeat_of", "agent_id", "outcome", "reason", "dry_run")
_TEXTS = ("policy_id", "tool")
_SHADOWS = tuple(column.key for column in SHADOWS.values())
COLUMNS = (*_AS_REPORTED, "decided_at", *_TEXTS, *_SHADOWS, "batch_id", "position")
"""The columns of a decision with a batch."""


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


def columns(decisions: Sequence[Decided], batch_ids: Sequence[int], positions: Sequence[int]) -> Columns:
    """The columns of decisions whose records have these positions in these batches; times in microseconds since 1970.

    They are made one after the other, which takes less time than row after row.
    """
    if not decisions:
        return {}
    fields = dict(zip(Decided._fields, zip(*decisions, strict=True), strict=True))
    found: Columns = {name: fields[name] for name in _AS_REPORTED}
    found["decided_at"] = fields["decided_at_micros"]
    for name in _TEXTS:
        found[name] = [_text(value) if value else None for value in fields[name]]
    found |= dict.fromkeys(_SHADOWS, (None,) * len(decisions))
    if any(fields["shadows"]):
        for outcome, column in SHADOWS.items():
            found[column.key] = [1 if outcome in verdicts else None for verdicts in fields["shadows"]]
    return found | {"batch_id": batch_ids, "position": positions}


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
    return value if len(value) <= MAX_CHARACTERS and "\0" not in value else None


def _never(column: InstrumentedAttribute[Any], value: str) -> ColumnElement[bool]:
    # A constant, because the databases use a partial index only where its condition is among those of the query.
    constant: ColumnElement[str] = literal_column(f"'{value}'")
    return column != constant
