"""Suspends agents whose triggers the reports of sidecars show."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import Status, Trigger
from pdp.core.usage import is_too_high
from registry_store.database.tables import Agent
from registry_store.database.transactions import Database, retried
from registry_store.decisions import outcomes
from registry_store.decisions.notes import Outcome, Suspension
from registry_store.decisions.reports import Report
from registry_store.metrics import Metrics
from registry_store.records import agents, suspensions
from registry_store.records.suspensions import Cause

BATCH = 100
"""Agents suspended in one transaction, so that no other writer waits for long."""


async def by_report(database: Database, metrics: Metrics, report: Report, at: datetime) -> None:
    """Suspend the agents that the report says are suspended, and those whose outcomes at all sidecars fail too often.

    The report is stored already. If this fails, the sidecar sends it again, and this is tried again.
    """
    suspended = report.contents(Suspension)
    causes = [Cause(one.agent_id, one.activations, one.trigger, one.figures, report.node_id) for one in suspended]
    reported = sorted({outcome.agent_id for outcome in report.contents(Outcome)})
    if reported:
        async with database.reading() as session:
            causes += await _failing(session, reported)
    await suspend(database, metrics, causes, at)


async def suspend(database: Database, metrics: Metrics, causes: list[Cause], at: datetime) -> None:
    """Suspend the agents for which there is a cause, each once, and count them."""
    for first in range(0, len(causes), BATCH):
        for cause in await retried(_suspend, database, causes[first : first + BATCH], at):
            metrics.suspensions.labels(cause.trigger.value).inc()


async def _suspend(database: Database, causes: Iterable[Cause], at: datetime) -> list[Cause]:
    async with database.writing() as session:
        return [cause for cause in causes if await suspensions.suspend(session, cause, at)]


async def _failing(session: AsyncSession, agent_ids: list[str]) -> list[Cause]:
    """The active agents among these whose outcomes fail too often, since they were activated."""
    causes = []
    active = select(Agent).where(Agent.agent_id.in_(agent_ids), Agent.status == Status.ACTIVE.value)
    for agent in await session.scalars(active):
        configuration = agents.configuration_of(agent)
        limit = configuration["auto_suspend_on_error_rate"]
        if not configuration["auto_suspend_enabled"] or limit is None:
            continue
        failed, reported = await outcomes.last(session, agent.agent_id, agent.activations)
        if is_too_high(failed, reported, limit):
            figures = {"failed": failed, "reported": reported, "limit": limit}
            causes.append(Cause(agent.agent_id, agent.activations, Trigger.ERROR_RATE, figures))
    return causes
