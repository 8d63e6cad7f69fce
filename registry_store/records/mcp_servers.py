"""MCP servers and the governance of their tools."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.model import RecordKind
from pdp.core.records import SERVER_BODY, read_server, read_server_body
from registry_store.database import paging
from registry_store.database.tables import McpServer
from registry_store.documents import Document, check_synced, to_json
from registry_store.errors import ConflictError, NotFoundError
from registry_store.journal import activity, revisions
from registry_store.journal.activity import Actor, Subject
from registry_store.records import versions

DEFAULTS: Document = {name: to_json(field.default) for name, field in SERVER_BODY.items()}


async def add(session: AsyncSession, body: Any, actor: Actor) -> McpServer:
    """Adds a server; `ConflictError` if the name is taken."""
    values = to_json(read_server_body(body))
    check_synced(values, read_server)
    name = values["server_name"]
    if await session.get(McpServer, name) is not None:
        raise ConflictError(f"server name `{name}` is taken")
    server = McpServer(
        server_name=name,
        body=values,
        revision=await revisions.advance(session, RecordKind.MCP_SERVER, name, actor.at),
        created_at=actor.at,
        updated_at=actor.at,
    )
    session.add(server)
    await activity.append(session, actor, "server_added", f"MCP server `{name}` added", _subject(name), new=values)
    return server


async def get(session: AsyncSession, name: str) -> McpServer:
    """The server; `NotFoundError` if the name is unknown."""
    server = await session.get(McpServer, name)
    if server is None:
        raise NotFoundError(f"no MCP server `{name}`")
    return server


async def page(session: AsyncSession, limit: int, offset: int) -> tuple[Sequence[McpServer], int]:
    """A page of servers, by name, and the total count."""
    return await paging.page(session, select(McpServer).order_by(McpServer.server_name), limit, offset)


async def change(session: AsyncSession, server: McpServer, body: Any, actor: Actor) -> None:
    """Changes the fields in `body`."""
    if not isinstance(body, Mapping):
        raise InvalidRecordError([Problem("", "the body is not an object")])
    if body.get("server_name", server.server_name) != server.server_name:
        raise InvalidRecordError([Problem("server_name", "cannot be changed")])
    before = body_of(server)
    after = to_json(read_server_body({**before, **body}))
    fields = versions.changed_fields(before, after)
    if not fields:
        return
    check_synced(after, read_server)
    server.body = after
    server.revision = await revisions.advance(session, RecordKind.MCP_SERVER, server.server_name, actor.at)
    server.updated_at = actor.at
    await activity.append(
        session,
        actor,
        "server_updated",
        f"MCP server `{server.server_name}` updated: {', '.join(fields)}",
        _subject(server.server_name),
        previous={name: before[name] for name in fields},
        new={name: after[name] for name in fields},
    )


async def remove(session: AsyncSession, server: McpServer, reason: str, actor: Actor) -> None:
    """Deletes the server; actions that name it are then blocked."""
    await revisions.advance(session, RecordKind.MCP_SERVER, server.server_name, actor.at)
    await session.delete(server)
    described = reason or f"MCP server `{server.server_name}` removed"
    await activity.append(
        session, actor, "server_removed", described, _subject(server.server_name), previous=body_of(server)
    )


def body_of(server: McpServer) -> Document:
    """Every field that a caller may write; fields that are newer than the stored row have their defaults."""
    return DEFAULTS | server.body


def document(server: McpServer) -> Document:
    """The server in the form of the REST interface."""
    state = {
        "revision": server.revision,
        "created_at": server.created_at,
        "updated_at": server.updated_at,
    }
    return body_of(server) | Document(to_json(state))


def _subject(name: str) -> Subject:
    return Subject("mcp_server", name)
