"""OpenAPI schemas of bodies and responses, built from the tables of fields that check them."""

from collections.abc import Mapping

from pdp.core.conditions import OPERATORS
from pdp.core.fields import Field, Schema, schema_of
from pdp.core.interface import ACTION, ANSWER, POLICY, PROBLEM
from pdp.core.model import Outcome, Result, Status
from pdp.core.records import CONFIGURATION, PARAMS, POLICY_BODY, SERVER_BODY, VERSION
from registry_store.access.keys import KEY_BODY
from registry_store.alerts.outbox import AlertStatus, Kind
from registry_store.approvals import requests
from registry_store.approvals.approvals import ApprovalState
from registry_store.decisions.old_records import DECISION
from registry_store.records import declarations, policies
from registry_store.records.emergency_stops import SELECTOR

MOMENT: Schema = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000000Z"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
FLAG: Schema = {"type": "boolean"}
VERSION_NAME = VERSION.schema()


def or_null(schema: Schema) -> Schema:
    """A schema that also allows null."""
    return {"anyOf": [schema, {"type": "null"}]}


def body(fields: Mapping[str, Field], *, partial: bool = False) -> Schema:
    """The schema of a body with these fields; `partial`: no field is required."""
    schema = schema_of(fields, partial=partial)
    return schema | {"properties": {name: _described(name, part) for name, part in schema["properties"].items()}}


def record(fields: Mapping[str, Field], **state: Schema) -> Schema:
    """The schema of a response with all of these fields and `state`; later releases may add members."""
    properties = body(fields)["properties"] | state
    return {"type": "object", "properties": properties, "required": list(properties)}


def reported(members: Mapping[str, Schema], *checked: str) -> Schema:
    """The schema of an object that sidecars report; the store checks only some members, and there may be others."""
    return {"type": "object", "properties": dict(members), "required": list(checked)}


def ref(name: str) -> Schema:
    """A reference to one of `COMPONENTS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def page_of(noun: str, item: Schema, **beside: Schema) -> Schema:
    """The schema of a page of a list."""
    members = {noun: {"type": "array", "items": item}, "total": COUNT, "limit": COUNT, "offset": COUNT}
    return record({}, **beside, **members)


def _described(name: str, schema: Schema) -> Schema:
    if name == "conditions":
        operators = {operator: entry.operand.schema() for operator, entry in OPERATORS.items()}
        return schema | {"properties": operators, "additionalProperties": False}
    if name == "action_params":
        return schema | {"properties": {param: entry.kind.schema() for param, entry in PARAMS.items()}}
    return schema


TIMES = {"created_at": MOMENT, "updated_at": MOMENT}
STATE = {"revision": COUNT, **TIMES}
STATUS: Schema = {"type": "string", "enum": [status.value for status in Status]}

AGENT = record(CONFIGURATION, status=STATUS, version=VERSION_NAME, **STATE)
KEY = record(
    KEY_BODY,
    key_id=TEXT,
    created_at=MOMENT,
    created_by=TEXT,
    revoked_at=or_null(MOMENT),
    last_used_at=or_null(MOMENT) | {"description": "To within a minute"},
)
STOP = record(
    {},
    stop_id=TEXT,
    selector=record(SELECTOR),
    reason=TEXT,
    agent_count=COUNT | {"description": "Number of agents that the stop suspends, or suspended"},
    created_at=MOMENT,
    created_by=TEXT,
    released_at=or_null(MOMENT),
    released_by=or_null(TEXT),
)
ACTION_OUTCOME = record(
    {},
    result={"type": "string", "enum": [result.name.lower() for result in Result]},
    actual_cost_usd={"type": "number", "description": "What it cost; its estimate if the report gave no cost"},
    error=TEXT | {"description": "Why it failed"},
    reported_at=MOMENT,
)
APPROVAL = record(
    {},
    approval_id=TEXT,
    decision_id=TEXT | {"description": "The decision that asked for it"},
    node_id=TEXT | {"description": "The sidecar that asked for it"},
    agent_id=TEXT,
    status={"type": "string", "enum": [state.value for state in ApprovalState]},
    outcome={"type": "string", "enum": ["require_approval", "escalate"]},
    reason=TEXT,
    message=TEXT,
    policy=or_null(ref("PolicyReference")) | {"description": "The policy that asked for it, or null"},
    action=ref("Action") | {"description": "The action; some attributes may be redacted"},
    action_sha256=TEXT | {"description": "SHA-256 of the canonical action; the approval is valid only for this action"},
    approvers=TEXTS
    | {"description": "Keys or groups that may decide; any approver if empty and `team` is null. Not of an escalation"},
    team=or_null(TEXT)
    | {"description": "Group of keys that may decide; an escalation is for its team alone, and for admins if null"},
    next_team=or_null(TEXT) | {"description": "The team that it goes to if nobody decides in time"},
    min_approvers={"type": "integer", "minimum": 1, "description": "How many different people must approve"},
    approved_by={"type": "array", "items": record({}, name=TEXT, comment=or_null(TEXT), at=MOMENT)}
    | {"description": "The people who approved, in order"},
    mfa_required=FLAG | {"description": "Whether the risk of the action needs MFA"},
    timeout_seconds=COUNT,
    requested_at=MOMENT,
    expires_at=MOMENT | {"description": "While pending: the deadline to decide; once approved: the deadline to use it"},
    decided_at=or_null(MOMENT),
    decided_by=or_null(TEXT),
    comment=or_null(TEXT),
    used_at=or_null(MOMENT),
    action_outcome=or_null(ACTION_OUTCOME) | {"description": "How the action ended that used it; null: not reported"},
)
DELIVERY = record(
    {},
    to=TEXT | {"description": "A URL, an address, or a name for a channel of the operator"},
    channel={"type": "string", "enum": ["webhook", "mail", "channel"]},
    count=COUNT | {"description": "Number of events that it was told of; 0: it was not reached yet"},
    error=or_null(TEXT) | {"description": "Why the last try failed, or null"},
    at=MOMENT | {"description": "Time of the last try"},
)
ALERT = record(
    {},
    alert_id=TEXT | {"description": "Also the `webhook-id`, the same for every try"},
    kind={"type": "string", "enum": [kind.value for kind in Kind]},
    agent_id=or_null(TEXT),
    subject=TEXT | {"description": "The agent, or else the sidecar or record that it is about"},
    count=COUNT | {"description": "Number of events in the quarter of an hour"},
    status={"type": "string", "enum": [status.value for status in AlertStatus]}
    | {"description": "none: no channel is configured for it; failed: given up after a day"},
    attempts=COUNT,
    created_at=MOMENT,
    updated_at=MOMENT,
    next_attempt_at=or_null(MOMENT),
    detail={"type": "object", "description": "The first of the events; which members it has depends on the kind"},
    deliveries={"type": "array", "items": DELIVERY},
)
SIDECAR = record(
    {},
    node_id=TEXT,
    key_name=TEXT,
    node_name=TEXT,
    software_version=TEXT,
    subscription={"type": "object"},
    connected=FLAG,
    connected_at=MOMENT,
    last_heard_at=MOMENT,
    sent_revision=COUNT,
    acknowledged_revision=COUNT,
    refusals={"type": "array", "items": record({}, kind=TEXT, id=TEXT, problems=TEXTS)},
)
NODE = record(
    {},
    node_id=TEXT,
    key_name=or_null(TEXT)
    | {"description": "Name of the keys that own it; null: the next key that uses it becomes the owner"},
)
VERSION_RECORD = record(
    {}, version=VERSION_NAME, is_active=FLAG, version_notes=TEXT, created_at=MOMENT, created_by=TEXT
)
ENTRY = record(
    {},
    sequence={"type": "integer", "minimum": 1},
    activity_type=TEXT,
    activity_description=TEXT,
    subject_kind=TEXT,
    subject_id=TEXT,
    agent_id=or_null(TEXT),
    performed_by=TEXT,
    performed_via={"type": "string", "enum": ["api", "dashboard", "sdk", "cli", "system"]},
    key_id=or_null(TEXT),
    timestamp=MOMENT,
    previous_state=or_null({"type": "object"}),
    new_state=or_null({"type": "object"}),
    previous_hash=TEXT,
    hash=TEXT,
)
DECISIONS_TODAY = record({}, **{outcome.name.lower(): COUNT for outcome in Outcome})
DECISION_RECORD = record(
    DECISION,
    action=ref("Action") | {"description": "The action of the request, with redacted attributes"},
    answer=ref("Answer") | {"description": "The answer to the runtime"},
    opens=or_null(record(requests.OPENS)) | {"description": "The approval that it opened, or null"},
    node_id=TEXT | {"description": "The sidecar that decided"},
    sequence=COUNT | {"description": "Sequence number in the sidecar's log"},
    received_at=MOMENT,
    outcome=or_null(ACTION_OUTCOME) | {"description": "How the action ended; null: not reported"},
)
CHANGES: Schema = {"type": "array", "items": record({}, field=TEXT, before={}, after={})}
LEFT_UNCHANGED = record(
    {},
    status=STATUS,
    policies=COUNT | {"description": "Number of the agent's policies; each has its own versions and rollback"},
) | {"description": "What a rollback of the agent does not touch, as it is now"}
OF_AGENT: dict[str, Schema] = {"policy_id": TEXT, "agent_id": TEXT}
OF_ORGANISATION: dict[str, Schema] = {"policy_id": TEXT, "agent_id": {"type": "null"}}
NOTHING_REPORTED = "null: no decision was reported"
DAY = "the calendar day in the agent's `time_window_timezone`"
USAGE = {
    name: or_null(schema) | {"description": about}
    for name, schema, about in (
        ("actions_last_minute", COUNT, f"Decisions except blocks in the last 60 s; {NOTHING_REPORTED}"),
        ("actions_last_hour", COUNT, f"Decisions except blocks in the last hour, to the minute; {NOTHING_REPORTED}"),
        ("actions_last_day", COUNT, f"Decisions except blocks in the last 24 h, to the minute; {NOTHING_REPORTED}"),
        ("decisions_today", DECISIONS_TODAY, f"Decisions on {DAY}, by outcome; {NOTHING_REPORTED}"),
        ("spent_today_usd", {"type": "number"}, f"Cost of allowed actions on {DAY}; {NOTHING_REPORTED}"),
        (
            "error_rate",
            {"type": "number"},
            "Share of failures in the last 100 reported outcomes; null: none was reported",
        ),
    )
}

COMPONENTS: dict[str, Schema] = {
    "Agent": AGENT,
    "AgentWithWarnings": {"allOf": [ref("Agent"), record({}, warnings=TEXTS)]},
    "Version": VERSION_RECORD,
    "VersionWithConfiguration": {
        "allOf": [ref("Version"), record({}, agent_id=TEXT, configuration=record(CONFIGURATION))]
    },
    "VersionDifference": record(
        {},
        agent_id=TEXT,
        from_version=VERSION_NAME,
        to_version=VERSION_NAME,
        changes=CHANGES,
    ),
    "RolledBack": {
        "allOf": [
            ref("AgentWithWarnings"),
            record({}, left_unchanged=LEFT_UNCHANGED),
        ]
    },
    "Declaration": record(CONFIGURATION | declarations.OWN_FIELDS, status=STATUS)
    | {"description": "A document that `PUT` accepts"},
    "DeclarationWithWarnings": {"allOf": [ref("Declaration"), record({}, warnings=TEXTS)]},
    "Policy": record(POLICY_BODY, **OF_AGENT, version=VERSION_NAME, **STATE),
    "PolicyVersion": {
        "allOf": [ref("Version"), record({}, **OF_AGENT, configuration=record(POLICY_BODY))],
    },
    "OrganisationPolicy": record(policies.BODY_OF_ORGANISATION, **OF_ORGANISATION, version=VERSION_NAME, **STATE),
    "OrganisationPolicyVersion": {
        "allOf": [ref("Version"), record({}, **OF_ORGANISATION, configuration=record(policies.BODY_OF_ORGANISATION))],
    },
    "PolicyVersionDifference": record(
        {},
        policy_id=TEXT,
        agent_id=or_null(TEXT) | {"description": "null: a policy of the organisation"},
        from_version=VERSION_NAME,
        to_version=VERSION_NAME,
        changes=CHANGES,
    ),
    "McpServer": record(SERVER_BODY, **STATE),
    "Key": KEY,
    "NewKey": {"allOf": [ref("Key"), record({}, key=TEXT | {"description": "The key; only this response shows it"})]},
    "EmergencyStop": STOP,
    "Stopped": {"allOf": [ref("EmergencyStop"), record({}, suspended=COUNT, unknown_agent_ids=TEXTS)]},
    "Released": {"allOf": [ref("EmergencyStop"), record({}, activated=COUNT)]},
    "Alert": ALERT,
    "Approval": APPROVAL,
    "Decision": DECISION_RECORD,
    "Action": reported(ACTION, "agent_id"),
    "Answer": reported(ANSWER, "outcome"),
    "PolicyReference": reported(POLICY["properties"]),
    "Activity": ENTRY,
    "Sidecar": SIDECAR,
    "Node": NODE,
    "Problem": PROBLEM,
}
