"""/api/agents/registry/{agent_id}/usage: what is known of an agent at work."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store import agents, sidecars
from registry_store.documents import to_json
from registry_store.rest.access import ReaderOrAgent, check_sees, reading, store_of
from registry_store.rest.answers import AgentId, Limit, Offset, gives, page
from registry_store.rest.schemas import MOMENT, TEXT, USAGE, or_null, page_of, ref

router = APIRouter(tags=["usage"])

LAST_SEEN = or_null(MOMENT) | {"description": "When a sidecar that decides for it was last heard; null: never"}
ANSWER = page_of("sidecars", ref("Sidecar"), agent_id=TEXT, last_seen=LAST_SEEN, **USAGE)


@router.get(
    "/api/agents/registry/{agent_id}/usage",
    responses=gives(404, 422, about="What is known, and a page of the sidecars that serve it", schema=ANSWER),
)
async def read(
    request: Request, agent_id: AgentId, caller: ReaderOrAgent, limit: Limit = 50, offset: Offset = 0
) -> JSONResponse:
    """Show an agent's counts, spend and error rate, and the sidecars of this store that decide for it."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        tags = agents.configuration_of(await agents.get(session, agent_id))["tags"]
    serving = store_of(request).sidecars.serving(agent_id, tags)
    seen = max((sidecar.last_heard_at for sidecar in serving), default=None)
    known = {"agent_id": agent_id, "last_seen": to_json(seen)} | dict.fromkeys(USAGE)
    listed = [sidecars.document(sidecar) for sidecar in serving[offset : offset + limit]]
    return page("sidecars", listed, len(serving), limit, offset, **known)
