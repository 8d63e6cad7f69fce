"""The errors that agent code catches: an action that must not be taken, and the errors of the registry."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ascend.model import Approval, Decision


class ActionRefused(Exception):
    """An action was not taken, because it is not allowed, or not yet.

    `decision` is the last decision; `approval` is the last known state of the approval, if people were waited for.
    """

    def __init__(self, decision: Decision, approval: Approval | None = None) -> None:
        self.decision = decision
        self.approval = approval
        super().__init__(decision, approval)

    @property
    def approval_id(self) -> str:
        """The approval that was asked for; empty if none was."""
        return self.approval.approval_id if self.approval is not None else self.decision.approval_id

    def __str__(self) -> str:
        return f"{self.decision.outcome} {self.decision.reason}: {self.decision.message}"


class ActionBlocked(ActionRefused):
    """The decision is a block, or no approval can allow the action now."""


class DecisionUnavailable(ActionBlocked):
    """There was no decision, and the client fails closed; a later try may get one."""


class ApprovalPending(ActionRefused):
    """People have not decided within the time; a later run with the `approval_id` continues to wait for them."""

    def __str__(self) -> str:
        return f"approval `{self.approval_id}` is still pending: {self.decision.message}"


class ApprovalDenied(ActionRefused):
    """A person has denied the action: `approval.decided_by` and `approval.comment` say who and why."""

    def __str__(self) -> str:
        return f"{_decided(self.approval)} denied approval `{self.approval_id}`{_comment(self.approval)}"


class ApprovalUnusable(ActionRefused):
    """The approval has expired, has been used, or is unknown: `approval.state` says which."""

    def __str__(self) -> str:
        state = "unusable" if self.approval is None else self.approval.state
        return f"approval `{self.approval_id}` is {state}{_comment(self.approval)}"


def _decided(approval: Approval | None) -> str:
    return f"`{approval.decided_by}`" if approval is not None and approval.decided_by else "a person"


def _comment(approval: Approval | None) -> str:
    return f": {approval.comment}" if approval is not None and approval.comment else ""


class Problem(NamedTuple):
    """A field that the registry refuses, by its path."""

    path: str
    message: str


class RegistryError(Exception):
    """The registry refused a request or cannot be reached.

    `status` is its HTTP status, 0 without an answer; `problems` are the fields that it refuses; `retry_after` is the
    time to wait before a retry, in seconds.
    """

    def __init__(
        self, message: str, status: int = 0, problems: Sequence[Problem] = (), retry_after: float | None = None
    ) -> None:
        self.status = status
        self.problems = tuple(problems)
        self.retry_after = retry_after
        super().__init__(message)


class NotAuthenticated(RegistryError):
    """The key is missing, wrong, revoked or expired (401)."""


class NotAllowed(RegistryError):
    """The key's role does not cover it (403)."""


class NotFound(RegistryError):
    """There is no such record (404)."""


class Conflict(RegistryError):
    """The record's current state does not allow it (409)."""


class Stale(RegistryError):
    """The record has changed since it was read (412)."""


class Invalid(RegistryError):
    """Fields are wrong: `problems` names all of them (400, 413, 422)."""


class Unavailable(RegistryError):
    """No answer, or none now (0, 429, 5xx); the request may still have been carried out, except after a 429."""


_TYPES: dict[int, type[RegistryError]] = {
    **dict.fromkeys((400, 413, 422), Invalid),
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    412: Stale,
    429: Unavailable,
}


def refusal(status: int, answer: dict[str, Any], retry_after: str | None) -> RegistryError:
    """The error for an answer with this status."""
    problems = [Problem(str(one.get("path", "")), str(one.get("message", ""))) for one in answer.get("errors", ())]
    listed = "; ".join(f"{path}: {message}" if path else message for path, message in problems)
    detail = listed or answer.get("detail") or answer.get("title") or "no detail"
    error_type = _TYPES.get(status, Unavailable if status >= 500 else RegistryError)
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return error_type(f"the registry answered {status}: {detail}", status, problems, seconds)
