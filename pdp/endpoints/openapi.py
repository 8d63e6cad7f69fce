"""The description of the HTTP port: OpenAPI 3.1, made once from the tables that requests and answers are made by."""

from typing import Any

from pdp import wire
from pdp.core.action import REPORT
from pdp.core.fields import Schema, schema_of
from pdp.core.interface import ANSWER, OUTCOME, PROBLEM
from pdp.endpoints import openapi_connect
from pdp.serving.version import VERSION

TEXT: Schema = {"type": "string"}
RETRY_AFTER: Schema = {"type": "number", "description": "Seconds until the idempotency key is free"}
EXAMPLE = {
    "action": {
        "agent_id": "finance-transaction-processor-prod",
        "action_type": "transaction.process",
        "resource": "banking_api",
        "amount": 250.0,
    },
    "dry_run": True,
}

OUTCOME_EXAMPLE = {
    "decision_id": "019ca6b1-dc00-7000-8000-000000000000",
    "result": "succeeded",
    "actual_cost_usd": 1.25,
}


def document() -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pdp",
            "version": VERSION,
            "description": "The policy decision point beside an agent, asked before each action",
        },
        "tags": [
            {"name": "decisions", "description": "Ask before each action"},
            {"name": "connect", "description": "The service `pdp.v1.PolicyDecisionPoint` by the Connect protocol"},
            {"name": "operations", "description": "Probes and metrics"},
        ],
        "paths": {
            "/v1/evaluate": {"post": _EVALUATE},
            "/v1/outcomes": {"post": _OUTCOME},
            "/v1/explain": {"post": _EXPLAIN},
            "/v1/approvals/{approval_id}": {"get": _APPROVAL},
            "/healthz": {"get": _operation("check_alive", "Whether the process answers", "operations", _LIFE)},
            "/readyz": {"get": _operation("check_ready", "Whether it should get requests", "operations", _READINESS)},
            "/metrics": {"get": _operation("read_metrics", "Metrics for Prometheus", "operations", _METRICS)},
        }
        | openapi_connect.paths(),
        "components": {
            "schemas": {
                "Request": wire.request_schema(),
                "Answer": {"type": "object", "properties": ANSWER, "required": list(ANSWER)},
                "Outcome": schema_of(REPORT),
                "Explained": wire.action_schema(),
                "Explanation": _EXPLANATION,
                "Approval": _APPROVAL_STATE,
                "Problem": PROBLEM | {"properties": PROBLEM["properties"] | {"retry_after": RETRY_AFTER}},
            }
            | openapi_connect.schemas()
        },
    }


def _operation(name: str, about: str, tag: str, responses: dict[str, Any]) -> dict[str, Any]:
    common = {"400": _problem("A field or query parameter is wrong: each by its path"), "403": _problem(_FORBIDDEN)}
    summary = name.replace("_", " ").capitalize()
    return {
        "operationId": name,
        "summary": summary,
        "description": about,
        "tags": [tag],
        "responses": common | responses,
    }


def _status(*values: str) -> Schema:
    status: Schema = {"type": "string", "enum": list(values)} if values else TEXT
    return {"type": "object", "required": ["status"], "properties": {"status": status}}


def _json(about: str, schema: Schema) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _object(**members: Schema) -> Schema:
    return {"type": "object", "properties": members, "required": list(members)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _problem(about: str) -> dict[str, Any]:
    return {"description": about, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


_FORBIDDEN = "A web page of another origin asks, or the host is not one of this sidecar"
_READY: Schema = {
    "type": "object",
    "required": ["status", "registry", "staleness"],
    "properties": {
        "status": {"type": "string", "enum": ["ready"]},
        "registry": TEXT | {"description": "How its registry data stands with the store"},
        "staleness": {"type": "number", "description": "Seconds since the store last confirmed that data"},
    },
}
_READINESS: dict[str, Any] = {
    "200": _json("Ready", _READY),
    "503": {
        "description": "Not now: `status` says why",
        "content": {"application/problem+json": {"schema": _status()}},
    },
}
_LIFE: dict[str, Any] = {"200": _json("It does", _status("alive"))}
_METRICS: dict[str, Any] = {
    "200": {"description": "In Prometheus' text format", "content": {"text/plain": {"schema": TEXT}}}
}
_TOO_MANY_REQUESTS = "too many requests are being answered"
_BODY_PROBLEMS = {
    "408": _problem("The body did not come in time"),
    "413": _problem("The body is larger than 512 KiB"),
}


def _body(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema), "example": example}}}


_EVALUATE: dict[str, Any] = _operation(
    "evaluate",
    "Decide one action. Every answer that is not a 200 is no permission.",
    "decisions",
    _BODY_PROBLEMS
    | {
        "200": _json("The decision", _ref("Answer")),
        "429": _problem("The idempotency key was repeated too often")
        | {"headers": {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}},
        "503": _problem(f"No decision now: there is no registry data yet, or {_TOO_MANY_REQUESTS}"),
    },
) | {"requestBody": _body("Request", EXAMPLE)}

_POLICY = _object(
    policy=_object(id=TEXT, name=TEXT, priority={"type": "integer"}),
    outcome=OUTCOME,
    shadow={"type": "boolean", "description": "Whether it is in shadow mode, and so never decides"},
    held={"type": "boolean", "description": "Whether all of its conditions held"},
    decided={"type": "boolean", "description": "Whether it decided"},
    conditions=_list(
        _object(
            operator=TEXT,
            expected=TEXT | {"description": "What the policy expects, as JSON"},
            seen=TEXT | {"description": "What the action has, as JSON, or `not given`"},
            held={"type": "boolean"},
        )
    ),
)
_EXPLANATION = _object(
    decision=_ref("Answer"),
    stages=_list(
        _object(
            stage=TEXT,
            verdict={"type": "string", "enum": ["passed", "decided", "not_reached"]},
            detail=TEXT | {"description": "Why, for people; empty if the stage was not reached"},
        )
    ),
    policies=_list(_POLICY) | {"description": "Every policy that applies to the agent, in the order of evaluation"},
    would_allow=_list(TEXT) | {"description": "The smallest changes after which the action would be allowed"},
)
_EXPLAIN: dict[str, Any] = _operation(
    "explain",
    "Tell stage by stage how an action would be decided now. Counts nothing.",
    "decisions",
    _BODY_PROBLEMS
    | {
        "200": _json("The decision and what led to it", _ref("Explanation")),
        "429": _problem("Too many calls wait for explanations"),
        "503": _problem(f"No decision now: there is no registry data yet, or {_TOO_MANY_REQUESTS}"),
    },
) | {"requestBody": _body("Explained", {"action": EXAMPLE["action"]})}

_APPROVAL_STATE = _object(
    approval_id=TEXT,
    state={"type": "string", "enum": ["pending", "approved", "denied", "expired", "used"]},
    comment={"type": ["string", "null"], "description": "Comment of the person who decided"},
    decided_by={"type": ["string", "null"], "description": "Name of the key of the person who decided"},
    expires_at={
        "type": ["string", "null"],
        "format": "date-time",
        "description": "While pending: until when people may decide. Once approved: until when it can be used",
    },
)
_APPROVAL: dict[str, Any] = _operation(
    "read_approval",
    "The state of an approval: at once if people have decided, else as soon as they do, at most `wait` seconds later.",
    "decisions",
    {
        "200": _json("Its state, `pending` if nobody decided in that time", _ref("Approval")),
        "404": _problem("There is no such approval of an agent that this sidecar serves"),
        "429": _problem("Too many calls wait for approvals"),
        "503": _problem(f"No state now: the store does not answer, the sidecar stops, or {_TOO_MANY_REQUESTS}"),
    },
) | {
    "parameters": [
        {"name": "approval_id", "in": "path", "required": True, "schema": TEXT | {"maxLength": 64}},
        {
            "name": "wait",
            "in": "query",
            "description": "Seconds to wait while it is pending",
            "schema": {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
        },
    ]
}
_TAKEN: Schema = {
    "type": "object",
    "required": ["repeated"],
    "properties": {
        "repeated": {"type": "boolean", "description": "Whether an outcome was taken before; then that one stands"}
    },
}
_OUTCOME: dict[str, Any] = _operation(
    "report_outcome",
    "Report how an allowed action ended, within an hour of its decision. It settles the budget to the actual cost.",
    "decisions",
    {
        "200": _json("The outcome is taken", _TAKEN),
        "403": _problem(f"{_FORBIDDEN}; or the decision is another agent's"),
        "404": _problem("No such decision was made here within the last hour"),
        "408": _problem("The body did not come in time"),
        "409": _problem("The decision did not allow the action, or was a dry run"),
        "413": _problem("The body is larger than 64 KiB"),
        "503": _problem("Not now: there is no registry data yet, or the decision log is full"),
    },
) | {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _ref("Outcome"), "example": OUTCOME_EXAMPLE}},
    }
}
