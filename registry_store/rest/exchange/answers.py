"""Shared by the routes: responses, pages, entity tags, and their OpenAPI descriptions."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, WithJsonSchema
from starlette.types import Receive, Scope, Send

from pdp.core.fields import Field
from pdp.serving.turns import Turns
from registry_store.documents import Document, canonical, compact, read_instant
from registry_store.errors import StaleTagError
from registry_store.rest.exchange import schemas
from registry_store.rest.exchange.problems import MEDIA_TYPE

Limit = Annotated[int, Query(ge=1, le=500, description="Maximum number of items")]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000, description="Number of items to skip")]

STORABLE = r"^[^\x00]*$"
"""Without NUL: databases do not store it in text."""
AgentId = Annotated[str, Path(max_length=256, pattern=STORABLE, examples=["finance-transaction-processor-prod"])]
RecordId = Annotated[str, Path(max_length=256, pattern=STORABLE)]
Word = Annotated[str | None, Query(max_length=256, pattern=STORABLE)]
Moment = Annotated[
    datetime | None, BeforeValidator(read_instant), WithJsonSchema({"type": "string", "format": "date-time"})
]

VOLATILE = ("last_used_at", "key", "warnings")
"""Members that the entity tag ignores: they are shown once, or change without a change to the record."""


def answer(document: Mapping[str, Any], status: int = 200, location: str | None = None) -> JSONResponse:
    """The response with one record and its entity tag."""
    headers = {"ETag": entity_tag(document)}
    if location is not None:
        headers["Location"] = location
    return JSONResponse(document, status, headers)


def page(
    noun: str, items: Sequence[Document | str], total: int, limit: int, offset: int, **beside: Any
) -> JSONResponse:
    """The response with a page of a list: the items, `total`, `limit` and `offset`."""
    return _Page(noun, items, beside, {"total": total, "limit": limit, "offset": offset})


class _Page(JSONResponse):
    """Renders item by item with pauses: a page may be megabytes, and other requests must not wait."""

    def __init__(self, noun: str, items: Sequence[Any], before: Document, after: Document) -> None:
        super().__init__({})
        self._head = compact(before | {noun: []}).removesuffix(b"]}")
        self._items = items
        self._tail = b"]," + compact(after).removeprefix(b"{")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        turns, rendered = Turns(), []
        for item in self._items:
            rendered.append(compact(item))
            await turns.pause()
        self.body = self._head + b",".join(rendered) + self._tail
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def entity_tag(document: Mapping[str, Any]) -> str:
    """The ETag of a record: its revision, or a hash of its content if it has none."""
    if "revision" in document:
        return f'"{document["revision"]}"'
    content = {name: value for name, value in document.items() if name not in VOLATILE}
    return f'"{hashlib.sha256(canonical(content).encode()).hexdigest()[:16]}"'


def check_match(request: Request, document: Mapping[str, Any] | None) -> None:
    """Raises `StaleTagError` if the `If-Match` header does not match the record; None matches no tag."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        return
    if document is None:
        raise StaleTagError("the record is removed, and has no ETag")
    tags = {tag.strip() for tag in wanted.split(",")}
    if "*" not in tags and entity_tag(document) not in tags:
        raise StaleTagError(f"the record has changed: its ETag is {entity_tag(document)}")


def takes(
    fields: Mapping[str, Field],
    *,
    partial: bool = False,
    optional: bool = False,
    tagged: bool = False,
    example: Document | None = None,
) -> dict[str, Any]:
    """The OpenAPI description of a JSON body with these fields; `tagged`: with the header `If-Match`."""
    content: dict[str, Any] = {"schema": schemas.body(fields, partial=partial)}
    if example is not None:
        content["example"] = example
    described: dict[str, Any] = {"requestBody": {"required": not optional, "content": {"application/json": content}}}
    return described | if_match() if tagged else described


def if_match() -> dict[str, Any]:
    """The OpenAPI description of the header `If-Match`."""
    about = 'ETag of an earlier GET, such as `"17"`: if the record has changed since, the request is rejected with 412'
    return {"parameters": [{"name": "If-Match", "in": "header", "schema": {"type": "string"}, "description": about}]}


def gives(
    *errors: int, status: int = 200, about: str = "The record", schema: Mapping[str, Any] | None = None
) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the responses: success, and each error as a problem."""
    success: dict[str, Any] = {
        "description": about,
        "content": {"application/json": {"schema": schema or {"type": "object"}}},
    }
    answers: dict[int | str, dict[str, Any]] = {status: success}
    return answers | {code: _error(code) for code in (401, 403, *errors, 429, 503)}


def no_content(*errors: int, about: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of a response without a body, and each error as a problem."""
    return gives(*errors, status=204) | {204: {"description": about}}


def _error(code: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": _ERRORS[code],
        "content": {MEDIA_TYPE: {"schema": schemas.ref("Problem")}},
    }
    if code in _HEADERS:
        described["headers"] = _HEADERS[code]
    return described


def _header(about: str, kind: str) -> Document:
    return {"description": about, "schema": {"type": kind}, "required": True}


_ERRORS = {
    400: "The body is not JSON",
    401: "The key is missing, wrong, revoked or expired",
    403: "The role of the key does not allow the request",
    404: "No such record",
    409: "The current state of the record does not allow the request",
    412: "The record has changed since the ETag in If-Match",
    413: "The body is larger than 1 MiB (9 MiB for a declaration), or it has too many values",
    422: "Every invalid field or parameter with its path",
    429: "Too many wrong keys from this address",
    503: "The database is out of reach",
}
_RETRY_AFTER = {"Retry-After": _header("Seconds to wait before the next try", "integer")}
_HEADERS = {
    401: {"WWW-Authenticate": _header("How to authenticate: Bearer", "string")},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
