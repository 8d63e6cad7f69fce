import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_ALLOW: _ClassVar[Outcome]
    OUTCOME_REQUIRE_APPROVAL: _ClassVar[Outcome]
    OUTCOME_BLOCK: _ClassVar[Outcome]
    OUTCOME_ESCALATE: _ClassVar[Outcome]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_AGENT_NOT_REGISTERED: _ClassVar[Reason]
    REASON_AGENT_NOT_ACTIVE: _ClassVar[Reason]
    REASON_ACTION_NOT_ALLOWED: _ClassVar[Reason]
    REASON_RESOURCE_BLOCKED: _ClassVar[Reason]
    REASON_RESOURCE_NOT_ALLOWED: _ClassVar[Reason]
    REASON_DATA_CLASSIFICATION_BLOCKED: _ClassVar[Reason]
    REASON_MCP_SERVER_NOT_REGISTERED: _ClassVar[Reason]
    REASON_MCP_TOOL_BLOCKED: _ClassVar[Reason]
    REASON_OUTSIDE_TIME_WINDOW: _ClassVar[Reason]
    REASON_RATE_LIMIT_EXCEEDED: _ClassVar[Reason]
    REASON_BUDGET_EXCEEDED: _ClassVar[Reason]
    REASON_POLICY_MATCHED: _ClassVar[Reason]
    REASON_MCP_TOOL_AUTO_APPROVED: _ClassVar[Reason]
    REASON_RISK_ABOVE_MAXIMUM: _ClassVar[Reason]
    REASON_RISK_BELOW_AUTO_APPROVE: _ClassVar[Reason]
    REASON_RISK_NEEDS_APPROVAL: _ClassVar[Reason]
    REASON_MFA_REQUIRED: _ClassVar[Reason]
    REASON_APPROVED: _ClassVar[Reason]
    REASON_APPROVAL_MISMATCH: _ClassVar[Reason]
    REASON_INTERNAL_ERROR: _ClassVar[Reason]
    REASON_REGISTRY_STALE: _ClassVar[Reason]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_LIVE: _ClassVar[Source]
    SOURCE_CACHED: _ClassVar[Source]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_PASSED: _ClassVar[Verdict]
    VERDICT_DECIDED: _ClassVar[Verdict]
    VERDICT_NOT_REACHED: _ClassVar[Verdict]

class ActionResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_RESULT_UNSPECIFIED: _ClassVar[ActionResult]
    ACTION_RESULT_SUCCEEDED: _ClassVar[ActionResult]
    ACTION_RESULT_FAILED: _ClassVar[ActionResult]

class ApprovalState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPROVAL_STATE_UNSPECIFIED: _ClassVar[ApprovalState]
    APPROVAL_STATE_PENDING: _ClassVar[ApprovalState]
    APPROVAL_STATE_APPROVED: _ClassVar[ApprovalState]
    APPROVAL_STATE_DENIED: _ClassVar[ApprovalState]
    APPROVAL_STATE_EXPIRED: _ClassVar[ApprovalState]
    APPROVAL_STATE_USED: _ClassVar[ApprovalState]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_ALLOW: Outcome
OUTCOME_REQUIRE_APPROVAL: Outcome
OUTCOME_BLOCK: Outcome
OUTCOME_ESCALATE: Outcome
REASON_UNSPECIFIED: Reason
REASON_AGENT_NOT_REGISTERED: Reason
REASON_AGENT_NOT_ACTIVE: Reason
REASON_ACTION_NOT_ALLOWED: Reason
REASON_RESOURCE_BLOCKED: Reason
REASON_RESOURCE_NOT_ALLOWED: Reason
REASON_DATA_CLASSIFICATION_BLOCKED: Reason
REASON_MCP_SERVER_NOT_REGISTERED: Reason
REASON_MCP_TOOL_BLOCKED: Reason
REASON_OUTSIDE_TIME_WINDOW: Reason
REASON_RATE_LIMIT_EXCEEDED: Reason
REASON_BUDGET_EXCEEDED: Reason
REASON_POLICY_MATCHED: Reason
REASON_MCP_TOOL_AUTO_APPROVED: Reason
REASON_RISK_ABOVE_MAXIMUM: Reason
REASON_RISK_BELOW_AUTO_APPROVE: Reason
REASON_RISK_NEEDS_APPROVAL: Reason
REASON_MFA_REQUIRED: Reason
REASON_APPROVED: Reason
REASON_APPROVAL_MISMATCH: Reason
REASON_INTERNAL_ERROR: Reason
REASON_REGISTRY_STALE: Reason
SOURCE_UNSPECIFIED: Source
SOURCE_LIVE: Source
SOURCE_CACHED: Source
VERDICT_UNSPECIFIED: Verdict
VERDICT_PASSED: Verdict
VERDICT_DECIDED: Verdict
VERDICT_NOT_REACHED: Verdict
ACTION_RESULT_UNSPECIFIED: ActionResult
ACTION_RESULT_SUCCEEDED: ActionResult
ACTION_RESULT_FAILED: ActionResult
APPROVAL_STATE_UNSPECIFIED: ApprovalState
APPROVAL_STATE_PENDING: ApprovalState
APPROVAL_STATE_APPROVED: ApprovalState
APPROVAL_STATE_DENIED: ApprovalState
APPROVAL_STATE_EXPIRED: ApprovalState
APPROVAL_STATE_USED: ApprovalState

class Action(_message.Message):
    __slots__ = ("agent_id", "action_type", "resource", "resource_id", "risk_score", "amount", "estimated_cost_usd", "data_classifications", "mcp_server", "tool", "environment", "attributes", "mfa_verified")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_TYPE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_COST_USD_FIELD_NUMBER: _ClassVar[int]
    DATA_CLASSIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    MCP_SERVER_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    MFA_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    action_type: str
    resource: str
    resource_id: str
    risk_score: int
    amount: float
    estimated_cost_usd: float
    data_classifications: _containers.RepeatedScalarFieldContainer[str]
    mcp_server: str
    tool: str
    environment: str
    attributes: _struct_pb2.Struct
    mfa_verified: bool
    def __init__(self, agent_id: _Optional[str] = ..., action_type: _Optional[str] = ..., resource: _Optional[str] = ..., resource_id: _Optional[str] = ..., risk_score: _Optional[int] = ..., amount: _Optional[float] = ..., estimated_cost_usd: _Optional[float] = ..., data_classifications: _Optional[_Iterable[str]] = ..., mcp_server: _Optional[str] = ..., tool: _Optional[str] = ..., environment: _Optional[str] = ..., attributes: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., mfa_verified: _Optional[bool] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("action", "idempotency_key", "approval_id", "dry_run")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    action: Action
    idempotency_key: str
    approval_id: str
    dry_run: bool
    def __init__(self, action: _Optional[_Union[Action, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., approval_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class PolicyReference(_message.Message):
    __slots__ = ("id", "name", "priority")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    priority: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class ShadowVerdict(_message.Message):
    __slots__ = ("policy", "outcome")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    policy: PolicyReference
    outcome: Outcome
    def __init__(self, policy: _Optional[_Union[PolicyReference, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, str]] = ...) -> None: ...

class RateRemaining(_message.Message):
    __slots__ = ("minute", "hour", "day")
    MINUTE_FIELD_NUMBER: _ClassVar[int]
    HOUR_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    minute: int
    hour: int
    day: int
    def __init__(self, minute: _Optional[int] = ..., hour: _Optional[int] = ..., day: _Optional[int] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("outcome", "reason", "message", "decision_id", "risk_score", "mfa_required", "policy", "action_params", "shadow", "rate_remaining", "budget_remaining_usd", "retry_after", "approval_id", "approval_expires_at", "agent_version", "registry_revision", "staleness", "source", "approval_pending")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    MFA_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ACTION_PARAMS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    RATE_REMAINING_FIELD_NUMBER: _ClassVar[int]
    BUDGET_REMAINING_USD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_REVISION_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_PENDING_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    reason: Reason
    message: str
    decision_id: str
    risk_score: int
    mfa_required: bool
    policy: PolicyReference
    action_params: _struct_pb2.Struct
    shadow: _containers.RepeatedCompositeFieldContainer[ShadowVerdict]
    rate_remaining: RateRemaining
    budget_remaining_usd: float
    retry_after: float
    approval_id: str
    approval_expires_at: _timestamp_pb2.Timestamp
    agent_version: str
    registry_revision: int
    staleness: float
    source: Source
    approval_pending: bool
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[_Union[Reason, str]] = ..., message: _Optional[str] = ..., decision_id: _Optional[str] = ..., risk_score: _Optional[int] = ..., mfa_required: _Optional[bool] = ..., policy: _Optional[_Union[PolicyReference, _Mapping]] = ..., action_params: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., shadow: _Optional[_Iterable[_Union[ShadowVerdict, _Mapping]]] = ..., rate_remaining: _Optional[_Union[RateRemaining, _Mapping]] = ..., budget_remaining_usd: _Optional[float] = ..., retry_after: _Optional[float] = ..., approval_id: _Optional[str] = ..., approval_expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., agent_version: _Optional[str] = ..., registry_revision: _Optional[int] = ..., staleness: _Optional[float] = ..., source: _Optional[_Union[Source, str]] = ..., approval_pending: _Optional[bool] = ...) -> None: ...

class EvaluateError(_message.Message):
    __slots__ = ("code", "field", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    field: str
    message: str
    def __init__(self, code: _Optional[int] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class EvaluateBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[EvaluateRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[EvaluateRequest, _Mapping]]] = ...) -> None: ...

class EvaluateResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: EvaluateResponse
    error: EvaluateError
    def __init__(self, response: _Optional[_Union[EvaluateResponse, _Mapping]] = ..., error: _Optional[_Union[EvaluateError, _Mapping]] = ...) -> None: ...

class EvaluateBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EvaluateResult]
    def __init__(self, results: _Optional[_Iterable[_Union[EvaluateResult, _Mapping]]] = ...) -> None: ...

class EvaluateStreamRequest(_message.Message):
    __slots__ = ("sequence", "request")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    request: EvaluateRequest
    def __init__(self, sequence: _Optional[int] = ..., request: _Optional[_Union[EvaluateRequest, _Mapping]] = ...) -> None: ...

class EvaluateStreamResponse(_message.Message):
    __slots__ = ("sequence", "idempotency_key", "result")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    idempotency_key: str
    result: EvaluateResult
    def __init__(self, sequence: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., result: _Optional[_Union[EvaluateResult, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("action",)
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: Action
    def __init__(self, action: _Optional[_Union[Action, _Mapping]] = ...) -> None: ...

class StageExplanation(_message.Message):
    __slots__ = ("stage", "verdict", "detail")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    stage: str
    verdict: Verdict
    detail: str
    def __init__(self, stage: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class ConditionExplanation(_message.Message):
    __slots__ = ("operator", "expected", "seen", "held")
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    operator: str
    expected: str
    seen: str
    held: bool
    def __init__(self, operator: _Optional[str] = ..., expected: _Optional[str] = ..., seen: _Optional[str] = ..., held: _Optional[bool] = ...) -> None: ...

class PolicyExplanation(_message.Message):
    __slots__ = ("policy", "outcome", "shadow", "held", "decided", "conditions")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    policy: PolicyReference
    outcome: Outcome
    shadow: bool
    held: bool
    decided: bool
    conditions: _containers.RepeatedCompositeFieldContainer[ConditionExplanation]
    def __init__(self, policy: _Optional[_Union[PolicyReference, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., shadow: _Optional[bool] = ..., held: _Optional[bool] = ..., decided: _Optional[bool] = ..., conditions: _Optional[_Iterable[_Union[ConditionExplanation, _Mapping]]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("decision", "stages", "policies", "would_allow")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    WOULD_ALLOW_FIELD_NUMBER: _ClassVar[int]
    decision: EvaluateResponse
    stages: _containers.RepeatedCompositeFieldContainer[StageExplanation]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyExplanation]
    would_allow: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, decision: _Optional[_Union[EvaluateResponse, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[StageExplanation, _Mapping]]] = ..., policies: _Optional[_Iterable[_Union[PolicyExplanation, _Mapping]]] = ..., would_allow: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportOutcomeRequest(_message.Message):
    __slots__ = ("decision_id", "result", "actual_cost_usd", "error", "agent_id")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_COST_USD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    result: ActionResult
    actual_cost_usd: float
    error: str
    agent_id: str
    def __init__(self, decision_id: _Optional[str] = ..., result: _Optional[_Union[ActionResult, str]] = ..., actual_cost_usd: _Optional[float] = ..., error: _Optional[str] = ..., agent_id: _Optional[str] = ...) -> None: ...

class ReportOutcomeResponse(_message.Message):
    __slots__ = ("repeated",)
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    repeated: bool
    def __init__(self, repeated: _Optional[bool] = ...) -> None: ...

class WaitForApprovalRequest(_message.Message):
    __slots__ = ("approval_id",)
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    approval_id: str
    def __init__(self, approval_id: _Optional[str] = ...) -> None: ...

class ApprovalUpdate(_message.Message):
    __slots__ = ("approval_id", "state", "comment", "expires_at", "decided_by")
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    approval_id: str
    state: ApprovalState
    comment: str
    expires_at: _timestamp_pb2.Timestamp
    decided_by: str
    def __init__(self, approval_id: _Optional[str] = ..., state: _Optional[_Union[ApprovalState, str]] = ..., comment: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., decided_by: _Optional[str] = ...) -> None: ...
