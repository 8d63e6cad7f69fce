"""Opening approvals: one for each question that is not pending yet, asked of its team."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, insert, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.alerts import causes
from registry_store.approvals import approvals
from registry_store.approvals.approvals import ESCALATE, IS_PENDING, ApprovalState
from registry_store.approvals.requests import Request
from registry_store.database.tables import Agent, Approval, ApprovalAlias
from registry_store.documents import Document
from registry_store.journal.activity import Actor

Question = tuple[str, str, str]
"""An agent, its action and who must decide, the last two as SHA-256 in hex."""


async def open_requested(
    session: AsyncSession, node_id: str, requests: Sequence[Request], at: datetime, escalation_team: str = ""
) -> list[Approval]:
    """Open the requested approvals that do not exist yet, the first of each id; returns the new ones.

    A request whose question is pending already becomes another id of that approval. The session holds the writers'
    lock. The time to decide starts at `at`, not when the sidecar made the request. An escalation goes to the team that
    its policy names, else its agent, else `escalation_team`.
    """
    requested = await _unknown(session, requests)
    if not requested:
        return []
    teams = await _teams(session, requested, escalation_team)
    pending = await _pending(session, {_question_of(request) for request in requested}, at)
    opened, aliases = [], []
    actor = Actor(node_id, "system", at)
    for request in requested:
        question = _question_of(request)
        if question in pending:
            aliases.append({"alias_id": request.approval_id, "approval_id": pending[question].approval_id})
            continue
        approval = pending[question] = _opened(request, node_id, at, teams.get(request.agent_id))
        opened.append(approval)
        session.add(approval)
        described = f"approval of {approvals.subject_of(approval)} requested"
        await approvals.note(session, approval, actor, "approval_requested", described, new=_request_fields(approval))
    if aliases:
        await session.flush()  # an alias refers to its approval
        await session.execute(insert(ApprovalAlias), aliases)
    await causes.requested(session, opened, at)
    return opened


async def find_pending(session: AsyncSession, question: Question, now: datetime) -> Approval | None:
    """The approval that asks this question and waits for people at `now`."""
    found = await session.scalar(_asking([question]))
    return found if found is not None and approvals.state_of(found, now) is ApprovalState.PENDING else None


async def is_known(session: AsyncSession, approval_id: str) -> bool:
    """Whether an approval was requested under this id."""
    return bool(await _known(session, [approval_id]))


async def _unknown(session: AsyncSession, requests: Iterable[Request]) -> list[Request]:
    requested: dict[str, Request] = {}
    for request in requests:
        requested.setdefault(request.approval_id, request)
    known = await _known(session, requested)
    return [request for approval_id, request in requested.items() if approval_id not in known]


async def _known(session: AsyncSession, approval_ids: Collection[str]) -> set[str]:
    own = select(Approval.approval_id).where(Approval.approval_id.in_(approval_ids))
    others = select(ApprovalAlias.alias_id).where(ApprovalAlias.alias_id.in_(approval_ids))
    return set(await session.scalars(union_all(own, others)))


async def _teams(session: AsyncSession, requests: Iterable[Request], escalation_team: str) -> Mapping[str, str | None]:
    """The team of each agent with an escalation that names none."""
    wanted = {request.agent_id for request in requests if request.outcome == ESCALATE and request.team is None}
    if not wanted:
        return {}
    rows = await session.execute(select(Agent.agent_id, Agent.configuration).where(Agent.agent_id.in_(wanted)))
    own = {agent_id: configuration.get("escalation_team", "") for agent_id, configuration in rows}
    return {agent_id: own.get(agent_id) or escalation_team or None for agent_id in wanted}


async def _pending(session: AsyncSession, questions: Collection[Question], at: datetime) -> dict[Question, Approval]:
    """The approvals that ask these questions and wait for people; those that are overdue end first."""
    found = (await session.scalars(_asking(questions))).all()
    if overdue := [approval for approval in found if approval.expires_at <= at]:
        await approvals.end_overdue(session, overdue, Actor("system", "system", at))
        await session.flush()  # an expired one makes room for a new one
    pending = [approval for approval in found if approval.status == ApprovalState.PENDING.value]
    return {(one.agent_id, one.action_sha256, str(one.demand_sha256)): one for one in pending}


def _asking(questions: Collection[Question]) -> Select[Approval]:
    asked = tuple_(Approval.agent_id, Approval.action_sha256, Approval.demand_sha256)
    return select(Approval).where(IS_PENDING, asked.in_(questions))


def _question_of(request: Request) -> Question:
    return request.agent_id, request.action_sha256, request.demand_sha256


def _opened(request: Request, node_id: str, at: datetime, team: str | None) -> Approval:
    asked = request._asdict() | {"team": request.team or (team if request.outcome == ESCALATE else None)}
    return Approval(
        **asked,
        approved_by=[],
        requested_at=at,
        expires_at=at + timedelta(seconds=request.timeout_seconds),
        node_id=node_id,
        status=ApprovalState.PENDING.value,
    )


def _request_fields(approval: Approval) -> Document:
    # The action itself is left out: it may hold data that must not stay in the log for ever. Its hash identifies it.
    names = ("decision_id", "status", "outcome", "reason", "policy", "approvers", "team", "next_team", "min_approvers")
    return {name: getattr(approval, name) for name in (*names, "mfa_required", "action_sha256", "expires_at")}
