"""An action, an answer and a problem as JSON: the members of each, as JSON Schemas, as both programs describe them."""

from pdp.core.action import FIELDS
from pdp.core.fields import Schema, schema_of
from pdp.core.model import Outcome, Reason


def _or_null(kind: str, about: str, **bounds: object) -> Schema:
    return {"type": [kind, "null"], "description": about, **bounds}


def _text(about: str, **bounds: object) -> Schema:
    return {"type": "string", "description": about, **bounds}


def _object(**members: Schema) -> Schema:
    return {"type": "object", "properties": members, "required": list(members)}


OUTCOME: Schema = {"type": "string", "enum": [outcome.name.lower() for outcome in Outcome]}
POLICY = _object(
    id=_text("Its id, which no change of name touches"),
    name=_text("Its name"),
    priority={"type": "integer", "description": "Policies with a lower one are evaluated first"},
)

ACTION: dict[str, Schema] = schema_of(FIELDS)["properties"]
"""The members of an action, each of which the record of a decision has."""

ANSWER: dict[str, Schema] = {
    "outcome": OUTCOME | {"description": "What the runtime shall do"},
    "reason": _text("Which stage decided, and why", enum=[reason.name for reason in Reason]),
    "message": _text("The reason in one sentence, for people"),
    "decision_id": _text("Unique, and sortable by the time of the decision"),
    "risk_score": {"type": "integer", "description": "The effective risk", "minimum": 0, "maximum": 100},
    "mfa_required": {"type": "boolean", "description": "Whether the action needs MFA"},
    "policy": {"anyOf": [POLICY, {"type": "null"}], "description": "The policy that decided; null: none did"},
    "action_params": {"type": "object", "description": "The parameters of that policy"},
    "shadow": {
        "type": "array",
        "items": _object(policy=POLICY, outcome=OUTCOME),
        "description": "What shadow policies would have done, in the order of evaluation",
    },
    "rate_remaining": _object(
        minute=_or_null("integer", "null: no such limit"),
        hour=_or_null("integer", "null: no such limit"),
        day=_or_null("integer", "null: no such limit"),
    )
    | {"description": "How many more actions the limits admit"},
    "budget_remaining_usd": _or_null("number", "What is left of today's budget; null: there is none"),
    "retry_after": _or_null("number", "Seconds until the same action passes this limit; null: no limit refused it"),
    "approval_id": _or_null("string", "The approval that the action waits for; null: none"),
    "approval_expires_at": _or_null("string", "Until when it can be given; null: not known", format="date-time"),
    "approval_pending": {
        "type": "boolean",
        "description": "Whether that approval was asked for before and still waits for people",
    },
    "agent_version": _or_null("string", "The version of the agent's configuration; null: the agent is not known"),
    "registry_revision": {"type": "integer", "description": "Of the registry data that was decided from", "minimum": 0},
    "staleness": {"type": "number", "description": "Seconds since the store last confirmed that data", "minimum": 0},
    "source": _text("Whether the store's stream confirms that data", enum=["live", "cached"]),
}
"""The members of an answer, all of which it has."""

PROBLEM: Schema = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
"""An error (RFC 9457); `errors` names each wrong field by its path."""
