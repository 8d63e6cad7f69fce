"""/api/agents/emergency-stop and /emergency-stops: suspend many agents at once, and activate exactly these again."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.records import emergency_stops
from registry_store.records.emergency_stops import RELEASE_BODY, STOP_BODY
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Admin, Reader, reading, writing
from registry_store.rest.exchange.answers import Limit, Offset, RecordId, answer, gives, page, takes
from registry_store.rest.exchange.bodies import read_json
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/agents", tags=["emergency stops"], route_class=Retried)

STOPS = page_of("stops", ref("EmergencyStop"))
AGENTS = {"allOf": [ref("EmergencyStop"), page_of("agent_ids", {"type": "string"})]}


@router.post(
    "/emergency-stop",
    openapi_extra=takes(STOP_BODY, example=examples.EMERGENCY_STOP),
    responses=gives(400, 413, 422, about="The stop, and the effects of this request", schema=ref("Stopped")),
)
async def stop_agents(request: Request, caller: Admin) -> JSONResponse:
    """Suspend every active agent that matches all parts of the selector.

    A repeat with the same selector extends the stop that is in force. Agents that are activated later are not
    suspended.
    """
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        stopped, done = await emergency_stops.stop(session, body, actor)
        _, count = await emergency_stops.agents_of(session, stopped.stop_id, 0, 0)
    return answer(emergency_stops.document(stopped, count) | done)


@router.post(
    "/emergency-stop/release",
    openapi_extra=takes(RELEASE_BODY, example=examples.RELEASE),
    responses=gives(400, 404, 413, 422, about="The stop, and the effects of this request", schema=ref("Released")),
)
async def release_emergency_stop(request: Request, caller: Admin) -> JSONResponse:
    """Activate the agents of a stop, except those whose status a person set since or that another stop suspends."""
    body = await read_json(request)
    async with writing(request, caller) as (session, actor):
        stopped, done = await emergency_stops.release(session, body, actor)
        _, count = await emergency_stops.agents_of(session, stopped.stop_id, 0, 0)
    return answer(emergency_stops.document(stopped, count) | done)


@router.get(
    "/emergency-stops", responses=gives(422, about="A page of stops: those in force, then the newest", schema=STOPS)
)
async def list_emergency_stops(
    request: Request, _caller: Reader, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """List emergency stops."""
    async with reading(request) as session:
        rows, total = await emergency_stops.page(session, limit, offset)
    return page("stops", rows, total, limit, offset)


@router.get(
    "/emergency-stops/{stop_id}", responses=gives(404, 422, about="The stop, and a page of its agents", schema=AGENTS)
)
async def read_emergency_stop(
    request: Request, stop_id: RecordId, _caller: Reader, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """Read an emergency stop and its agents."""
    async with reading(request) as session:
        stopped = await emergency_stops.get(session, stop_id)
        agent_ids, total = await emergency_stops.agents_of(session, stop_id, limit, offset)
    return page("agent_ids", agent_ids, total, limit, offset, **emergency_stops.document(stopped, total))
