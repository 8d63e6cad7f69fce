"""/api/decisions: decisions of sidecars."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, WithJsonSchema

from pdp.core.fields import quote
from pdp.core.model import Reason
from registry_store.decisions import ids, outcomes
from registry_store.decisions import reading as kept
from registry_store.decisions.filters import Filter
from registry_store.decisions.reading import MAX_COUNTED
from registry_store.errors import NotFoundError
from registry_store.rest.exchange.access import ReaderOrAgent, reading, seen_by, sees
from registry_store.rest.exchange.answers import Limit, Moment, RecordId, Word, answer, gives, page
from registry_store.rest.exchange.routing import Strict
from registry_store.rest.exchange.schemas import COUNT, FLAG, page_of, ref

router = APIRouter(prefix="/api/decisions", tags=["decisions"], route_class=Strict)

MAX_OFFSET = 10_000


def _check_reason(name: str | None) -> str | None:
    if name is not None and name not in Reason.__members__:
        raise ValueError(f"{quote(name)} is not a reason of a decision")
    return name


OutcomeName = Literal["allow", "require_approval", "block", "escalate"]
ReasonName = Annotated[
    str | None,
    AfterValidator(_check_reason),
    WithJsonSchema({"type": "string", "enum": list(Reason.__members__)}),
    Query(description="Only decisions with this reason"),
]
Offset = Annotated[
    int, Query(ge=0, le=MAX_OFFSET, description="Number of items to skip; use `before` to go further back")
]
Before = Annotated[str | None, Query(pattern=f"^{ids.PATTERN}$", description="Only decisions before this id")]
ANSWER = page_of(
    "decisions",
    ref("Decision"),
    total_exact=FLAG | {"description": f"Whether `total` is exact; false: there are more than {MAX_COUNTED}"},
    missing=COUNT | {"description": "Number of records that sidecars dropped before they were sent, in all logs"},
    breaks=COUNT | {"description": "Number of batches whose hash does not follow from the batch before, in all logs"},
)


@router.get("", responses=gives(422, about="A page of decisions, newest first", schema=ANSWER))
async def list_decisions(
    request: Request,
    caller: ReaderOrAgent,
    *,
    agent_id: Word = None,
    outcome: OutcomeName | None = None,
    reason: ReasonName = None,
    policy: Annotated[Word, Query(description="Only decisions by the policy with this id")] = None,
    tool: Word = None,
    shadow: Annotated[
        OutcomeName | None, Query(description="Only decisions for which a shadow policy would have had this outcome")
    ] = None,
    since: Annotated[Moment, Query(description="Only decisions at or after this time, in milliseconds")] = None,
    until: Annotated[Moment, Query(description="Only decisions before this time, in milliseconds")] = None,
    before: Before = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List the decisions that sidecars reported, newest first; an agent's key lists only those of its agent."""
    wanted = Filter(seen_by(caller, agent_id), outcome, reason, policy, tool, shadow, since, until, before)
    async with reading(request) as session:
        found = await kept.page(session, wanted, limit, offset)
        missing, breaks = await kept.faults(session)
        ended = await outcomes.of_decisions(session, [one.row.decision_id for one in found.rows])
    listed = [kept.document(one, ended.get(one.row.decision_id)) for one in found.rows]
    beside = {"total_exact": found.exact, "missing": missing, "breaks": breaks}
    return page("decisions", listed, found.total, limit, offset, **beside)


@router.get("/{decision_id}", responses=gives(404, 422, schema=ref("Decision")))
async def read_decision(request: Request, decision_id: RecordId, caller: ReaderOrAgent) -> JSONResponse:
    """Read a decision: the action, the answer, how the action ended, and the sidecar."""
    async with reading(request) as session:
        decision = await kept.get(session, decision_id)
        ended = await outcomes.of_decisions(session, [decision_id])
    if not sees(caller, decision.row.agent_id):
        raise NotFoundError(f"no decision `{decision_id}`")
    return answer(kept.document(decision, ended.get(decision_id)))
