"""/api/agents/registry/{agent_id}/versions and /rollback: earlier configurations of an agent."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.database.tables import AgentVersion
from registry_store.records import advice, agents, policies, versions
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, ReaderOrAgent, check_sees, reading, store_of, writing
from registry_store.rest.exchange.answers import (
    AgentId,
    Limit,
    Offset,
    RecordId,
    answer,
    check_match,
    gives,
    page,
    takes,
)
from registry_store.rest.exchange.bodies import read_json
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import TEXT, page_of, ref

router = APIRouter(prefix="/api/agents/registry/{agent_id}", tags=["versions"], route_class=Retried)

VERSIONS = page_of("versions", ref("Version"), agent_id=TEXT)


@router.get("/versions", responses=gives(404, 422, about="A page of versions, newest first", schema=VERSIONS))
async def list_versions(
    request: Request, agent_id: AgentId, caller: ReaderOrAgent, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """List an agent's versions."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        active = (await agents.get(session, agent_id)).version
        rows, total = await versions.page(session, AgentVersion, AgentVersion.agent_id == agent_id, limit, offset)
    listed = [versions.document(row, active) for row in rows]
    return page("versions", listed, total, limit, offset, agent_id=agent_id)


@router.get("/versions/{version}", responses=gives(404, 422, schema=ref("VersionWithConfiguration")))
async def read_version(request: Request, agent_id: AgentId, version: RecordId, caller: ReaderOrAgent) -> JSONResponse:
    """Read a version with its whole configuration."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        active = (await agents.get(session, agent_id)).version
        found = await versions.get(session, agent_id, version)
    stored = {"agent_id": agent_id, "configuration": agents.DEFAULTS | found.configuration}
    return answer(versions.document(found, active) | stored)


@router.get("/versions/{version}/diff/{other}", responses=gives(404, 422, schema=ref("VersionDifference")))
async def compare_versions(
    request: Request, agent_id: AgentId, version: RecordId, other: RecordId, caller: ReaderOrAgent
) -> JSONResponse:
    """Show the fields that differ between two versions."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        await agents.get(session, agent_id)
        before = await versions.get(session, agent_id, version)
        after = await versions.get(session, agent_id, other)
    changes = versions.difference(agents.DEFAULTS | before.configuration, agents.DEFAULTS | after.configuration)
    return answer({"agent_id": agent_id, "from_version": version, "to_version": other, "changes": changes})


@router.post(
    "/rollback",
    openapi_extra=takes(versions.ROLLBACK_BODY, tagged=True, example=examples.ROLLBACK),
    responses=gives(400, 413, 422, 404, 409, 412, schema=ref("RolledBack")),
)
async def roll_back_agent(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Restore a stored version and its configuration; the status and the policies stay as they are."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        agent = await agents.get_changeable(session, agent_id)
        check_match(request, agents.document(agent))
        await agents.rollback(session, agent, body, actor)
        number = await policies.number(session, agent_id)
    configuration = agents.configuration_of(agent)
    told = {
        # A rollback writes every field.
        "warnings": advice.on_agent(configuration, configuration, store_of(request).routes),
        "left_unchanged": {"status": agent.status, "policies": number},
    }
    return answer(agents.document(agent) | told)
