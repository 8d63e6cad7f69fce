"""Filters of decision lists: the columns taken from the documents, and the conditions on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func

from registry_store.database.tables import Decision
from registry_store.decisions import ids

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


def columns(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the filter columns; of the document, only the outcome has been checked before."""
    action, answer = document["action"], document["answer"]
    policy, shadows = answer.get("policy"), _outcomes(answer.get("shadow"))
    return {
        "reason": _text(answer.get("reason")),
        "policy_id": _text(policy.get("id")) if isinstance(policy, Mapping) else None,
        "tool": _text(action.get("tool")),
        **{column.key: 1 if outcome in shadows else None for outcome, column in SHADOWS.items()},
    }


def conditions(wanted: Filter) -> Iterator[ColumnElement[bool]]:
    """The SQL conditions of a filter."""
    for column in (Decision.agent_id, Decision.reason, Decision.policy_id, Decision.tool):
        if (value := getattr(wanted, column.key)) is not None:
            yield column == value
    if wanted.outcome is not None:
        # Most decisions have the same outcome; with a narrower filter, `coalesce` keeps the database off its index.
        is_narrow = any((wanted.reason, wanted.policy_id, wanted.tool, wanted.shadow))
        yield (func.coalesce(Decision.outcome, "") if is_narrow else Decision.outcome) == wanted.outcome
    if wanted.shadow is not None:
        yield SHADOWS[wanted.shadow] == 1
    if wanted.since is not None:
        yield Decision.decision_id >= ids.first(wanted.since)
    if wanted.until is not None:
        yield Decision.decision_id < ids.first(wanted.until)
    if wanted.before is not None:
        yield Decision.decision_id < wanted.before


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_CHARACTERS else None


def _outcomes(verdicts: Any) -> list[Any]:
    """The outcomes in a list of verdicts that was not checked before."""
    if not isinstance(verdicts, list):
        return []
    return [verdict.get("outcome") for verdict in verdicts if isinstance(verdict, Mapping)]
