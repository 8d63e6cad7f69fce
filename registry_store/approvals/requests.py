"""Reads the approval request in a decision record."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from pdp.core.action import AGENT_ID
from pdp.core.decision import demand_of
from pdp.core.errors import Problems
from pdp.core.fields import Field, join, read_fields
from pdp.core.kinds import Flag, Json, OrNull, Text, Whole
from pdp.core.records import LATER_PARAMS, PARAMS
from registry_store.documents import Document

ID = Text(36, 36, r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a UUID in lower case")
SHA256 = Text(64, 64, r"[0-9a-f]{64}", "a SHA-256 in hex")
MAX_OBJECT_BYTES = 4 * 1024 * 1024
"""Maximum for an action with its numbers written out: 6,000 numbers of 309 digits fit into 64 KiB on the wire."""
OBJECT = Json(MAX_OBJECT_BYTES, 32, only_object=True)
MAX_TIMEOUT_SECONDS = 30 * 86_400

RECORD: dict[str, Field] = {
    "decision_id": Field(ID, required=True),
    "action": Field(OBJECT, {}, required=True),
    "answer": Field(OBJECT, {}, required=True),
    "opens": Field(OBJECT, {}, required=True),
}
ACTION: dict[str, Field] = {
    "agent_id": Field(AGENT_ID, required=True),
    "action_type": Field(Text(256, 1), required=True),
    "resource": Field(OrNull(Text(2048))),
}
ANSWER: dict[str, Field] = {
    "outcome": Field(Text(16, 1, "require_approval|escalate", "an outcome that asks for approval"), required=True),
    "reason": Field(Text(64, 1), required=True),
    "message": Field(Text(65_536), ""),
    "policy": Field(OrNull(OBJECT)),
    "action_params": Field(OBJECT, {}),
    "mfa_required": Field(Flag(), False),
}
CHECKED_PARAMS = {name: field for name, field in PARAMS.items() if name not in LATER_PARAMS}
OPENS: dict[str, Field] = {
    "approval_id": Field(ID, required=True),
    "action_sha256": Field(SHA256, required=True),
    "timeout_seconds": Field(Whole(1, MAX_TIMEOUT_SECONDS), required=True),
}


class Request(NamedTuple):
    """An approval that a decision requests: the action, the approvers, and the time they have."""

    approval_id: str
    decision_id: str
    agent_id: str
    outcome: str
    reason: str
    message: str
    policy: Document | None
    action: Document
    action_sha256: str
    approvers: list[str]
    team: str | None
    next_team: str | None
    min_approvers: int
    mfa_required: bool
    demand_sha256: str
    timeout_seconds: int


def read(document: Mapping[str, Any], path: str, problems: Problems) -> Request | None:
    """The request in a decision record, None if there is none; adds every error to `problems`, under `path`."""
    if document.get("opens") is None:
        return None
    record = _members(document, RECORD, path, problems)
    action = _members(record["action"], ACTION, join(path, "action"), problems)
    answer = _members(record["answer"], ANSWER, join(path, "answer"), problems)
    _members(answer["action_params"], CHECKED_PARAMS, join(path, "answer.action_params"), problems)
    demand = demand_of(answer["outcome"], answer["action_params"], mfa_required=answer["mfa_required"])
    opens = _members(record["opens"], OPENS, join(path, "opens"), problems)
    return Request(
        approval_id=opens["approval_id"],
        decision_id=record["decision_id"],
        agent_id=action["agent_id"],
        outcome=answer["outcome"],
        reason=answer["reason"],
        message=answer["message"],
        policy=answer["policy"],
        action=record["action"],
        action_sha256=opens["action_sha256"],
        approvers=list(demand.approvers),
        team=demand.team,
        next_team=demand.next_team,
        min_approvers=demand.min_approvers,
        mfa_required=demand.mfa_required,
        demand_sha256=hashlib.sha256(demand.canonical()).hexdigest(),
        timeout_seconds=opens["timeout_seconds"],
    )


def _members(value: Mapping[str, Any], fields: Mapping[str, Field], path: str, problems: Problems) -> Document:
    # A newer sidecar may send more members: they are ignored here, and stored with the decision.
    return read_fields({name: value[name] for name in fields if name in value}, fields, path, problems)
