"""The errors of the registry, one type for each kind."""

from collections.abc import Sequence
from typing import Any, NamedTuple


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
