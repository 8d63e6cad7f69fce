"""The outcomes of actions: each is stored once, and the newest give the error rate of an agent."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import Result
from pdp.core.usage import MAX_OUTCOMES
from registry_store.database.bulk import delete_oldest
from registry_store.database.decision_tables import Outcome
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


COLUMNS = (
    "decision_id",
    "node_id",
    "sequence",
    "agent_id",
    "activations",
    "approval_id",
    "result",
    "charged_micros",
    "actual_cost_micros",
    "error",
    "reported_at",
    "received_at",
    "batch_id",
)
"""The columns in the order of `row`."""


def row(outcome: Reported, node_id: str, sequence: int, at: datetime, batch_id: int) -> tuple[Any, ...]:
    """The columns of an outcome that a sidecar reported in this batch, under this sequence."""
    return (
        outcome.decision_id,
        node_id,
        sequence,
        outcome.agent_id,
        outcome.activations,
        outcome.approval_id or None,
        outcome.result.name.lower(),
        outcome.charged_micros,
        outcome.actual_cost_micros,
        outcome.error,
        outcome.reported_at,
        at,
        batch_id,
    )


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
    """Delete at most `maximum` outcomes without a batch received before `moment`; returns the number deleted."""
    old = Outcome.batch_id.is_(None), Outcome.received_at < moment
    return await delete_oldest(session, Outcome, maximum, *old, by=Outcome.received_at)


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
