"""/api/keys: API keys."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.access import keys
from registry_store.database.tables import Key
from registry_store.documents import Document
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, reading, store_of, writing
from registry_store.rest.exchange.answers import (
    Limit,
    Offset,
    RecordId,
    answer,
    check_match,
    gives,
    if_match,
    page,
    takes,
)
from registry_store.rest.exchange.bodies import read_json
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/keys", tags=["keys"], route_class=Retried)


@router.post(
    "",
    status_code=201,
    openapi_extra=takes(keys.KEY_BODY, example=examples.KEY),
    responses=gives(400, 413, 422, status=201, about="The key", schema=ref("NewKey")),
)
async def create_key(request: Request, caller: Admin) -> JSONResponse:
    """Create a key; only this response shows it."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        key, text = await keys.create(session, store_of(request).pepper, body, actor)
    return answer(_document(request, key) | {"key": text}, 201, f"{router.prefix}/{key.key_id}")


@router.get("", responses=gives(422, about="A page of keys, newest first", schema=page_of("keys", ref("Key"))))
async def list_keys(request: Request, _caller: Admin, limit: Limit = 50, offset: Offset = 0) -> JSONResponse:
    """List keys; the keys themselves are not shown."""
    async with reading(request) as session:
        rows, total = await keys.page(session, limit, offset)
    return page("keys", [_document(request, row) for row in rows], total, limit, offset)


@router.get("/{key_id}", responses=gives(404, 422, schema=ref("Key")))
async def read_key(request: Request, key_id: RecordId, _caller: Admin) -> JSONResponse:
    """Read the name, role, expiry and last use of a key."""
    async with reading(request) as session:
        return answer(_document(request, await keys.get(session, key_id)))


@router.delete("/{key_id}", openapi_extra=if_match(), responses=gives(404, 412, 422, schema=ref("Key")))
async def revoke_key(request: Request, key_id: RecordId, caller: Admin) -> JSONResponse:
    """Revoke a key, at once; its open streams end."""
    async with writing(request, caller) as (session, actor):
        check_match(request, _document(request, await keys.get(session, key_id)))
        key = await keys.revoke(session, key_id, actor)
    store_of(request).authentication.revoked.set()
    return answer(_document(request, key))


def _document(request: Request, key: Key) -> Document:
    return keys.document(key, store_of(request).authentication.last_used(key.key_id))
