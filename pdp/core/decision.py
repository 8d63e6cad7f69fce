"""The answer to one action."""

from dataclasses import dataclass

from pdp.core.compile import CompiledPolicy
from pdp.core.model import Outcome, Reason


@dataclass(slots=True)
class Decision:
    """The answer to one action, and what it charges: `cost_micros`, and one action unless it is a block."""

    outcome: Outcome
    reason: Reason
    risk_score: int = 0
    policy: CompiledPolicy | None = None
    mfa_required: bool = False
    retry_after: float | None = None
    cost_micros: int = 0
    shadow: tuple[CompiledPolicy, ...] = ()
