"""What raises an alert; each function is called in the transaction of the cause."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import AgentType, Outcome
from pdp.core.records import CONFIGURATION
from registry_store.alerts import outbox
from registry_store.alerts.outbox import Event, Kind, of_agent
from registry_store.database.bulk import chunks
from registry_store.database.decision_tables import Usage
from registry_store.database.tables import Agent, Approval
from registry_store.documents import Document, instant

MAX_LISTED = 20
"""Agents that an alert of an emergency stop names."""
RECENT = timedelta(days=2)
"""Spend that was reported later than this raises no alert."""
ESCALATE = Outcome.ESCALATE.name.lower()
AUTONOMOUS = AgentType.AUTONOMOUS.name.lower()


class Decided(Protocol):
    """A reported decision."""

    @property
    def agent_id(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def repeat_of(self) -> str | None: ...
    @property
    def risk_score(self) -> int: ...
    @property
    def document(self) -> Mapping[str, Any]: ...


class Counted(Protocol):
    """What was counted of decisions: of which agents, and the minutes in which each of them spent something."""

    @property
    def agent_ids(self) -> Set[str]: ...
    @property
    def spends(self) -> Set[tuple[str, datetime]]: ...


async def decided(session: AsyncSession, decisions: Iterable[Decided], at: datetime, counted: Counted) -> None:
    """New decisions that are escalated or whose risk is above the maximum, and spend that passes a budget's threshold.

    Call it after the usage of all of them was counted.
    """
    spends = counted.spends
    configurations = await _with_alerts(session, counted.agent_ids, locked=bool(spends))
    if not configurations:
        return
    await _add_risks(session, decisions, configurations, at)
    days = {
        (agent_id, day)
        for agent_id, spent_at in spends
        if agent_id in configurations and (day := _spending_day(spent_at, configurations[agent_id], at)) is not None
    }
    for agent_id, day in sorted(days):
        await _check_budget(session, agent_id, configurations[agent_id], day, at)


async def _add_risks(
    session: AsyncSession, decisions: Iterable[Decided], agents: Mapping[str, Mapping[str, Any]], at: datetime
) -> None:
    alerting = {agent_id: agent for agent_id, agent in agents.items() if _value(agent, "alert_on_high_risk")}
    if not alerting:
        return
    risky = (one for one in decisions if one.agent_id in alerting and not one.dry_run and one.repeat_of is None)
    if events := [event for one in risky for event in _risks(one, alerting[one.agent_id])]:
        await outbox.add(session, events, at)


async def records_lost(session: AsyncSession, node_id: str, number: int, at: datetime) -> None:
    """Records of a sidecar's decision log that it dropped before they were sent; nothing if the number is 0."""
    if number:
        await outbox.add(session, [of_sidecar(Kind.LOG_RECORDS_LOST, node_id, {"records": number}, number)], at)


async def requested(session: AsyncSession, approvals: Iterable[Approval], at: datetime) -> None:
    """Approvals that were opened."""
    await outbox.add(session, (_of_approval(Kind.APPROVAL_REQUESTED, one) for one in approvals), at)


async def expired(session: AsyncSession, approvals: Iterable[Approval], at: datetime) -> None:
    """Approvals that nobody decided in time."""
    await outbox.add(session, (_of_approval(Kind.APPROVAL_EXPIRED, one) for one in approvals), at)


async def suspended(session: AsyncSession, agent_id: str, reason: str, by: str, at: datetime) -> None:
    """An agent that was suspended, by a person or by the system."""
    await outbox.add(session, [of_agent(Kind.SUSPENDED, agent_id, {"reason": reason, "performed_by": by})], at)


async def all_suspended(session: AsyncSession, agent_ids: Sequence[str], reason: str, by: str, at: datetime) -> None:
    """Agents that were suspended together: one alert for the operator, and one for each agent with own channels."""
    detail: Document = {"reason": reason, "performed_by": by}
    listed = detail | {"agents": list(agent_ids[:MAX_LISTED])}
    await outbox.add(session, [Event(Kind.SUSPENDED, f"agents:{instant(at)}", listed, number=len(agent_ids))], at)
    for chunk in chunks(agent_ids):
        reachable = select(Agent.agent_id).where(Agent.agent_id.in_(chunk), _HAS_CHANNELS)
        own = (
            of_agent(Kind.SUSPENDED, agent_id, detail)._replace(to_operator=False)
            for agent_id in await session.scalars(reachable)
        )
        await outbox.add(session, own, at)


def of_sidecar(kind: Kind, node_id: str, detail: Document, number: int = 1) -> Event:
    """An event of a sidecar."""
    return Event(kind, f"sidecar:{node_id}", {"node_id": node_id} | detail, number=number)


def _risks(one: Decided, agent: Mapping[str, Any]) -> Iterator[Event]:
    if one.outcome == ESCALATE:
        yield of_agent(Kind.ESCALATION, one.agent_id, _of_decision(one))
    is_autonomous = agent.get("agent_type") == AUTONOMOUS
    maximum = _value(agent, "autonomous_max_risk_threshold" if is_autonomous else "max_risk_threshold")
    if one.risk_score > maximum:
        yield of_agent(Kind.HIGH_RISK, one.agent_id, _of_decision(one))


def _of_decision(one: Decided) -> Document:
    action, answer = one.document["action"], one.document["answer"]
    risk = answer.get("risk_score")
    return {
        "decision_id": one.document["decision_id"],
        "outcome": one.outcome,
        **_texts(answer, "reason", "message"),
        "risk_score": risk if isinstance(risk, int) else None,
        **_texts(action, "action_type", "resource", "mcp_server", "tool"),
    }


def _of_approval(kind: Kind, approval: Approval) -> Event:
    detail = {
        "approval_id": approval.approval_id,
        "decision_id": approval.decision_id,
        "outcome": approval.outcome,
        "reason": approval.reason,
        "message": approval.message,
        **_texts(approval.action, "action_type", "resource", "mcp_server", "tool"),
        "team": approval.team,
        "approvers": [outbox.bounded(name) for name in approval.approvers[:MAX_LISTED]],
        "expires_at": instant(approval.expires_at),
    }
    return of_agent(kind, approval.agent_id, detail)


def _texts(document: Mapping[str, Any], *names: str) -> Document:
    """The members that are texts and not empty."""
    return {name: text for name in names if isinstance(text := document.get(name), str) and text}


async def _with_alerts(
    session: AsyncSession, agent_ids: Collection[str], *, locked: bool
) -> dict[str, Mapping[str, Any]]:
    """The configurations of those of these agents that have a budget or alert on high risk.

    `locked`: against other reports of the same agents, so that the later of two at once sees what both spent.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for chunk in chunks(sorted(agent_ids)):
        wanted = select(Agent.agent_id, Agent.configuration).where(Agent.agent_id.in_(chunk), _ALERTS)
        wanted = wanted.order_by(Agent.agent_id)
        rows = await session.execute(wanted.with_for_update(key_share=True) if locked else wanted)
        found |= {row.agent_id: row.configuration for row in rows}
    return found


def _spending_day(spent_at: datetime, agent: Mapping[str, Any], at: datetime) -> date | None:
    """The agent's local day on which something was spent; None without a budget, or if it was too long ago."""
    if _value(agent, "max_daily_budget_usd") is None or abs(at - spent_at) > RECENT:
        return None
    return spent_at.astimezone(_zone(agent)).date()


async def _check_budget(
    session: AsyncSession, agent_id: str, agent: Mapping[str, Any], day: date, at: datetime
) -> None:
    midnight, end = (_midnight(each, _zone(agent)) for each in (day, day + timedelta(days=1)))
    of_day = (Usage.agent_id == agent_id, Usage.minute >= midnight, Usage.minute < end)
    spent = await session.scalar(select(func.sum(Usage.cost_micros * 1.0)).where(*of_day)) or 0.0
    budget = Decimal(str(agent["max_daily_budget_usd"])) * 1_000_000
    percent = _value(agent, "budget_alert_threshold_percent")
    if Decimal(spent) * 100 < budget * percent:
        return
    detail = {
        "spent_usd": round(spent / 1e6, 6),
        "budget_usd": agent["max_daily_budget_usd"],
        "threshold_percent": percent,
        "day": day.isoformat(),
    }
    await outbox.add_once(session, of_agent(Kind.BUDGET_THRESHOLD, agent_id, detail), at, midnight)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def _zone(agent: Mapping[str, Any]) -> ZoneInfo:
    try:
        return ZoneInfo(_value(agent, "time_window_timezone"))
    except (KeyError, ValueError):  # known to the store that wrote it, not to this one; no report may fail for it
        return ZoneInfo("UTC")


def _value(agent: Mapping[str, Any], name: str) -> Any:
    """A field of the agent; its default if the stored row is older than the field."""
    return agent.get(name, CONFIGURATION[name].default)


_ALERTS = or_(
    Agent.configuration["alert_on_high_risk"].as_boolean(),
    Agent.configuration["max_daily_budget_usd"].as_float().is_not(None),
)
_HAS_CHANNELS = or_(
    Agent.configuration["webhook_url"].as_string().is_not(None),
    Agent.configuration["alert_recipients"][0].as_string().is_not(None),
)
