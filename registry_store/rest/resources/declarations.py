"""/api/agents/declarations: agents with their policies, each as one document; used by `registry-store apply`."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pdp.core.errors import InvalidRecordError, Problem
from registry_store.database.tables import Agent
from registry_store.documents import Document
from registry_store.errors import StaleTagError
from registry_store.records import advice, agents, declarations, policies
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, Reader, reading, store_of, writing
from registry_store.rest.exchange.answers import AgentId, Limit, Offset, answer, check_match, gives, page, takes
from registry_store.rest.exchange.bodies import MAX_BYTES, read_json
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/agents/declarations", tags=["declarations"], route_class=Retried)

MAX_VALUES = 500_000
PAGE = page_of("declarations", ref("Declaration"))


@router.get("", responses=gives(422, about="A page of agents, by id", schema=PAGE))
async def list_declarations(request: Request, _caller: Reader, limit: Limit = 50, offset: Offset = 0) -> JSONResponse:
    """List the agents that are not retired, each with all of its policies."""
    async with reading(request) as session:
        documents, total = await declarations.page(session, limit, offset)
    return page("declarations", documents, total, limit, offset)


@router.get("/{agent_id}", responses=gives(404, 422, schema=ref("Declaration")))
async def read_declaration(request: Request, agent_id: AgentId, _caller: Reader) -> JSONResponse:
    """Read an agent with all of its policies."""
    async with reading(request) as session:
        return answer(await declarations.document(session, await agents.get(session, agent_id)))


@router.put(
    "/{agent_id}",
    openapi_extra=takes(declarations.BODY, tagged=True, example=examples.DECLARATION),
    responses=gives(400, 409, 412, 413, 422, schema=ref("DeclarationWithWarnings"))
    | gives(status=201, about="Registered", schema=ref("DeclarationWithWarnings")),
)
async def apply_declaration(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Set an agent and all of its policies, in one transaction; `If-None-Match: *` only registers."""
    body = _with_id(await read_json(request, policies.MAX_BYTES + MAX_BYTES, MAX_VALUES), agent_id)
    wanted = await asyncio.to_thread(declarations.read, body)  # it may be megabytes, and other callers must not wait
    async with writing(request, caller) as (session, actor):
        found = await session.get(Agent, agent_id)
        _check_presence(request, agent_id, there=found is not None)
        if found is not None:
            check_match(request, await declarations.document(session, found))
        activate = store_of(request).settings.auto_activate
        agent = await declarations.apply(session, found, wanted, actor, activate=activate)
        await session.flush()
        document = await declarations.document(session, agent)
    warnings = advice.on_agent(wanted.configuration, body, store_of(request).routes)
    return answer(document | {"warnings": warnings}, 200 if found else 201)


def _with_id(body: object, agent_id: str) -> Document:
    if not isinstance(body, dict):
        raise InvalidRecordError([Problem("", "the body is not an object")])
    if body.get("agent_id", agent_id) != agent_id:
        raise InvalidRecordError([Problem("agent_id", f"differs from `{agent_id}` in the path")])
    return body | {"agent_id": agent_id}


def _check_presence(request: Request, agent_id: str, *, there: bool) -> None:
    if there and request.headers.get("if-none-match") == "*":
        raise StaleTagError(f"agent `{agent_id}` is already registered")
    if not there and "if-match" in request.headers:
        raise StaleTagError(f"agent `{agent_id}` is not registered")
