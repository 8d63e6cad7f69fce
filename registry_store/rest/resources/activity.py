"""/api/activity and /api/agents/registry/{agent_id}/activity: the activity log."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from registry_store.database.tables import Activity
from registry_store.database.transactions import Database
from registry_store.documents import canonical
from registry_store.journal import activity
from registry_store.journal.activity import Filter, Kind
from registry_store.records import agents
from registry_store.rest.exchange.access import Reader, ReaderOrAgent, check_sees, reading, store_of
from registry_store.rest.exchange.answers import AgentId, Limit, Moment, Offset, Word, gives, page
from registry_store.rest.exchange.routing import Strict
from registry_store.rest.exchange.schemas import TEXT, page_of, ref

router = APIRouter(tags=["activity"], route_class=Strict)

JSON_LINES = "application/x-ndjson"
BATCH = 500

Before = Annotated[
    int | None, Query(ge=1, le=2**63 - 1, description="Only entries before this sequence, so that pages stay stable")
]

KindOfEntry = Annotated[
    Kind | None, Query(description="`change`: without what became of approvals; `approval`: only that")
]


@router.get(
    "/api/agents/registry/{agent_id}/activity",
    responses=gives(404, 422, about="A page of entries", schema=page_of("activities", ref("Activity"), agent_id=TEXT)),
)
async def list_agent_activity(
    request: Request,
    agent_id: AgentId,
    caller: ReaderOrAgent,
    *,
    kind: KindOfEntry = None,
    activity_type: Annotated[Word, Query(alias="type")] = None,
    before: Before = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List the changes to an agent, its policies and its keys, and its approvals, newest first."""
    check_sees(caller, agent_id)
    async with reading(request) as session:
        await agents.get(session, agent_id)
        wanted = Filter(agent_id, activity_type, before=before, kind=kind)
        rows, total = await activity.page(session, wanted, limit, offset)
    return page("activities", [activity.document(row) for row in rows], total, limit, offset, agent_id=agent_id)


@router.get(
    "/api/activity", responses=gives(422, about="A page of entries", schema=page_of("activities", ref("Activity")))
)
async def list_activity(
    request: Request,
    _caller: Reader,
    *,
    kind: KindOfEntry = None,
    agent_id: Word = None,
    activity_type: Annotated[Word, Query(alias="type")] = None,
    performed_by: Word = None,
    subject_kind: Annotated[
        Word, Query(description="Only entries on this kind of record: `agent`, `policy`, `key` …")
    ] = None,
    subject_id: Annotated[Word, Query(description="Only entries on the record with this id")] = None,
    since: Annotated[Moment, Query(description="Only entries at or after this time")] = None,
    until: Annotated[Moment, Query(description="Only entries before this time")] = None,
    before: Before = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List all changes in the registry, and what became of approvals, newest first."""
    wanted = Filter(agent_id, activity_type, performed_by, subject_kind, subject_id, since, until, before, kind)
    async with reading(request) as session:
        rows, total = await activity.page(session, wanted, limit, offset)
    return page("activities", [activity.document(row) for row in rows], total, limit, offset)


@router.get(
    "/api/activity/export",
    response_class=StreamingResponse,
    responses=gives(422)
    | {
        200: {
            "description": "One entry a line, oldest first",
            "content": {JSON_LINES: {"schema": {"type": "string"}}},
        }
    },
)
async def export_activity(
    request: Request,
    _caller: Reader,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="Only entries after this sequence")] = 0,
) -> StreamingResponse:
    """Stream the log as JSON lines, oldest first; `registry-store verify-log --log` verifies the export."""
    database = store_of(request).database
    first = await _batch(database, after)  # an unreachable database is reported before the response starts
    return StreamingResponse(_lines(database, first), media_type=JSON_LINES)


async def _lines(database: Database, batch: list[Activity]) -> AsyncIterator[str]:
    while batch:
        yield "".join(f"{canonical(activity.document(entry))}\n" for entry in batch)
        batch = await _batch(database, batch[-1].sequence)


async def _batch(database: Database, after: int) -> list[Activity]:
    # One transaction per batch: a slow reader holds no connection.
    async with database.reading() as session:
        return list(await activity.following(session, after, BATCH))
