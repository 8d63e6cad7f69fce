"""The decision where a sidecar has answered, and the one where it has not."""

import grpc

from ascend import messages
from ascend.model import Decision, Outcome
from ascend.settings import FailMode
from pdp.v1 import decision_pb2 as pb

UNAVAILABLE = "PDP_UNAVAILABLE"
"""The reason of a decision without an answer."""
MALFORMED = grpc.StatusCode.INVALID_ARGUMENT.name
"""The `error_code` of a malformed action."""

# The start of the sidecar's message about a key that was repeated too often; RESOURCE_EXHAUSTED has other causes too.
_REPEATED = "idempotency_key: "


class ClientClosedError(ValueError):
    """The client is closed."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


def read(answer: pb.EvaluateResponse) -> Decision:
    """The decision in an answer; a block if it cannot be read."""
    try:
        return messages.decision(answer)
    except Exception as error:
        return _block(grpc.StatusCode.INTERNAL, f"the answer cannot be read: {error}")


def without(error: Exception, fail_mode: FailMode) -> Decision:
    """The decision where asking has failed; with `fail_mode` open an allow, unless the question itself was refused."""
    if isinstance(error, messages.MalformedActionError):
        return malformed(str(error))
    if isinstance(error, grpc.RpcError):
        return _failed(error.code(), error.details() or "", fail_mode)
    if isinstance(error, ValueError):  # the client is closed
        return _failed(grpc.StatusCode.CANCELLED, str(error), fail_mode)
    return _block(grpc.StatusCode.INTERNAL, f"no decision: {type(error).__name__}: {error}")


def malformed(details: str) -> Decision:
    """The block of a malformed action; the text begins with the name of the faulty field, if there is one."""
    name, colon, _ = details.partition(": ")
    field = name.removeprefix("action.") if colon and " " not in name else ""
    return _block(grpc.StatusCode.INVALID_ARGUMENT, f"the action is malformed: {details}", field)


def _failed(code: grpc.StatusCode, details: str, fail_mode: FailMode) -> Decision:
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return malformed(details)
    refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.startswith(_REPEATED)
    outcome = Outcome.ALLOW if fail_mode == "open" and not refused else Outcome.BLOCK
    return Decision(outcome, UNAVAILABLE, f"no decision: {details}", error_code=code.name)


def _block(code: grpc.StatusCode, message: str, field: str = "") -> Decision:
    return Decision(Outcome.BLOCK, UNAVAILABLE, message, error_code=code.name, field=field)
