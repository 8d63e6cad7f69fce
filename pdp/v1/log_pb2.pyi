from google.protobuf import struct_pb2 as _struct_pb2
from pdp.v1 import decision_pb2 as _decision_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogBatch(_message.Message):
    __slots__ = ("first_sequence", "records")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    records: _containers.RepeatedCompositeFieldContainer[LogRecord]
    def __init__(self, first_sequence: _Optional[int] = ..., records: _Optional[_Iterable[_Union[LogRecord, _Mapping]]] = ...) -> None: ...

class LogRecord(_message.Message):
    __slots__ = ("decision", "gap", "outcome", "suspension")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SUSPENSION_FIELD_NUMBER: _ClassVar[int]
    decision: LoggedDecision
    gap: LogGap
    outcome: _struct_pb2.Struct
    suspension: _struct_pb2.Struct
    def __init__(self, decision: _Optional[_Union[LoggedDecision, _Mapping]] = ..., gap: _Optional[_Union[LogGap, _Mapping]] = ..., outcome: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., suspension: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class LoggedDecision(_message.Message):
    __slots__ = ("request", "answer", "repeat_id", "decided_at_microseconds", "latency_nanoseconds", "cost_micros", "opens")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REPEAT_ID_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_NANOSECONDS_FIELD_NUMBER: _ClassVar[int]
    COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    request: _decision_pb2.EvaluateRequest
    answer: _decision_pb2.EvaluateResponse
    repeat_id: str
    decided_at_microseconds: int
    latency_nanoseconds: int
    cost_micros: int
    opens: OpenedApproval
    def __init__(self, request: _Optional[_Union[_decision_pb2.EvaluateRequest, _Mapping]] = ..., answer: _Optional[_Union[_decision_pb2.EvaluateResponse, _Mapping]] = ..., repeat_id: _Optional[str] = ..., decided_at_microseconds: _Optional[int] = ..., latency_nanoseconds: _Optional[int] = ..., cost_micros: _Optional[int] = ..., opens: _Optional[_Union[OpenedApproval, _Mapping]] = ...) -> None: ...

class OpenedApproval(_message.Message):
    __slots__ = ("approval_id", "action_sha256", "timeout_seconds")
    APPROVAL_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_SHA256_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    approval_id: str
    action_sha256: bytes
    timeout_seconds: int
    def __init__(self, approval_id: _Optional[str] = ..., action_sha256: _Optional[bytes] = ..., timeout_seconds: _Optional[int] = ...) -> None: ...

class LogGap(_message.Message):
    __slots__ = ("first_sequence", "last_sequence", "records", "at_microseconds")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    AT_MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    last_sequence: int
    records: int
    at_microseconds: int
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., records: _Optional[int] = ..., at_microseconds: _Optional[int] = ...) -> None: ...
