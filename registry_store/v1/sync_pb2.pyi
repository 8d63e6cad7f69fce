from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_KIND_UNSPECIFIED: _ClassVar[RecordKind]
    RECORD_KIND_AGENT: _ClassVar[RecordKind]
    RECORD_KIND_ORGANISATION_POLICY: _ClassVar[RecordKind]
    RECORD_KIND_MCP_SERVER: _ClassVar[RecordKind]

class ApprovalState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPROVAL_STATE_UNSPECIFIED: _ClassVar[ApprovalState]
    APPROVAL_STATE_PENDING: _ClassVar[ApprovalState]
    APPROVAL_STATE_APPROVED: _ClassVar[ApprovalState]
    APPROVAL_STATE_DENIED: _ClassVar[ApprovalState]
    APPROVAL_STATE_EXPIRED: _ClassVar[ApprovalState]
    APPROVAL_STATE_USED: _ClassVar[ApprovalState]

class ApprovalUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPROVAL_USE_UNSPECIFIED: _ClassVar[ApprovalUse]
    APPROVAL_USE_GRANTED: _ClassVar[ApprovalUse]
    APPROVAL_USE_MISMATCH: _ClassVar[ApprovalUse]
    APPROVAL_USE_NOT_APPROVED: _ClassVar[ApprovalUse]
RECORD_KIND_UNSPECIFIED: RecordKind
RECORD_KIND_AGENT: RecordKind
RECORD_KIND_ORGANISATION_POLICY: RecordKind
RECORD_KIND_MCP_SERVER: RecordKind
APPROVAL_STATE_UNSPECIFIED: ApprovalState
APPROVAL_STATE_PENDING: ApprovalState
APPROVAL_STATE_APPROVED: ApprovalState
APPROVAL_STATE_DENIED: ApprovalState
APPROVAL_STATE_EXPIRED: ApprovalState
APPROVAL_STATE_USED: ApprovalState
APPROVAL_USE_UNSPECIFIED: ApprovalUse
APPROVAL_USE_GRANTED: ApprovalUse
APPROVAL_USE_MISMATCH: ApprovalUse
APPROVAL_USE_NOT_APPROVED: ApprovalUse

class SidecarMessage(_message.Message):
    __slots__ = ("hello", "acknowledgement", "heartbeat")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    acknowledgement: Acknowledgement
    heartbeat: Heartbeat
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class StoreMessage(_message.Message):
    __slots__ = ("welcome", "snapshot_begin", "snapshot_chunk", "snapshot_end", "change", "heartbeat")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_BEGIN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    snapshot_begin: SnapshotBegin
    snapshot_chunk: SnapshotChunk
    snapshot_end: SnapshotEnd
    change: Change
    heartbeat: Heartbeat
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., snapshot_begin: _Optional[_Union[SnapshotBegin, _Mapping]] = ..., snapshot_chunk: _Optional[_Union[SnapshotChunk, _Mapping]] = ..., snapshot_end: _Optional[_Union[SnapshotEnd, _Mapping]] = ..., change: _Optional[_Union[Change, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node_id", "epoch", "revision", "subscription", "version", "node_name")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    epoch: str
    revision: int
    subscription: Subscription
    version: str
    node_name: str
    def __init__(self, node_id: _Optional[str] = ..., epoch: _Optional[str] = ..., revision: _Optional[int] = ..., subscription: _Optional[_Union[Subscription, _Mapping]] = ..., version: _Optional[str] = ..., node_name: _Optional[str] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("agents", "tags", "all")
    class Agents(_message.Message):
        __slots__ = ("agent_ids",)
        AGENT_IDS_FIELD_NUMBER: _ClassVar[int]
        agent_ids: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, agent_ids: _Optional[_Iterable[str]] = ...) -> None: ...
    class Tags(_message.Message):
        __slots__ = ("tags",)
        TAGS_FIELD_NUMBER: _ClassVar[int]
        tags: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, tags: _Optional[_Iterable[str]] = ...) -> None: ...
    class All(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    agents: Subscription.Agents
    tags: Subscription.Tags
    all: Subscription.All
    def __init__(self, agents: _Optional[_Union[Subscription.Agents, _Mapping]] = ..., tags: _Optional[_Union[Subscription.Tags, _Mapping]] = ..., all: _Optional[_Union[Subscription.All, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("epoch", "revision", "resumed", "sent_at", "uptime")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    revision: int
    resumed: bool
    sent_at: float
    uptime: float
    def __init__(self, epoch: _Optional[str] = ..., revision: _Optional[int] = ..., resumed: _Optional[bool] = ..., sent_at: _Optional[float] = ..., uptime: _Optional[float] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("kind", "id", "document")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    kind: RecordKind
    id: str
    document: bytes
    def __init__(self, kind: _Optional[_Union[RecordKind, str]] = ..., id: _Optional[str] = ..., document: _Optional[bytes] = ...) -> None: ...

class SnapshotBegin(_message.Message):
    __slots__ = ("revision", "records")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    records: int
    def __init__(self, revision: _Optional[int] = ..., records: _Optional[int] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class SnapshotEnd(_message.Message):
    __slots__ = ("revision", "sha256")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    revision: int
    sha256: bytes
    def __init__(self, revision: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("from_revision", "to_revision", "records", "committed_at")
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    TO_REVISION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    from_revision: int
    to_revision: int
    records: _containers.RepeatedCompositeFieldContainer[Record]
    committed_at: float
    def __init__(self, from_revision: _Optional[int] = ..., to_revision: _Optional[int] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ..., committed_at: _Optional[float] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("revision", "refusals")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    def __init__(self, revision: _Optional[int] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("kind", "id", "problems")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    kind: RecordKind
    id: str
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[_Union[RecordKind, str]] = ..., id: _Optional[str] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("revision", "sent_at", "uptime")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    revision: int
    sent_at: float
    uptime: float
    def __init__(self, revision: _Optional[int] = ..., sent_at: _Optional[float] = ..., uptime: _Optional[float] = ...) -> None: ...

class ReportDecisionsRequest(_message.Message):
    __slots__ = ("node_id", "records", "batches")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    records: _containers.RepeatedCompositeFieldContainer[DecisionRecord]
    batches: _containers.RepeatedCompositeFieldContainer[ChainedBatch]
    def __init__(self, node_id: _Optional[str] = ..., records: _Optional[_Iterable[_Union[DecisionRecord, _Mapping]]] = ..., batches: _Optional[_Iterable[_Union[ChainedBatch, _Mapping]]] = ...) -> None: ...

class ChainedBatch(_message.Message):
    __slots__ = ("content", "previous_hash", "hash")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    previous_hash: bytes
    hash: bytes
    def __init__(self, content: _Optional[bytes] = ..., previous_hash: _Optional[bytes] = ..., hash: _Optional[bytes] = ...) -> None: ...

class RefusedRecord(_message.Message):
    __slots__ = ("sequence", "problem")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    problem: str
    def __init__(self, sequence: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class DecisionRecord(_message.Message):
    __slots__ = ("sequence", "document", "previous_hash", "hash")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    document: bytes
    previous_hash: bytes
    hash: bytes
    def __init__(self, sequence: _Optional[int] = ..., document: _Optional[bytes] = ..., previous_hash: _Optional[bytes] = ..., hash: _Optional[bytes] = ...) -> None: ...

class ReportDecisionsResponse(_message.Message):
    __slots__ = ("sequence", "refused")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    refused: _containers.RepeatedCompositeFieldContainer[RefusedRecord]
    def __init__(self, sequence: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[RefusedRecord, _Mapping]]] = ...) -> None: ...

class FindDecisionRequest(_message.Message):
    __slots__ = ("decision_id",)
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    def __init__(self, decision_id: _Optional[str] = ...) -> None: ...

class FindDecisionResponse(_message.Message):
    __slots__ = ("node_id", "agent_id", "outcome", "dry_run", "has_outcome")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    HAS_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    agent_id: str
    outcome: str
    dry_run: bool
    has_outcome: bool
    def __init__(self, node_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., outcome: _Optional[str] = ..., dry_run: _Optional[bool] = ..., has_outcome: _Optional[bool] = ...) -> None: ...

class Approval(_message.Message):
    __slots__ = ("approval_id", "state", "decided_by", "comment", "expires_at", "agent_id")
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    approval_id: str
    state: ApprovalState
    decided_by: str
    comment: str
    expires_at: float
    agent_id: str
    def __init__(self, approval_id: _Optional[str] = ..., state: _Optional[_Union[ApprovalState, str]] = ..., decided_by: _Optional[str] = ..., comment: _Optional[str] = ..., expires_at: _Optional[float] = ..., agent_id: _Optional[str] = ...) -> None: ...

class UseApprovalRequest(_message.Message):
    __slots__ = ("approval_id", "agent_id", "action_sha256", "use_id")
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    USE_ID_FIELD_NUMBER: _ClassVar[int]
    approval_id: str
    agent_id: str
    action_sha256: bytes
    use_id: str
    def __init__(self, approval_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., action_sha256: _Optional[bytes] = ..., use_id: _Optional[str] = ...) -> None: ...

class UseApprovalResponse(_message.Message):
    __slots__ = ("use", "approval")
    USE_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    use: ApprovalUse
    approval: Approval
    def __init__(self, use: _Optional[_Union[ApprovalUse, str]] = ..., approval: _Optional[_Union[Approval, _Mapping]] = ...) -> None: ...

class FindPendingApprovalRequest(_message.Message):
    __slots__ = ("agent_id", "action_sha256", "demand_sha256", "opened_approval_id")
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    DEMAND_SHA256_FIELD_NUMBER: _ClassVar[int]
    OPENED_APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    agent_id: str
    action_sha256: bytes
    demand_sha256: bytes
    opened_approval_id: str
    def __init__(self, agent_id: _Optional[str] = ..., action_sha256: _Optional[bytes] = ..., demand_sha256: _Optional[bytes] = ..., opened_approval_id: _Optional[str] = ...) -> None: ...

class FindPendingApprovalResponse(_message.Message):
    __slots__ = ("approval", "opened_is_known")
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    OPENED_IS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    approval: Approval
    opened_is_known: bool
    def __init__(self, approval: _Optional[_Union[Approval, _Mapping]] = ..., opened_is_known: _Optional[bool] = ...) -> None: ...

class WatchApprovalRequest(_message.Message):
    __slots__ = ("approval_id",)
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    approval_id: str
    def __init__(self, approval_id: _Optional[str] = ...) -> None: ...
