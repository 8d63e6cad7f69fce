"""The outcomes of actions: each is stored once, and the newest give the error rate of an agent."""

from collections.abc import Iterable, Sequence, Set
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import Result
from pdp.core.usage import MAX_OUTCOMES
from registry_store.database.bulk import delete_oldest, insert_new
from registry_store.database.tables import Outcome
from registry_store.decisions.notes import Outcome as Reported
from registry_store.documents import Document, instant

FAILED = Result.FAILED.name.lower()


class Sample(NamedTuple):
    """How many of the last reported outcomes of an agent failed."""

    failed: int
    reported: int

    @property
    def error_rate(self) -> float | None:
        """The share that failed; None without outcomes."""
        return self.failed / self.reported if self.reported else None


async def insert(
    session: AsyncSession, node_id: str, reported: Iterable[tuple[int, Reported]], at: datetime
) -> Set[str]:
    """Store the outcomes, with their sequences, whose decisions have none yet; returns the ids of their decisions."""
    rows = [
        {
            "decision_id": outcome.decision_id,
            "node_id": node_id,
            "sequence": sequence,
            "agent_id": outcome.agent_id,
            "activations": outcome.activations,
            "approval_id": outcome.approval_id or None,
            "result": outcome.result.name.lower(),
            "charged_micros": outcome.charged_micros,
            "actual_cost_micros": outcome.actual_cost_micros,
            "error": outcome.error,
            "reported_at": outcome.reported_at,
            "received_at": at,
        }
        for sequence, outcome in reported
    ]
    return await insert_new(session, Outcome, rows)


async def last(session: AsyncSession, agent_id: str, activations: int | None = None) -> Sample:
    """The last outcomes of an agent; with `activations` only those since that activation."""
    newest = select(Outcome.result).where(Outcome.agent_id == agent_id).order_by(Outcome.reported_at.desc())
    if activations is not None:
        newest = newest.where(Outcome.activations == activations)
    results = (await session.scalars(newest.limit(MAX_OUTCOMES))).all()
    return Sample(results.count(FAILED), len(results))


async def of_decisions(session: AsyncSession, decision_ids: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes of these decisions by id."""
    rows = await session.scalars(select(Outcome).where(Outcome.decision_id.in_(decision_ids)))
    return {row.decision_id: row for row in rows}


async def of_approvals(session: AsyncSession, approval_ids: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes of the actions that used these approvals, by approval."""
    rows = await session.scalars(select(Outcome).where(Outcome.approval_id.in_(approval_ids)))
    return {row.approval_id: row for row in rows if row.approval_id is not None}


async def delete_before(session: AsyncSession, maximum: int, moment: datetime) -> int:
    """Delete at most `maximum` outcomes received before `moment`, oldest first; returns the number deleted."""
    return await delete_oldest(session, Outcome, maximum, Outcome.received_at < moment, by=Outcome.received_at)


def document(outcome: Outcome | None) -> Document | None:
    """The outcome as REST shows it; None: not reported."""
    if outcome is None:
        return None
    cost = outcome.charged_micros if outcome.actual_cost_micros is None else outcome.actual_cost_micros
    return {
        "result": outcome.result,
        "actual_cost_usd": cost / 1_000_000,
        "error": outcome.error,
        "reported_at": instant(outcome.reported_at),
    }
