"""What people read of a record: the JSON of `pdp verify-log`, `--log-decisions` and the store's REST interface."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from pdp import wire
from pdp.attributes import plain
from pdp.core.action import action_json
from pdp.core.errors import InvalidActionError
from pdp.v1 import decision_pb2, log_pb2

MAX_DEPTH = 64

Document = dict[str, Any]


def document(record: log_pb2.LogRecord) -> Document:
    """The document of a record: a decision, or `{"gap": …}`, `{"outcome": …}` or `{"suspension": …}`."""
    kind = record.WhichOneof("content")
    if kind == "decision":
        return decision_document(record.decision)
    if kind == "gap":
        return {"gap": _gap(record.gap)}
    return {kind: plain(getattr(record, kind), MAX_DEPTH)} if kind else {}


def text(document: Mapping[str, Any]) -> bytes:
    """A document as JSON with sorted keys and without whitespace, in UTF-8."""
    return _ENCODER.encode(document).encode()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def decision_document(decision: log_pb2.LoggedDecision) -> Document:
    """The document of a decision; each member is there, and null where there is nothing."""
    request, answer = decision.request, decision.answer
    return {
        "decision_id": decision.repeat_id or answer.decision_id,
        "repeat_of": answer.decision_id if decision.repeat_id else None,
        "decided_at": wire.instant(decision.decided_at_microseconds / 1_000_000),
        "latency_seconds": decision.latency_nanoseconds / 1_000_000_000,
        "dry_run": request.dry_run,
        "idempotency_key": request.idempotency_key,
        "approval_id": request.approval_id,
        "action": _action(request.action),
        "answer": wire.answer_json(answer),
        "cost_micros": decision.cost_micros,
        "opens": _opens(decision.opens) if decision.HasField("opens") else None,
    }


def _action(message: decision_pb2.Action) -> Document:
    try:
        fields = action_json(wire.read_action(message))
    except InvalidActionError:  # no sidecar records such an action, so it is shown as it is
        return MessageToDict(message, preserving_proto_field_name=True)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _opens(opens: log_pb2.OpenedApproval) -> Document:
    return {
        "approval_id": opens.approval_id,
        "action_sha256": opens.action_sha256.hex(),
        "timeout_seconds": opens.timeout_seconds,
    }


def _gap(gap: log_pb2.LogGap) -> Document:
    return {
        "first_sequence": gap.first_sequence,
        "last_sequence": gap.last_sequence,
        "records": gap.records,
        "at": wire.instant(gap.at_microseconds / 1_000_000),
    }
