"""Auto-suspension: an agent is suspended by one of its triggers, once for each time that it was activated."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.messages import dollars
from pdp.core.model import Status, Trigger
from registry_store.database.tables import Agent
from registry_store.journal.activity import Actor
from registry_store.records import agents, emergency_stops


class Cause(NamedTuple):
    """Why an agent is suspended that has been activated `activations` times; `node_id`: the sidecar that saw it."""

    agent_id: str
    activations: int
    trigger: Trigger
    figures: Mapping[str, Any]
    node_id: str | None = None


async def suspend(session: AsyncSession, cause: Cause, at: datetime) -> bool:
    """Suspend an agent; false if it is not active, or was activated again since. The session comes from `writing`.

    An agent that only an emergency stop keeps suspended leaves the stop, so that its release does not activate it.
    """
    agent = await session.get(Agent, cause.agent_id)
    if agent is None or agent.activations != cause.activations:
        return False
    actor = Actor("system", "system", at)
    is_active = agent.status == Status.ACTIVE.value
    if is_active:
        state = {"trigger": cause.trigger.value, "figures": dict(cause.figures), "node_id": cause.node_id}
        await agents.set_status(session, agent, Status.SUSPENDED, description(cause), actor, beside=state)
    if agent.status == Status.SUSPENDED.value:
        await emergency_stops.remove_agent(session, cause.agent_id, actor)
    return is_active


def description(cause: Cause) -> str:
    """The cause in one sentence, with its figures."""
    return f"auto-suspended: {_SENTENCES[cause.trigger].format(**_shown(cause.figures))}"


_SENTENCES = {
    Trigger.ERROR_RATE: "{failed} of the last {reported} outcomes failed, the limit is {limit}",
    Trigger.OFFLINE: "no sidecar has served it for {minutes} minutes",
    Trigger.BUDGET_EXCEEDED: (
        "an action of {cost_micros} was refused, {spent_micros} of the day's budget of {budget_micros} were spent"
    ),
    Trigger.RATE_EXCEEDED: "an action was refused, {actions} of {limit} for the {window} were used",
}


def _shown(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dollars(value) if name.endswith("_micros") else value for name, value in figures.items()}
