"""Results of single requests among several, put around serialized answers without reading them again."""

from pdp.v1 import decision_pb2 as pb


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
    return b"".join((_varint(number << 3 | 2), _varint(len(message)), message))


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


_RESPONSE = pb.EvaluateResult.DESCRIPTOR.fields_by_name["response"].number
_RESULTS = pb.EvaluateBatchResponse.DESCRIPTOR.fields_by_name["results"].number
_RESULT = pb.EvaluateStreamResponse.DESCRIPTOR.fields_by_name["result"].number
