"""Errors as `application/problem+json` (RFC 9457)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from math import ceil

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


def install(app: FastAPI, allowed: Callable[[str], Iterable[str]]) -> None:
    """Returns every error of the application as a problem; `allowed` returns the methods of a path."""

    @app.exception_handler(InvalidRecordError)
    async def invalid_record(_request: Request, error: InvalidRecordError) -> Response:
        return problem(422, f"not valid: {error.count} of the values", error.problems)

    @app.exception_handler(RequestValidationError)
    async def invalid_parameters(_request: Request, error: RequestValidationError) -> Response:
        errors = Problems(_of_parameter(entry["loc"], entry["msg"]) for entry in error.errors())
        return problem(422, f"not valid: {len(errors)} of the parameters", errors)

    @app.exception_handler(RegistryError)
    async def registry_error(_request: Request, error: RegistryError) -> Response:
        status = STATUSES[type(error)]
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if isinstance(error, TooManyFailuresError):
            headers["Retry-After"] = str(ceil(error.wait))
        return problem(status, str(error), headers=headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(allowed(request.scope["path"])) or headers.get("Allow", "")
        detail = "" if error.detail == HTTPStatus(error.status_code).phrase else error.detail
        return problem(error.status_code, detail, headers=headers)

    async def database_error(_request: Request, error: Exception) -> Response:
        if not is_unavailable(error):
            raise error
        return problem(503, "the database is out of reach", headers={"Retry-After": str(RETRY_SECONDS)})

    for failure in FAILURES:
        app.add_exception_handler(failure, database_error)

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> Response:
        return problem(500, "internal error")


def _of_parameter(location: Sequence[object], message: str) -> Problem:
    return Problem(".".join(map(str, location[1:])), lower_first(message))
