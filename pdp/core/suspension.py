"""Auto-suspension: the triggers of an agent, and the outcomes that the error rate is computed from."""

from enum import Enum
from typing import NamedTuple

from pdp.core.model import AgentRecord

MIN_OUTCOMES, MAX_OUTCOMES = 20, 100
"""The error rate is that of the last `MAX_OUTCOMES` outcomes, and suspends from `MIN_OUTCOMES` on."""
_WINDOW = (1 << MAX_OUTCOMES) - 1


class Trigger(Enum):
    """What suspends an agent by itself."""

    ERROR_RATE = "error_rate"
    OFFLINE = "offline"
    BUDGET_EXCEEDED = "budget_exceeded"
    RATE_EXCEEDED = "rate_exceeded"


class Triggers(NamedTuple):
    """The triggers that a sidecar watches; `error_rate` is the share of failures, None: not watched."""

    error_rate: float | None
    budget_exceeded: bool
    rate_exceeded: bool


def triggers_of(record: AgentRecord) -> Triggers | None:
    """The triggers of an agent; None if a sidecar has none to watch."""
    if not record.auto_suspend_enabled:
        return None
    triggers = Triggers(
        record.auto_suspend_on_error_rate, record.auto_suspend_on_budget_exceeded, record.auto_suspend_on_rate_exceeded
    )
    return None if triggers == (None, False, False) else triggers


class Failures(NamedTuple):
    """The last outcomes of an agent since it was activated for the time number `activations`.

    The newest outcome is the lowest bit of `bits`, and a failure is 1.
    """

    activations: int = 0
    reported: int = 0
    bits: int = 0

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return self.bits.bit_count()

    def after(self, activations: int, *, failed: bool) -> "Failures":
        """The outcomes with one more; those from before the agent was activated again are dropped."""
        reported, bits = (self.reported, self.bits) if activations == self.activations else (0, 0)
        return Failures(activations, min(reported + 1, MAX_OUTCOMES), (bits << 1 | failed) & _WINDOW)


def is_too_high(failed: int, reported: int, limit: float) -> bool:
    """Whether this share of failures suspends: it reaches the limit, and the sample is large enough."""
    return reported >= MIN_OUTCOMES and failed > 0 and failed / reported >= limit
