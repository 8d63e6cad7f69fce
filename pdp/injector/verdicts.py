"""What a review comes to: a patch, nothing to do, a skip or a refusal, each with a reason from a fixed list."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Skip(StrEnum):
    """Why a pod gets no sidecar and is admitted all the same."""

    OPTED_OUT = "opted_out"
    EXCLUDED_NAMESPACE = "excluded_namespace"


class Refusal(StrEnum):
    """Why a pod, or a change of a pod, is not admitted."""

    AGENT_ID_MISSING = "agent_id_missing"
    AGENT_ID_NOT_ALLOWED = "agent_id_not_allowed"
    ANNOTATION_INVALID = "annotation_invalid"
    ANNOTATION_UNKNOWN = "annotation_unknown"
    LABEL_INVALID = "label_invalid"
    NAME_TAKEN = "name_taken"
    PATH_TAKEN = "path_taken"
    ENVIRONMENT_TAKEN = "environment_taken"
    PORT_TAKEN = "port_taken"
    SECRET_USED = "secret_used"  # noqa: S105 - the name of a reason
    PROCESS_NAMESPACE = "process_namespace"
    WINDOWS = "windows"
    STATIC_POD = "static_pod"
    SIDECAR_CHANGED = "sidecar_changed"
    SIDECAR_TARGETED = "sidecar_targeted"
    UNEXPECTED_REVIEW = "unexpected_review"
    MALFORMED_POD = "malformed_pod"
    INTERNAL_ERROR = "internal_error"


class Result(StrEnum):
    """How a review ended."""

    INJECTED = "injected"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    REFUSED = "refused"


class RefusedError(Exception):
    """A pod is refused; the text is what `kubectl apply` shows."""

    def __init__(self, reason: Refusal, message: str) -> None:
        self.reason = reason
        super().__init__(message)


Operation = dict[str, Any]
"""One operation of a JSON patch (RFC 6902)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one review; `reason` and `message` are empty unless it skips or refuses."""

    result: Result
    patch: tuple[Operation, ...] = ()
    reason: str = ""
    message: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the API server goes on with the request."""
        return self.result is not Result.REFUSED


def refused(error: RefusedError) -> Verdict:
    """The verdict of a refusal."""
    return Verdict(Result.REFUSED, reason=error.reason.value, message=str(error))
