"""/api/agents/registry: agents."""

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from pdp.core.model import AgentType, Status
from pdp.core.records import CONFIGURATION
from registry_store.access import keys
from registry_store.access.keys import Caller, Role
from registry_store.database import listing
from registry_store.database.listing import Filter
from registry_store.database.tables import Agent
from registry_store.documents import Document
from registry_store.errors import ConflictError
from registry_store.records import advice, agents, emergency_stops
from registry_store.records.agents import CHANGE_BODY
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import (
    Admin,
    AdminOrAgent,
    Reader,
    ReaderOrAgent,
    check_sees,
    reading,
    store_of,
    writing,
)
from registry_store.rest.exchange.answers import AgentId, Limit, Offset, Word, answer, check_match, gives, page, takes
from registry_store.rest.exchange.bodies import REASON_BODY, read_json, read_reason
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/agents/registry", tags=["agents"], route_class=Retried)

BODY = (400, 413, 422)


@router.post(
    "",
    status_code=201,
    openapi_extra=takes(CONFIGURATION, example=examples.AGENT),
    responses=gives(*BODY, 409, status=201, schema=ref("AgentWithWarnings")),
)
async def register_agent(request: Request, caller: AdminOrAgent) -> JSONResponse:
    """Register an agent. It is a draft until an admin activates it."""
    body = await read_json(request)
    _check_own(caller, body)
    store = store_of(request)
    async with writing(request, caller) as (session, actor):
        agent = await agents.register(session, body, actor, activate=store.settings.auto_activate)
        if caller.role is Role.AGENT:
            await keys.bind(session, caller, agent.agent_id, actor)
    return answer(_advised(request, agent, body), 201, f"{router.prefix}/{agent.agent_id}")


@router.get("", responses=gives(422, about="A page of agents, by id", schema=page_of("agents", ref("Agent"))))
async def list_agents(
    request: Request,
    _caller: Reader,
    *,
    status: Status | None = None,
    agent_type: Annotated[AgentType | None, Query(alias="type")] = None,
    tag: Word = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List agents."""
    wanted = Filter(status and status.value, agent_type and agent_type.value, tag)
    async with reading(request) as session:
        rows, total = await listing.page(session, wanted, limit, offset)
    return page("agents", [agents.document(row) for row in rows], total, limit, offset)


@router.get("/{agent_id}", responses=gives(404, 422, schema=ref("Agent")))
async def read_agent(request: Request, agent_id: AgentId, caller: ReaderOrAgent) -> JSONResponse:
    """Read an agent."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        return answer(agents.document(await agents.get(session, agent_id)))


@router.put(
    "/{agent_id}",
    openapi_extra=takes(CHANGE_BODY, partial=True, tagged=True, example=examples.CHANGE),
    responses=gives(*BODY, 404, 409, 412, schema=ref("AgentWithWarnings")),
)
async def change_agent(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Change the given fields of an agent; a change to a security-relevant field makes a new version."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        agent = await agents.get_changeable(session, agent_id)
        check_match(request, agents.document(agent))
        await agents.change(session, agent, body, actor)
    return answer(_advised(request, agent, body))


@router.delete(
    "/{agent_id}",
    openapi_extra=takes(REASON_BODY, optional=True, tagged=True, example=examples.REASON),
    responses=gives(*BODY, 404, 412, schema=ref("Agent")),
)
async def retire_agent(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Retire an agent permanently; its records are kept."""
    return await _set_status(request, agent_id, caller, Status.RETIRED)


@router.post(
    "/{agent_id}/activate",
    openapi_extra=takes(REASON_BODY, optional=True, tagged=True, example=examples.REASON),
    responses=gives(*BODY, 404, 409, 412, schema=ref("Agent")),
)
async def activate_agent(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Activate a draft or suspended agent."""
    return await _set_status(request, agent_id, caller, Status.ACTIVE)


@router.post(
    "/{agent_id}/suspend",
    openapi_extra=takes(REASON_BODY, optional=True, tagged=True, example=examples.REASON),
    responses=gives(*BODY, 404, 409, 412, schema=ref("Agent")),
)
async def suspend_agent(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Suspend an active agent: every action is blocked until it is activated again."""
    return await _set_status(request, agent_id, caller, Status.SUSPENDED)


def _check_own(caller: Caller, body: Any) -> None:
    """Raises `ConflictError` if an agent's key registers another agent, whether or not that one exists."""
    wanted = body.get("agent_id") if isinstance(body, dict) else None
    if wanted is not None and caller.role is Role.AGENT and caller.agent_id not in (None, wanted):
        raise ConflictError(f"this key belongs to agent `{caller.agent_id}`")


async def _set_status(request: Request, agent_id: AgentId, caller: Any, status: Status) -> JSONResponse:
    reason = await read_reason(request)
    async with writing(request, caller) as (session, actor):
        agent = await agents.get(session, agent_id)
        check_match(request, agents.document(agent))
        await agents.set_status(session, agent, status, reason, actor)
        await emergency_stops.remove_agent(session, agent_id, actor)
    return answer(agents.document(agent))


def _advised(request: Request, agent: Agent, written: Collection[str]) -> Document:
    warnings = advice.on_agent(agents.configuration_of(agent), written, store_of(request).routes)
    return agents.document(agent) | {"warnings": warnings}
