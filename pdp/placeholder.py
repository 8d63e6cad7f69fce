"""What stands for an organisation policy that cannot be read here, and of which there is no last good state.

An agent that cannot be read is unknown, and so blocked. A policy of the organisation that cannot be read would just be
missing, and what it restricts would be allowed. So it holds for every action until it can be read, with whatever of it
can be read: its priority, its selector, and its action, unless that is to allow.
"""

import json
from typing import Any

from pdp.core.errors import Problems
from pdp.core.records import ORGANISATION_POLICY, check_params

HARMLESS = {"policy_action": "allow", "mode": "shadow", "is_active": False}
"""With any of these a policy restricts nothing."""


def stand_in(policy_id: str, document: bytes) -> bytes | None:
    """The document of the policy that stands for this one; None if this one could restrict nothing."""
    readable = _readable(document)
    if any(readable.get(name) == value for name, value in HARMLESS.items()):
        return None
    readable.pop("conditions", None)
    shown = policy_id if _is_sound("policy_id", policy_id) else "unknown"
    fallback = {
        "policy_id": shown,
        "policy_name": f"{shown} (not readable by this sidecar)",
        "created_at": "0000",
        "priority": 0,
        "policy_action": "block",
    }
    return json.dumps(fallback | readable).encode()


def _readable(document: bytes) -> dict[str, Any]:
    try:
        given = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    return {name: value for name, value in given.items() if _is_sound(name, value)}


def _is_sound(name: str, value: object) -> bool:
    if name not in ORGANISATION_POLICY:
        return False
    problems = Problems()
    read = ORGANISATION_POLICY[name].kind.read(value, name, problems)
    if name == "action_params":
        check_params(read, name, problems)
    return not problems
