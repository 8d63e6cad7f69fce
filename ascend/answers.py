"""The decision where a sidecar has answered, and the one where it has not."""

from ascend import messages
from ascend.calls.calls import CallError, ClientClosedError, Code, UnreadableAnswerError
from ascend.model import Decision, Outcome
from ascend.settings import FailMode

UNAVAILABLE = "PDP_UNAVAILABLE"
"""The reason of a decision without an answer."""
MALFORMED = Code.INVALID_ARGUMENT.value
"""The `error_code` of a malformed action."""

# The start of the sidecar's message about a key that was repeated too often; RESOURCE_EXHAUSTED has other causes too.
_REPEATED = "idempotency_key: "


def read(answer: bytes) -> Decision:
    """The decision in an answer; a block if it cannot be read."""
    try:
        return messages.decision(messages.response(answer))
    except Exception as error:
        return _unreadable(error)


def without(error: Exception, fail_mode: FailMode) -> Decision:
    """The decision where asking has failed; with `fail_mode` open an allow, unless the question itself was refused."""
    if isinstance(error, messages.MalformedActionError):
        return malformed(str(error))
    if isinstance(error, CallError):
        return _failed(error.code, error.details, fail_mode)
    if isinstance(error, ClientClosedError):
        return _failed(Code.CANCELLED, str(error), fail_mode)
    if isinstance(error, UnreadableAnswerError):
        return _unreadable(error)
    return _block(Code.INTERNAL, f"no decision: {type(error).__name__}: {error}")


def malformed(details: str) -> Decision:
    """The block of a malformed action; the text begins with the name of the faulty field, if there is one."""
    name, colon, _ = details.partition(": ")
    field = name.removeprefix("action.") if colon and " " not in name else ""
    return _block(Code.INVALID_ARGUMENT, f"the action is malformed: {details}", field)


def _unreadable(error: Exception) -> Decision:
    return _block(Code.INTERNAL, f"the answer cannot be read: {error}")


def _failed(code: Code, details: str, fail_mode: FailMode) -> Decision:
    if code is Code.INVALID_ARGUMENT:
        return malformed(details)
    refused = code is Code.RESOURCE_EXHAUSTED and details.startswith(_REPEATED)
    outcome = Outcome.ALLOW if fail_mode == "open" and not refused else Outcome.BLOCK
    return Decision(outcome, UNAVAILABLE, f"no decision: {details}", error_code=code.value)


def _block(code: Code, message: str, field: str = "") -> Decision:
    return Decision(Outcome.BLOCK, UNAVAILABLE, message, error_code=code.value, field=field)
