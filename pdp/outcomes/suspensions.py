"""The agents that this sidecar suspended by itself, until the store has done so everywhere."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pdp.core.compile import CompiledAgent
from pdp.core.model import Status, Trigger


class Suspension(NamedTuple):
    """A suspension: its trigger and the figures that caused it, at `at` (Unix seconds).

    It holds while the agent has been activated `activations` times. Once a person activates the agent again, it only
    says what led to a suspension before, so that the same cause does not lead to another one.
    """

    agent_id: str
    activations: int
    trigger: Trigger
    figures: Mapping[str, Any]
    at: float


class Suspensions:
    """The suspensions by agent, at most one for each."""

    def __init__(self) -> None:
        self.by_agent: dict[str, Suspension] = {}
        """Only this class changes it."""

    def __len__(self) -> int:
        return len(self.by_agent)

    def all(self) -> dict[str, Suspension]:
        """A copy of all of them."""
        return self.by_agent.copy()

    def put(self, suspension: Suspension) -> None:
        """Suspend an agent, in place of an earlier suspension."""
        self.by_agent[suspension.agent_id] = suspension

    def remove(self, agent_id: str) -> None:
        """Forget the suspension of an agent."""
        self.by_agent.pop(agent_id, None)

    def of(self, agent: CompiledAgent) -> Suspension | None:
        """The suspension that holds for the agent as it is in the registry data."""
        found = self.by_agent.get(agent.agent_id)
        return found if found is not None and found.activations == agent.activations else None

    def earlier(self, agent: CompiledAgent) -> Suspension | None:
        """The suspension that a person has lifted by activating the agent again."""
        found = self.by_agent.get(agent.agent_id)
        return found if found is not None and found.activations != agent.activations else None

    def applied(self, agent: CompiledAgent) -> CompiledAgent:
        """The agent, suspended if it is suspended here."""
        return agent.with_status(Status.SUSPENDED) if agent.active and self.of(agent) is not None else agent
