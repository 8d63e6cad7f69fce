"""Errors as `application/problem+json` (RFC 9457)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from pdp.core.errors import InvalidRecordError, Problem, Problems, bounded_text
from registry_store.database.failures import FAILURES, is_unavailable
from registry_store.documents import lower_first
from registry_store.errors import (
    ConflictError,
    LapsedKeyError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    RegistryError,
    StaleTagError,
    TooManyFailuresError,
)

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL_CHARACTERS = 1024
RETRY_SECONDS = 1
STATUSES: Mapping[type[RegistryError], int] = {
    NotAuthenticatedError: 401,
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    StaleTagError: 412,
    LapsedKeyError: 401,
    TooManyFailuresError: 429,
}
KNOWN = (InvalidRecordError, RequestValidationError, RegistryError, HTTPException, *FAILURES)
"""What `failure_of` knows; any other error is a fault of this program."""


def problem(
    status: int,
    detail: str = "",
    errors: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response to a failed request, with every invalid field by its path."""
    content: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail:
        content["detail"] = bounded_text(detail, MAX_DETAIL_CHARACTERS)
    if listed := [error._asdict() for error in errors]:
        content["errors"] = listed
    return JSONResponse(content, status, headers, MEDIA_TYPE)


class Failure(NamedTuple):
    """What a caller is told of a request that failed."""

    status: int
    detail: str = ""
    errors: Iterable[Problem] = ()
    headers: Mapping[str, str] = MappingProxyType({})


FINE = Failure(200)


def failure_of(error: Exception) -> Failure:
    """What the caller is told of this error; raises it again if it is a fault of this program."""
    if isinstance(error, InvalidRecordError):
        return Failure(422, f"not valid: {error.count} of the values", error.problems)
    if isinstance(error, RequestValidationError):
        errors = Problems(_of_parameter(entry["loc"], entry["msg"]) for entry in error.errors())
        return Failure(422, f"not valid: {len(errors)} of the parameters", errors)
    if isinstance(error, RegistryError):
        return Failure(STATUSES[type(error)], str(error), headers=_headers_of(error))
    if isinstance(error, HTTPException):
        detail = "" if error.detail == HTTPStatus(error.status_code).phrase else error.detail
        return Failure(error.status_code, detail, headers=error.headers or {})
    if is_unavailable(error):
        return Failure(503, "the database is out of reach", headers={"Retry-After": str(RETRY_SECONDS)})
    raise error


def install(app: FastAPI, allowed: Callable[[str], Iterable[str]]) -> None:
    """Returns every error of the application as a problem; `allowed` returns the methods of a path."""

    async def known(request: Request, error: Exception) -> Response:
        failure = failure_of(error)
        headers = dict(failure.headers)
        if failure.status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(allowed(request.scope["path"])) or headers.get("Allow", "")
        return problem(failure.status, failure.detail, failure.errors, headers)

    for kind in KNOWN:
        app.add_exception_handler(kind, known)

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        return problem(500, "internal error")


def _headers_of(error: RegistryError) -> dict[str, str]:
    headers = {"WWW-Authenticate": "Bearer"} if STATUSES[type(error)] == 401 else {}
    if isinstance(error, TooManyFailuresError):
        headers["Retry-After"] = str(ceil(error.wait))
    return headers


def _of_parameter(location: Sequence[object], message: str) -> Problem:
    return Problem(".".join(map(str, location[1:])), lower_first(message))
