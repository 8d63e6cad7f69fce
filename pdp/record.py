"""A decision as a record of the decision log: canonical JSON, its attributes redacted."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from pdp import wire
from pdp.core.model import Action
from pdp.redaction import Redaction
from pdp.v1 import decision_pb2 as pb


class Opens(NamedTuple):
    """The approval that a decision asks for, bound to the SHA-256 of the canonical action."""

    approval_id: str
    action_sha256: bytes
    timeout_seconds: int


class Entry(NamedTuple):
    """One decision as it was made: `at` in Unix seconds, what it took in seconds, what it charged in micro-dollars.

    `approval_id` is the one that the request gave. Nothing may change the action or the answer afterwards.
    """

    action: Action
    answer: pb.EvaluateResponse
    at: float
    seconds: float
    dry_run: bool
    idempotency_key: str
    approval_id: str
    cost_micros: int
    opens: Opens | None


def document(entry: Entry, redact: Redaction) -> bytes:
    """The record of a decision, as it is hashed and sent."""
    content = {
        "decision_id": entry.answer.decision_id,
        "decided_at": wire.instant(entry.at),
        "latency_seconds": round(entry.seconds, 9),
        "dry_run": entry.dry_run,
        "idempotency_key": entry.idempotency_key,
        "approval_id": entry.approval_id,
        "action": _action(entry.action, redact),
        "answer": wire.answer_json(entry.answer),
        "cost_micros": entry.cost_micros,
        "opens": None if entry.opens is None else _opens(entry.opens),
    }
    try:
        return canonical(content)
    except ValueError:  # a NaN or an infinity among the attributes, for which JSON has no word
        return canonical(_told(content))


def gap(first: int, last: int, at: float) -> bytes:
    """The record that says that those numbered `first` to `last` had to give way before they were sent."""
    range_ = {"first_sequence": first, "last_sequence": last, "records": last - first + 1, "at": wire.instant(at)}
    return canonical({"gap": range_})


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and nothing between them, in UTF-8."""
    return _ENCODER.encode(content).encode()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _action(action: Action, redact: Redaction) -> dict[str, Any]:
    cost = action.estimated_cost_micros
    return {
        "agent_id": action.agent_id,
        "action_type": action.action_type,
        "resource": action.resource,
        "resource_id": action.resource_id,
        "risk_score": action.risk_score,
        "amount": action.amount,
        "estimated_cost_usd": None if cost is None else cost / 1_000_000,
        "data_classifications": action.data_classifications,
        "mcp_server": action.mcp_server,
        "tool": action.tool,
        "environment": action.environment,
        "attributes": redact(action.attributes),
        "mfa_verified": action.mfa_verified,
    }


def _opens(opens: Opens) -> dict[str, Any]:
    return {
        "approval_id": opens.approval_id,
        "action_sha256": opens.action_sha256.hex(),
        "timeout_seconds": opens.timeout_seconds,
    }


def _told(value: Any) -> Any:
    """The same, with `NaN`, `Infinity` and `-Infinity` as texts, as protobuf's own JSON has them."""
    if isinstance(value, Mapping):
        return {name: _told(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_told(inner) for inner in value]
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124 - only NaN is not itself
    return value
