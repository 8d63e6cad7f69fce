"""/api/keys: API keys."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store import keys
from registry_store.documents import Document
from registry_store.rest.access import Admin, reading, store_of, writing
from registry_store.rest.answers import Limit, Offset, answer, gives, page, takes
from registry_store.rest.bodies import read_json
from registry_store.rest.routing import Retried

router = APIRouter(prefix="/api/keys", tags=["keys"], route_class=Retried)


@router.post("", status_code=201, openapi_extra=takes(keys.KEY_BODY), responses=gives(400, 413, 422, status=201))
async def create(request: Request, caller: Admin) -> JSONResponse:
    """Create a key; this answer alone shows it."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        key, text = await keys.create(session, store_of(request).pepper, body, actor)
    return answer(keys.document(key) | {"key": text}, 201, f"{router.prefix}/{key.key_id}")


@router.get("", responses=gives(422, about="A page of keys, newest first"))
async def list_keys(request: Request, _caller: Admin, limit: Limit = 50, offset: Offset = 0) -> Document:
    """List keys; the keys themselves cannot be read again."""
    async with reading(request) as session:
        rows, total = await keys.page(session, limit, offset)
    return page("keys", [keys.document(row) for row in rows], total, limit, offset)


@router.delete("/{key_id}", responses=gives(404))
async def revoke(request: Request, key_id: str, caller: Admin) -> JSONResponse:
    """Revoke a key: it opens nothing from now on, and open streams under it end."""
    async with writing(request, caller) as (session, actor):
        key = await keys.revoke(session, key_id, actor)
    return answer(keys.document(key))
