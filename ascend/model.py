"""Questions, decisions and approvals as agent code sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from ascend.action import AgentAction


class Outcome(StrEnum):
    """The answer to an action: the agent must follow it."""

    ALLOW = "allow"
    REQUIRE_APPROVAL = "require_approval"
    BLOCK = "block"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True)
class Question:
    """May this agent do this action? The arguments are those of `AscendClient.evaluate`."""

    agent_id: str
    action: AgentAction
    idempotency_key: str = ""
    approval_id: str = ""
    dry_run: bool = False

    def again(self, approval_id: str, attempt: int) -> "Question":
        """The same question with an approval.

        The sidecar remembers the answer to each attempt under its own key, so the answer "still held" to one does not
        answer the next; and a run that is repeated as a whole has the same keys.
        """
        key = self.idempotency_key and f"{self.idempotency_key}/{attempt}"
        return replace(self, approval_id=approval_id, idempotency_key=key)


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy that decided."""

    id: str
    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """What a shadow policy would have done."""

    policy: Policy
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RateRemaining:
    """How many actions each limit still admits; None where there is no such limit."""

    minute: int | None = None
    hour: int | None = None
    day: int | None = None


class ApprovalState(StrEnum):
    """The state of an approval; `unknown` if no sidecar knows it."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    USED = "used"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Approval:
    """The answer of people to an action; truthy only when it is approved and usable, until `expires_at`."""

    approval_id: str
    state: ApprovalState
    decided_by: str = ""
    comment: str = ""
    expires_at: datetime | None = None

    def __bool__(self) -> bool:
        return self.state is ApprovalState.APPROVED


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one action; truthy only for allow.

    `reason` is a reason code of the sidecar, or PDP_UNAVAILABLE when there was no answer: then `error_code` is the
    gRPC status (as UNAVAILABLE, DEADLINE_EXCEEDED or INVALID_ARGUMENT), and for a malformed action `field` is the
    faulty field. `approval_pending`: people were asked about the same action before, and have not answered yet.
    `retry_after` and `staleness` are in seconds.
    """

    outcome: Outcome
    reason: str
    message: str = ""
    decision_id: str = ""
    risk_score: int = 0
    mfa_required: bool = False
    policy: Policy | None = None
    action_params: Mapping[str, Any] = field(default_factory=dict)
    shadow: tuple[ShadowVerdict, ...] = ()
    rate_remaining: RateRemaining = RateRemaining()
    budget_remaining_usd: float | None = None
    retry_after: float | None = None
    approval_id: str = ""
    approval_expires_at: datetime | None = None
    approval_pending: bool = False
    agent_version: str = ""
    registry_revision: int = 0
    staleness: float = 0.0
    source: str = ""
    error_code: str = ""
    field: str = ""

    def __bool__(self) -> bool:
        return self.outcome is Outcome.ALLOW

    @property
    def allowed(self) -> bool:
        """Whether the action may be done now."""
        return bool(self)
