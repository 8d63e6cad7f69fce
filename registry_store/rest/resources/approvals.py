"""/api/approvals: actions that wait for approval, and decisions of people on them."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, WithJsonSchema

from registry_store.access.keys import Caller
from registry_store.approvals import approvals, deciding, lists
from registry_store.approvals.approvals import ApprovalState
from registry_store.approvals.deciding import APPROVE_BODY, DENY_BODY, Verdict
from registry_store.approvals.lists import Filter
from registry_store.database.decision_tables import Outcome
from registry_store.database.tables import Approval
from registry_store.decisions import outcomes
from registry_store.documents import Document, read_values
from registry_store.errors import NotFoundError
from registry_store.rest.exchange import examples
from registry_store.rest.exchange.access import Approver, ReaderOrAgent, reading, seen_by, sees, store_of, writing
from registry_store.rest.exchange.answers import Limit, Offset, RecordId, Word, answer, check_match, gives, page, takes
from registry_store.rest.exchange.bodies import read_json, read_optional_json
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/approvals", tags=["approvals"], route_class=Retried)

DECIDING = (400, 404, 409, 412, 413, 422)


def _read_flag(text: Any) -> Any:
    if text not in (True, False, "true", "false"):
        raise ValueError("it is neither true nor false")
    return text


Flag = Annotated[bool, BeforeValidator(_read_flag), WithJsonSchema({"type": "boolean"})]


@router.get(
    "", responses=gives(422, about="A page of approvals, newest first", schema=page_of("approvals", ref("Approval")))
)
async def list_approvals(
    request: Request,
    caller: ReaderOrAgent,
    *,
    status: ApprovalState | None = None,
    agent_id: Word = None,
    mine: Annotated[Flag, Query(description="Only approvals that are for this key to decide, in any state")] = False,
    for_whom: Annotated[
        Literal["me"] | None, Query(alias="for", description="`me`: only approvals that this key may decide now")
    ] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List approvals; an agent's key lists only those of its agent."""
    now = datetime.now(UTC)
    wanted = Filter(
        status,
        seen_by(caller, agent_id),
        decidable_by=caller if mine else None,
        waits_for=caller if for_whom else None,
        approver_mfa=store_of(request).settings.approver_mfa,
    )
    async with reading(request) as session:
        rows, total = await lists.page(session, wanted, now, limit, offset)
        ended = await outcomes.of_approvals(session, [row.approval_id for row in rows])
    listed = [_document(row, now, ended.get(row.approval_id)) for row in rows]
    return page("approvals", listed, total, limit, offset)


@router.get("/{approval_id}", responses=gives(404, 422, schema=ref("Approval")))
async def read_approval(request: Request, approval_id: RecordId, caller: ReaderOrAgent) -> JSONResponse:
    """Read an approval: the action, who may decide, and the result."""
    async with reading(request) as session:
        approval = await approvals.get(session, approval_id)
        ended = await outcomes.of_approvals(session, [approval_id])
    if not sees(caller, approval.agent_id):
        raise NotFoundError(f"no approval `{approval_id}`")
    return answer(_document(approval, datetime.now(UTC), ended.get(approval_id)))


@router.post(
    "/{approval_id}/approve",
    openapi_extra=takes(APPROVE_BODY, optional=True, tagged=True, example=examples.APPROVE),
    responses=gives(*DECIDING, schema=ref("Approval")),
)
async def approve_action(request: Request, approval_id: RecordId, caller: Approver) -> JSONResponse:
    """Approve this action, for one use within the time-out of the approval; it may need several people."""
    comment = read_values(await read_optional_json(request), APPROVE_BODY)["comment"]
    return await _decide(request, approval_id, caller, Verdict.APPROVE, comment)


@router.post(
    "/{approval_id}/deny",
    openapi_extra=takes(DENY_BODY, tagged=True, example=examples.DENY),
    responses=gives(*DECIDING, schema=ref("Approval")),
)
async def deny_action(request: Request, approval_id: RecordId, caller: Approver) -> JSONResponse:
    """Deny this action, with a reason for the agent."""
    comment = read_values(await read_json(request), DENY_BODY)["comment"]
    return await _decide(request, approval_id, caller, Verdict.DENY, comment)


async def _decide(request: Request, approval_id: str, caller: Caller, verdict: Verdict, comment: str) -> JSONResponse:
    store = store_of(request)
    async with writing(request, caller) as (session, actor):
        approval = await approvals.get(session, approval_id)
        check_match(request, _document(approval, actor.at))
        await deciding.decide(
            session, approval, verdict, caller, actor, comment=comment, approver_mfa=store.settings.approver_mfa
        )
    if approval.status != ApprovalState.PENDING.value:
        store.metrics.approval_ended(approval.status, actor.at - approval.requested_at)
    return answer(_document(approval, actor.at))


def _document(approval: Approval, now: datetime, ended: Outcome | None = None) -> Document:
    """The approval, with how the action ended that used it."""
    return approvals.document(approval, now) | {"action_outcome": outcomes.document(ended)}
