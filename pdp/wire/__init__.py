"""Requests and answers between the core and their forms on the wire, protobuf and JSON."""

from pdp.wire.actions import read_action
from pdp.wire.answers import MAX_SHADOWS, Answer, AwaitedApproval, write_answer
from pdp.wire.digests import canonical_text, demand_digest, digest
from pdp.wire.documents import answer_json, approval_json
from pdp.wire.fingerprints import asks_the_same, fingerprint
from pdp.wire.moments import instant, read_moment, write_moment
from pdp.wire.plain import read_plain
from pdp.wire.requests import (
    Request,
    action_schema,
    parse,
    read_approval_id,
    read_json_action,
    read_json_request,
    read_request,
    request_schema,
    write_action,
    write_request,
)

__all__ = [
    "MAX_SHADOWS",
    "Answer",
    "AwaitedApproval",
    "Request",
    "action_schema",
    "answer_json",
    "approval_json",
    "asks_the_same",
    "canonical_text",
    "demand_digest",
    "digest",
    "fingerprint",
    "instant",
    "parse",
    "read_action",
    "read_approval_id",
    "read_json_action",
    "read_json_request",
    "read_moment",
    "read_plain",
    "read_request",
    "request_schema",
    "write_action",
    "write_answer",
    "write_moment",
    "write_request",
]
