"""/api/agents/mcp/servers: MCP servers."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from pdp.core.records import SERVER_BODY
from registry_store.records import mcp_servers
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, Reader, reading, writing
from registry_store.rest.exchange.answers import (
    Limit,
    Offset,
    RecordId,
    answer,
    check_match,
    gives,
    no_content,
    page,
    takes,
)
from registry_store.rest.exchange.bodies import REASON_BODY, read_json, read_reason
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/agents/mcp/servers", tags=["MCP servers"], route_class=Retried)

BODY = (400, 413, 422)


@router.post(
    "",
    status_code=201,
    openapi_extra=takes(SERVER_BODY, example=examples.MCP_SERVER),
    responses=gives(*BODY, 409, status=201, schema=ref("McpServer")),
)
async def add_mcp_server(request: Request, caller: Admin) -> JSONResponse:
    """Add an MCP server."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        server = await mcp_servers.add(session, body, actor)
    return answer(mcp_servers.document(server), 201, f"{router.prefix}/{server.server_name}")


@router.get(
    "", responses=gives(422, about="A page of MCP servers, by name", schema=page_of("servers", ref("McpServer")))
)
async def list_mcp_servers(request: Request, _caller: Reader, limit: Limit = 50, offset: Offset = 0) -> JSONResponse:
    """List MCP servers."""
    async with reading(request) as session:
        rows, total = await mcp_servers.page(session, limit, offset)
    return page("servers", [mcp_servers.document(row) for row in rows], total, limit, offset)


@router.get("/{server_name}", responses=gives(404, 422, schema=ref("McpServer")))
async def read_mcp_server(request: Request, server_name: RecordId, _caller: Reader) -> JSONResponse:
    """Read an MCP server."""
    async with reading(request) as session:
        return answer(mcp_servers.document(await mcp_servers.get(session, server_name)))


@router.put(
    "/{server_name}",
    openapi_extra=takes(SERVER_BODY, partial=True, tagged=True, example=examples.MCP_SERVER_CHANGE),
    responses=gives(*BODY, 404, 412, schema=ref("McpServer")),
)
async def change_mcp_server(request: Request, server_name: RecordId, caller: Admin) -> JSONResponse:
    """Change the given fields of an MCP server."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        server = await mcp_servers.get(session, server_name)
        check_match(request, mcp_servers.document(server))
        await mcp_servers.change(session, server, body, actor)
    return answer(mcp_servers.document(server))


@router.delete(
    "/{server_name}",
    status_code=204,
    openapi_extra=takes(REASON_BODY, optional=True, tagged=True, example=examples.REASON),
    responses=no_content(*BODY, 404, 412, about="Removed"),
)
async def remove_mcp_server(request: Request, server_name: RecordId, caller: Admin) -> Response:
    """Remove an MCP server; actions that name it are then blocked."""
    reason = await read_reason(request)
    async with writing(request, caller) as (session, actor):
        server = await mcp_servers.get(session, server_name)
        check_match(request, mcp_servers.document(server))
        await mcp_servers.remove(session, server, reason, actor)
    return Response(status_code=204)
