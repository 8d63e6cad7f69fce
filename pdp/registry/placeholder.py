"""Fail-closed placeholder for an organisation policy that this sidecar cannot parse and has no last good state of.

An agent that cannot be parsed is unknown, and so blocked. But an organisation policy that cannot be parsed would be
missing, and its restrictions with it. So a placeholder holds for every action until the policy can be parsed. It keeps
every valid field: the priority, the selector, and the action, unless that is to allow.
"""

import json
from typing import Any

from pdp.core.errors import Problems
from pdp.core.records import ORGANISATION_POLICY, check_params

HARMLESS = {"policy_action": "allow", "mode": "shadow", "is_active": False}
"""A policy with any of these values restricts nothing."""


def placeholder_for(policy_id: str, document: bytes) -> bytes | None:
    """The document of the placeholder for this policy; None if the policy restricts nothing."""
    valid = _valid_fields(document)
    if any(valid.get(name) == value for name, value in HARMLESS.items()):
        return None
    valid.pop("conditions", None)
    shown = policy_id if _is_valid("policy_id", policy_id) else "unknown"
    fallback = {
        "policy_id": shown,
        "policy_name": f"{shown} (not readable by this sidecar)",
        "created_at": "0000",
        "priority": 0,
        "policy_action": "block",
    }
    return json.dumps(fallback | valid).encode()


def _valid_fields(document: bytes) -> dict[str, Any]:
    try:
        given = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    return {name: value for name, value in given.items() if _is_valid(name, value)}


def _is_valid(name: str, value: object) -> bool:
    if name not in ORGANISATION_POLICY:
        return False
    problems = Problems()
    read = ORGANISATION_POLICY[name].kind.read(value, name, problems)
    if name == "action_params":
        check_params(read, name, problems)
    return not problems
