"""Results of single requests among several, put around serialized answers without reading them again."""

from pdp.v1 import decision_pb2 as pb
from pdp.wire.varints import varint


def answered(answer: bytes) -> bytes:
    """The serialized `EvaluateResult` of a serialized answer."""
    return _field(_RESPONSE, answer)


def batched(result: bytes) -> bytes:
    """One serialized result as a part of an `EvaluateBatchResponse`: such parts one after the other are the whole."""
    return _field(_RESULTS, result)


def streamed(result: bytes, sequence: int, idempotency_key: str = "") -> bytes:
    """The serialized `EvaluateStreamResponse` of a serialized result."""
    message = pb.EvaluateStreamResponse(sequence=sequence, idempotency_key=idempotency_key)
    return message.SerializeToString() + _field(_RESULT, result)


def _field(number: int, message: bytes) -> bytes:
    return b"".join((varint(number << 3 | 2), varint(len(message)), message))


_RESPONSE = pb.EvaluateResult.DESCRIPTOR.fields_by_name["response"].number
_RESULTS = pb.EvaluateBatchResponse.DESCRIPTOR.fields_by_name["results"].number
_RESULT = pb.EvaluateStreamResponse.DESCRIPTOR.fields_by_name["result"].number
