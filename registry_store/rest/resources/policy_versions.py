"""…/policies/{policy_id}/versions and /rollback: earlier contents of a policy, also after it is removed."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.access.keys import Caller
from registry_store.documents import Document, read_values
from registry_store.records import agents, policies, policy_versions, versions
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, Reader, ReaderOrAgent, check_sees, reading, writing
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
from registry_store.rest.exchange.schemas import OF_AGENT, OF_ORGANISATION, page_of, ref

of_agent = APIRouter(
    prefix="/api/agents/registry/{agent_id}/policies/{policy_id}", tags=["agent policies"], route_class=Retried
)
of_organisation = APIRouter(
    prefix="/api/agents/policies/{policy_id}", tags=["organisation policies"], route_class=Retried
)

ABOUT = "A page of versions, newest first; none is active if the policy is removed"
ROLLBACK = takes(versions.ROLLBACK_BODY, tagged=True, example=examples.POLICY_ROLLBACK)
ROLLBACK_ERRORS = (400, 413, 422, 404, 409, 412)


@of_agent.get(
    "/versions",
    responses=gives(404, 422, about=ABOUT, schema=page_of("versions", ref("Version"), **OF_AGENT)),
)
async def list_agent_policy_versions(
    request: Request,
    agent_id: AgentId,
    policy_id: RecordId,
    caller: ReaderOrAgent,
    *,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List the versions of an agent's policy, also of one that was removed."""
    check_sees(caller, agent_id)
    return await _list(request, agent_id, policy_id, limit, offset)


@of_agent.get("/versions/{version}", responses=gives(404, 422, schema=ref("PolicyVersion")))
async def read_agent_policy_version(
    request: Request, agent_id: AgentId, policy_id: RecordId, version: RecordId, caller: ReaderOrAgent
) -> JSONResponse:
    """Read a version of an agent's policy with its whole content."""
    check_sees(caller, agent_id)
    return await _read(request, agent_id, policy_id, version)


@of_agent.get("/versions/{version}/diff/{other}", responses=gives(404, 422, schema=ref("PolicyVersionDifference")))
async def compare_agent_policy_versions(
    request: Request,
    agent_id: AgentId,
    policy_id: RecordId,
    version: RecordId,
    other: RecordId,
    *,
    caller: ReaderOrAgent,
) -> JSONResponse:
    """Show the fields that differ between two versions of an agent's policy."""
    check_sees(caller, agent_id)
    return await _compare(request, agent_id, policy_id, version, other)


@of_agent.post("/rollback", openapi_extra=ROLLBACK, responses=gives(*ROLLBACK_ERRORS, schema=ref("Policy")))
async def roll_back_agent_policy(
    request: Request, agent_id: AgentId, policy_id: RecordId, caller: Admin
) -> JSONResponse:
    """Restore a stored version of an agent's policy; a removed policy is in force again."""
    return await _roll_back(request, agent_id, policy_id, caller)


@of_organisation.get(
    "/versions",
    responses=gives(404, 422, about=ABOUT, schema=page_of("versions", ref("Version"), **OF_ORGANISATION)),
)
async def list_organisation_policy_versions(
    request: Request, policy_id: RecordId, _caller: Reader, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """List the versions of a policy of the organisation, also of one that was removed."""
    return await _list(request, None, policy_id, limit, offset)


@of_organisation.get("/versions/{version}", responses=gives(404, 422, schema=ref("OrganisationPolicyVersion")))
async def read_organisation_policy_version(
    request: Request, policy_id: RecordId, version: RecordId, _caller: Reader
) -> JSONResponse:
    """Read a version of a policy of the organisation with its whole content."""
    return await _read(request, None, policy_id, version)


@of_organisation.get(
    "/versions/{version}/diff/{other}", responses=gives(404, 422, schema=ref("PolicyVersionDifference"))
)
async def compare_organisation_policy_versions(
    request: Request, policy_id: RecordId, version: RecordId, other: RecordId, _caller: Reader
) -> JSONResponse:
    """Show the fields that differ between two versions of a policy of the organisation."""
    return await _compare(request, None, policy_id, version, other)


@of_organisation.post(
    "/rollback", openapi_extra=ROLLBACK, responses=gives(*ROLLBACK_ERRORS, schema=ref("OrganisationPolicy"))
)
async def roll_back_organisation_policy(request: Request, policy_id: RecordId, caller: Admin) -> JSONResponse:
    """Restore a stored version of a policy of the organisation; a removed policy is in force again."""
    return await _roll_back(request, None, policy_id, caller)


async def _list(request: Request, agent_id: str | None, policy_id: str, limit: int, offset: int) -> JSONResponse:
    async with reading(request) as session:
        rows, total = await policy_versions.page(session, agent_id, policy_id, limit, offset)
        look = policies.find if total else policies.get  # what has neither a version nor a row never was
        policy = await look(session, agent_id, policy_id)
    active = policy.version if policy else None
    listed = [versions.document(row, active) for row in rows]
    return page("versions", listed, total, limit, offset, policy_id=policy_id, agent_id=agent_id)


async def _read(request: Request, agent_id: str | None, policy_id: str, version: str) -> JSONResponse:
    async with reading(request) as session:
        found = await policy_versions.get(session, agent_id, policy_id, version)
        policy = await policies.find(session, agent_id, policy_id)
    stored = _of(agent_id, policy_id) | {"configuration": policies.with_defaults(agent_id, found.configuration)}
    return answer(versions.document(found, policy.version if policy else None) | stored)


async def _compare(request: Request, agent_id: str | None, policy_id: str, version: str, other: str) -> JSONResponse:
    async with reading(request) as session:
        stored = [
            (await policy_versions.get(session, agent_id, policy_id, name)).configuration for name in (version, other)
        ]
    changes = versions.difference(*(policies.with_defaults(agent_id, one) for one in stored))
    told = {"from_version": version, "to_version": other, "changes": changes}
    return answer(_of(agent_id, policy_id) | told)


async def _roll_back(request: Request, agent_id: str | None, policy_id: str, caller: Caller) -> JSONResponse:
    values = read_values(await read_json(request), versions.ROLLBACK_BODY)
    async with writing(request, caller) as (session, actor):
        if agent_id is not None:
            await agents.get_changeable(session, agent_id)
        version = await policy_versions.get(session, agent_id, policy_id, values["target_version"])
        present = await policies.find(session, agent_id, policy_id)
        check_match(request, policies.document(present) if present else None)
        policy = await policies.rollback(session, present, version, values["reason"], actor)
    return answer(policies.document(policy))


def _of(agent_id: str | None, policy_id: str) -> Document:
    return {"policy_id": policy_id, "agent_id": agent_id}
