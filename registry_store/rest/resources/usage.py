"""/api/agents/registry/{agent_id}/usage: actions and cost of an agent."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.decisions import outcomes, usage
from registry_store.decisions.usage import AgentUsage
from registry_store.documents import Document, to_json
from registry_store.records import agents
from registry_store.rest.exchange.access import ReaderOrAgent, check_sees, reading, store_of
from registry_store.rest.exchange.answers import AgentId, Limit, Offset, gives, page
from registry_store.rest.exchange.routing import Strict
from registry_store.rest.exchange.schemas import MOMENT, TEXT, USAGE, or_null, page_of, ref
from registry_store.sync import sidecars

router = APIRouter(tags=["usage"], route_class=Strict)

LAST_SEEN = or_null(MOMENT) | {"description": "Last message of a sidecar that decides for the agent; null: never"}
ANSWER = page_of("sidecars", ref("Sidecar"), agent_id=TEXT, last_seen=LAST_SEEN, **USAGE)


@router.get(
    "/api/agents/registry/{agent_id}/usage",
    responses=gives(404, 422, about="The usage, and a page of the sidecars that serve the agent", schema=ANSWER),
)
async def read_agent_usage(
    request: Request, agent_id: AgentId, caller: ReaderOrAgent, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """Read an agent's counts and cost, as sidecars reported them, and the sidecars of this store that serve it."""
    check_sees(caller, agent_id)
    now = datetime.now(UTC)
    async with reading(request) as session:
        configuration = agents.configuration_of(await agents.get(session, agent_id))
        counted = await usage.of_agent(session, agent_id, configuration["time_window_timezone"], now)
        sample = await outcomes.last(session, agent_id)
    serving = store_of(request).sidecars.serving(agent_id, configuration["tags"])
    seen = max((sidecar.last_heard_at for sidecar in serving), default=None)
    known = {"agent_id": agent_id, "last_seen": to_json(seen)} | _document(counted)
    known["error_rate"] = sample.error_rate
    listed = [sidecars.document(sidecar) for sidecar in serving[offset : offset + limit]]
    return page("sidecars", listed, len(serving), limit, offset, **known)


def _document(counted: AgentUsage | None) -> Document:
    unknown: Document = dict.fromkeys(USAGE)
    if counted is None:
        return unknown
    return unknown | {
        "actions_last_minute": counted.minute,
        "actions_last_hour": counted.hour,
        "actions_last_day": counted.day,
        "decisions_today": counted.today,
        "spent_today_usd": counted.today_micros / 1_000_000,
    }
