"""What the routes share in answering: pages, entity tags, and their description in OpenAPI."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse

from pdp.core.fields import Field, schema_of
from registry_store.documents import Document
from registry_store.errors import StaleTag
from registry_store.rest.problems import MEDIA_TYPE, SCHEMA

Limit = Annotated[int, Query(ge=1, le=500, description="How many at most")]
Offset = Annotated[int, Query(ge=0, le=1_000_000_000, description="How many to leave out")]

RECORD = {"type": "object", "additionalProperties": True}


def answer(document: Mapping[str, Any], status: int = 200, location: str | None = None) -> JSONResponse:
    """One record, with its revision as entity tag."""
    headers = {"ETag": entity_tag(document)} if "revision" in document else {}
    if location is not None:
        headers["Location"] = location
    return JSONResponse(document, status, headers)


def page(noun: str, items: Sequence[Document], total: int, limit: int, offset: int, **beside: Any) -> Document:
    """A list as the contract has it: the noun's plural beside `total`, `limit` and `offset`."""
    return beside | {noun: items, "total": total, "limit": limit, "offset": offset}


def entity_tag(document: Mapping[str, Any]) -> str:
    """The ETag of a record: it changes with every change of it."""
    return f'"{document["revision"]}"'


def check_match(request: Request, document: Mapping[str, Any]) -> None:
    """Raise `StaleTag` if the caller's `If-Match` names another state than this."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        return
    tags = {tag.strip() for tag in wanted.split(",")}
    if "*" not in tags and entity_tag(document) not in tags:
        raise StaleTag(f"the record has changed: its ETag is {entity_tag(document)}")


def takes(fields: Mapping[str, Field], *, partial: bool = False, optional: bool = False) -> dict[str, Any]:
    """OpenAPI of a JSON body of these fields."""
    schema = schema_of(fields, partial=partial)
    return {"requestBody": {"required": not optional, "content": {"application/json": {"schema": schema}}}}


def gives(*errors: int, status: int = 200, about: str = "The record") -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the answers: the good one, and each error as a problem."""
    good: dict[str, Any] = {"description": about, "content": {"application/json": {"schema": RECORD}}}
    answers: dict[int | str, dict[str, Any]] = {status: good}
    return answers | {code: _error(code) for code in (401, 403, *errors, 503)}


def _error(code: int) -> dict[str, Any]:
    return {"description": _ERRORS[code], "content": {MEDIA_TYPE: {"schema": SCHEMA}}}


_ERRORS = {
    400: "The body is not JSON",
    401: "No key, or a wrong one",
    403: "The key's role does not cover it",
    404: "No such record",
    409: "The record's present state forbids it",
    412: "Changed since the ETag in If-Match",
    413: "The body is larger than 1 MiB",
    422: "Every bad field with its path",
    503: "The database is out of reach",
}
