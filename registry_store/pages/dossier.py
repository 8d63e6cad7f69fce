"""All that people see of an approval before they decide it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.interface import ACTION
from registry_store.access.keys import Caller
from registry_store.approvals import approvals, deciding
from registry_store.approvals.approvals import ApprovalState
from registry_store.database.tables import Approval
from registry_store.decisions import reading
from registry_store.decisions.filters import Filter
from registry_store.decisions.reading import Page
from registry_store.documents import Document
from registry_store.errors import NotAllowedError, NotFoundError
from registry_store.records import agents, policies

RECENT = timedelta(hours=1)
MAX_RECENT = 20
"""Decisions that the page lists; it tells how many there are."""
MAX_ID_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Dossier:
    """An approval, what it is about, and what the agent did in the hour before `now`."""

    approval: Approval
    state: ApprovalState
    now: datetime
    action: list[tuple[str, Any]]
    """The members of the action that have a value, except the attributes."""
    attributes: Any
    risk: Any
    """The effective risk; None: the store has the decision no longer."""
    agent: Document | None
    """None: the agent is not registered."""
    policy: Document | None
    """The policy as it is now; None: there is none any more, or none asked."""
    recent: Page
    refusal: str
    """Why this person may not decide it; empty: the person may."""
    has_approved: bool
    """Whether this person has approved it already, and another person must."""

    @property
    def needs_comment(self) -> bool:
        """Whether approving it takes a comment; denying always does."""
        return self.approval.outcome == approvals.ESCALATE


async def read(
    session: AsyncSession, approval_id: str, caller: Caller, now: datetime, *, approver_mfa: bool
) -> Dossier:
    """The approval with this id, as this caller sees it."""
    approval = await approvals.get(session, approval_id)
    recent = Filter(agent_id=approval.agent_id, since=now - RECENT)
    return Dossier(
        approval,
        approvals.state_of(approval, now),
        now,
        list(_members(approval.action)),
        approval.action.get("attributes"),
        await _risk(session, approval),
        await _agent(session, approval.agent_id),
        await _policy(session, approval),
        await reading.page(session, recent, MAX_RECENT, 0),
        _refusal(approval, caller, approver_mfa=approver_mfa),
        any(one["name"] == caller.name for one in approval.approved_by),
    )


def _members(action: Mapping[str, Any]) -> list[tuple[str, Any]]:
    # The store checks three members; a newer sidecar may send others than `ACTION`, and they are shown as well.
    names = [*ACTION, *sorted(action.keys() - ACTION.keys())]
    shown = [(name, action[name]) for name in names if name in action and name not in ("agent_id", "attributes")]
    return [(name, value) for name, value in shown if value not in (None, "", [], {})]


async def _risk(session: AsyncSession, approval: Approval) -> Any:
    with suppress(NotFoundError):
        return (await reading.get(session, approval.decision_id)).document["answer"].get("risk_score")
    return None


async def _agent(session: AsyncSession, agent_id: str) -> Document | None:
    with suppress(NotFoundError):
        return agents.document(await agents.get(session, agent_id))
    return None


async def _policy(session: AsyncSession, approval: Approval) -> Document | None:
    policy_id = (approval.policy or {}).get("id")
    if not isinstance(policy_id, str) or len(policy_id) > MAX_ID_CHARACTERS:
        return None
    for owner in (approval.agent_id, None):
        with suppress(NotFoundError):
            return policies.document(await policies.get(session, owner, policy_id))
    return None


def _refusal(approval: Approval, caller: Caller, *, approver_mfa: bool) -> str:
    try:
        deciding.check_may_decide(approval, caller, approver_mfa=approver_mfa)
    except NotAllowedError as error:
        return str(error)
    return ""
