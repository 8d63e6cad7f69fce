"""/approvals: what waits for people, and the page on which they decide it."""

from asyncio import to_thread
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response

from pdp.core.errors import InvalidRecordError
from pdp.core.fields import Field
from pdp.core.kinds import Choice
from pdp.core.records import PROSE
from registry_store.approvals import approvals, deciding, lists
from registry_store.approvals.approvals import ApprovalState
from registry_store.approvals.deciding import Verdict
from registry_store.errors import ConflictError, NotAllowedError
from registry_store.pages import dossier, visitors
from registry_store.pages.forms import CSRF_TOKEN, read_form
from registry_store.pages.rendering import page, redirect
from registry_store.pages.routing import PageRoute, words_of
from registry_store.pages.visitors import SESSION, Person, SignedIn
from registry_store.rest.exchange.access import reading, store_of, writing
from registry_store.rest.exchange.answers import Offset, RecordId
from registry_store.rest.exchange.problems import FINE, Failure, failure_of

router = APIRouter(prefix="/approvals", include_in_schema=False, route_class=PageRoute)

PAGE = 50
DECISION_FORM: dict[str, Field] = {
    "csrf_token": CSRF_TOKEN,
    "verdict": Field(Choice(Verdict), required=True),
    "comment": Field(PROSE, ""),
}


@router.api_route("", methods=["GET", "HEAD"])
async def show_waiting_approvals(request: Request, person: SignedIn, offset: Offset = 0) -> Response:
    """What waits for people, first what waits for this one."""
    now, approver_mfa = datetime.now(UTC), store_of(request).settings.approver_mfa
    async with reading(request) as session:
        waiting = await lists.waiting(session, person.caller, now, PAGE, offset, approver_mfa=approver_mfa)
    return await to_thread(page, "approvals.html", person=person, waiting=waiting, now=now, offset=offset, limit=PAGE)


@router.api_route("/{approval_id}", methods=["GET", "HEAD"])
async def show_approval(request: Request, approval_id: RecordId, person: SignedIn) -> Response:
    """One approval: the action, why it was held, the agent, and the form to decide it."""
    return await _approval_page(request, approval_id, person)


@router.post("/{approval_id}")
async def decide_approval(request: Request, approval_id: RecordId, person: SignedIn) -> Response:
    """Approve or deny it; what cannot be done is told on the page, with the comment that was written."""
    comment = ""
    try:
        form = await read_form(request, DECISION_FORM)
        comment = form["comment"]
        visitors.check_form(request, form["csrf_token"], SESSION)
        await _decide(request, approval_id, person, form["verdict"], comment)
    except (ConflictError, NotAllowedError, InvalidRecordError) as error:
        return await _approval_page(request, approval_id, person, failure_of(error), comment)
    return redirect(visitors.page_after(f"/approvals/{approval_id}"))


async def _decide(request: Request, approval_id: str, person: Person, verdict: Verdict, comment: str) -> None:
    store = store_of(request)
    async with writing(request, person.caller, "dashboard") as (session, actor):
        approval = await approvals.get(session, approval_id)
        await deciding.decide(
            session,
            approval,
            verdict,
            person.caller,
            actor,
            comment=comment,
            approver_mfa=store.settings.approver_mfa,
        )
    if approval.status != ApprovalState.PENDING.value:
        store.metrics.approval_ended(approval.status, actor.at - approval.requested_at)


async def _approval_page(
    request: Request, approval_id: str, person: Person, failure: Failure = FINE, comment: str = ""
) -> Response:
    approver_mfa = store_of(request).settings.approver_mfa
    async with reading(request) as session:
        shown = await dossier.read(session, approval_id, person.caller, datetime.now(UTC), approver_mfa=approver_mfa)
    words = [] if failure is FINE else words_of(failure)
    # In a thread: an action of the largest size takes some tenths of a second, and nobody else waits for it.
    return await to_thread(
        page, "approval.html", failure.status, failure.headers, person=person, shown=shown, words=words, comment=comment
    )
