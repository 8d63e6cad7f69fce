"""Actions in canonical JSON, and the digests that approvals are bound to."""

import hashlib
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any

from pdp.core.action import ATTRIBUTE_OF, FIELDS, RESTORE, Action, kind_of
from pdp.core.decision import Decision, demand_of
from pdp.core.json import canonical_json
from pdp.core.kinds import Text

DIGEST_BYTES = 32


def digest(action: Action) -> bytes:
    """The SHA-256 of an action in canonical JSON (RFC 8785): the same for equal actions of every endpoint."""
    return hashlib.sha256(canonical_text(action).encode()).digest()


def demand_digest(decision: Decision) -> bytes:
    """The SHA-256 of who must decide on the action of this decision."""
    params = decision.policy.action_params if decision.policy else {}
    demand = demand_of(decision.outcome.name.lower(), params, mfa_required=decision.mfa_required)
    return hashlib.sha256(demand.canonical()).digest()


def _compile_canonical_text() -> Callable[[Action], str]:
    """Generates the function that writes an action in canonical JSON: to make a document first takes twice as long."""
    names: dict[str, Any] = {"quoted": encode_basestring, "text": canonical_json.text}
    members = []
    for name in sorted(FIELDS):  # the names are ASCII, so this is the canonical order
        value = f"action.{ATTRIBUTE_OF[name]}"
        if name in RESTORE:
            names[f"restore_{name}"] = RESTORE[name]
            value = f"None if (value := {value}) is None else restore_{name}(value)"
        write = "quoted" if isinstance(kind_of(name), Text) else "text"
        members.append(f"'\"{name}\":' + {write}({value})")
    source = "lambda action: '{' + " + " + ',' + ".join(members) + " + '}'"
    canonical: Callable[[Action], str] = eval(source, names)  # noqa: S307
    return canonical


canonical_text = _compile_canonical_text()
"""An action in canonical JSON (RFC 8785)."""
