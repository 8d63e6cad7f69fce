"""/api/agents/registry/{agent_id}/policies and /api/agents/policies: policies of an agent and of the organisation."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from registry_store.access.keys import Caller
from registry_store.records import agents, policies
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
    no_content,
    page,
    takes,
)
from registry_store.rest.exchange.bodies import REASON_BODY, read_json, read_reason
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import TEXT, page_of, ref

of_agent = APIRouter(prefix="/api/agents/registry/{agent_id}/policies", tags=["agent policies"], route_class=Retried)
of_organisation = APIRouter(prefix="/api/agents/policies", tags=["organisation policies"], route_class=Retried)

BODY = (400, 413, 422)


@of_agent.post(
    "",
    status_code=201,
    openapi_extra=takes(policies.REQUEST_OF_AGENT, example=examples.POLICY),
    responses=gives(*BODY, 404, 409, status=201, schema=ref("Policy")),
)
async def add_agent_policy(request: Request, agent_id: AgentId, caller: Admin) -> JSONResponse:
    """Add a policy to an agent."""
    return await _add(request, agent_id, caller)


@of_agent.get(
    "",
    responses=gives(
        404,
        422,
        about="A page of policies, in the order of evaluation",
        schema=page_of("policies", ref("Policy"), agent_id=TEXT),
    ),
)
async def list_agent_policies(
    request: Request, agent_id: AgentId, caller: ReaderOrAgent, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """List an agent's policies."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        await agents.get(session, agent_id)
        rows, total = await policies.page(session, agent_id, limit, offset)
    return page("policies", [policies.document(row) for row in rows], total, limit, offset, agent_id=agent_id)


@of_agent.get("/{policy_id}", responses=gives(404, 422, schema=ref("Policy")))
async def read_agent_policy(
    request: Request, agent_id: AgentId, policy_id: RecordId, caller: ReaderOrAgent
) -> JSONResponse:
    """Read an agent's policy."""
    check_sees(caller, agent_id)
    return await _read(request, agent_id, policy_id)


@of_agent.put(
    "/{policy_id}",
    openapi_extra=takes(policies.REQUEST_OF_AGENT, partial=True, tagged=True, example=examples.POLICY_CHANGE),
    responses=gives(*BODY, 404, 409, 412, schema=ref("Policy")),
)
async def change_agent_policy(request: Request, agent_id: AgentId, policy_id: RecordId, caller: Admin) -> JSONResponse:
    """Change the given fields of an agent's policy; a change makes a new version."""
    return await _change(request, agent_id, policy_id, caller)


@of_agent.delete(
    "/{policy_id}",
    status_code=204,
    openapi_extra=takes(REASON_BODY, optional=True, tagged=True, example=examples.REASON),
    responses=no_content(*BODY, 404, 409, 412, about="Removed"),
)
async def remove_agent_policy(request: Request, agent_id: AgentId, policy_id: RecordId, caller: Admin) -> Response:
    """Remove an agent's policy; its versions are kept."""
    return await _remove(request, agent_id, policy_id, caller)


@of_organisation.post(
    "",
    status_code=201,
    openapi_extra=takes(policies.REQUEST_OF_ORGANISATION, example=examples.ORGANISATION_POLICY),
    responses=gives(*BODY, 409, status=201, schema=ref("OrganisationPolicy")),
)
async def add_organisation_policy(request: Request, caller: Admin) -> JSONResponse:
    """Add a policy for every agent of its selector."""
    return await _add(request, None, caller)


@of_organisation.get(
    "",
    responses=gives(
        422,
        about="A page of policies, in the order of evaluation",
        schema=page_of("policies", ref("OrganisationPolicy")),
    ),
)
async def list_organisation_policies(
    request: Request, _caller: Reader, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """List the organisation's policies."""
    async with reading(request) as session:
        rows, total = await policies.page(session, None, limit, offset)
    return page("policies", [policies.document(row) for row in rows], total, limit, offset)


@of_organisation.get("/{policy_id}", responses=gives(404, 422, schema=ref("OrganisationPolicy")))
async def read_organisation_policy(request: Request, policy_id: RecordId, _caller: Reader) -> JSONResponse:
    """Read a policy of the organisation."""
    return await _read(request, None, policy_id)


@of_organisation.put(
    "/{policy_id}",
    openapi_extra=takes(policies.REQUEST_OF_ORGANISATION, partial=True, tagged=True, example=examples.POLICY_CHANGE),
    responses=gives(*BODY, 404, 409, 412, schema=ref("OrganisationPolicy")),
)
async def change_organisation_policy(request: Request, policy_id: RecordId, caller: Admin) -> JSONResponse:
    """Change the given fields of a policy of the organisation; a change makes a new version."""
    return await _change(request, None, policy_id, caller)


@of_organisation.delete(
    "/{policy_id}",
    status_code=204,
    openapi_extra=takes(REASON_BODY, optional=True, tagged=True, example=examples.REASON),
    responses=no_content(*BODY, 404, 412, about="Removed"),
)
async def remove_organisation_policy(request: Request, policy_id: RecordId, caller: Admin) -> Response:
    """Remove a policy of the organisation; its versions are kept."""
    return await _remove(request, None, policy_id, caller)


async def _add(request: Request, agent_id: str | None, caller: Caller) -> JSONResponse:
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        policy = await policies.add(session, agent_id, body, actor)
    return answer(policies.document(policy), 201, f"{request.url.path}/{policy.policy_id}")


async def _read(request: Request, agent_id: str | None, policy_id: str) -> JSONResponse:
    async with reading(request) as session:
        return answer(policies.document(await policies.get(session, agent_id, policy_id)))


async def _change(request: Request, agent_id: str | None, policy_id: str, caller: Caller) -> JSONResponse:
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        policy = await policies.get(session, agent_id, policy_id)
        check_match(request, policies.document(policy))
        await policies.change(session, policy, body, actor)
    return answer(policies.document(policy))


async def _remove(request: Request, agent_id: str | None, policy_id: str, caller: Caller) -> Response:
    reason = await read_reason(request)
    async with writing(request, caller) as (session, actor):
        policy = await policies.get(session, agent_id, policy_id)
        check_match(request, policies.document(policy))
        await policies.remove(session, policy, reason, actor)
    return Response(status_code=204)
