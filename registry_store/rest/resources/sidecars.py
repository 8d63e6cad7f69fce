"""/api/sidecars: the sidecars of this store, and the owners of node ids."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, Reader, store_of, writing
from registry_store.rest.exchange.answers import Limit, Offset, RecordId, answer, gives, page, takes
from registry_store.rest.exchange.bodies import read_optional_json
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref
from registry_store.sync import nodes, sidecars

router = APIRouter(prefix="/api/sidecars", tags=["sidecars"], route_class=Retried)


@router.get(
    "", responses=gives(422, about="A page of sidecars, by node id", schema=page_of("sidecars", ref("Sidecar")))
)
async def list_sidecars(request: Request, _caller: Reader, limit: Limit = 50, offset: Offset = 0) -> JSONResponse:
    """List the sidecars of this store, with the revision that each acknowledged and the records that it refused."""
    rows, total = store_of(request).sidecars.page(limit, offset)
    return page("sidecars", [sidecars.document(row) for row in rows], total, limit, offset)


@router.post(
    "/{node_id}/release",
    openapi_extra=takes(nodes.RELEASE_BODY, optional=True, example=examples.RELEASE_NODE),
    responses=gives(400, 404, 413, 422, about="The node id and its new owner", schema=ref("Node")),
)
async def release_node_id(request: Request, node_id: RecordId, caller: Admin) -> JSONResponse:
    """Release a sidecar's node id to keys with another name, or to the next key that uses it.

    A node id belongs to keys with the name that first used it; a new key with this name needs no release.
    """
    body = await read_optional_json(request)
    async with writing(request, caller) as (session, actor):
        node = await nodes.release(session, node_id, body, actor)
    return answer(nodes.document(node))
