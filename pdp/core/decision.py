"""The answer to one action, and who must decide on it if a person must."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pdp.core.compile import CompiledPolicy
from pdp.core.json import canonical_json
from pdp.core.model import Outcome, Reason
from pdp.core.records import read_param


@dataclass(slots=True)
class Decision:
    """The answer to one action, and what it charges: one action unless it is a block, and `cost_micros` on a local day.

    `day` is that day as the ordinal of its date; 0 in a block that was decided without it.
    """

    outcome: Outcome
    reason: Reason
    risk_score: int = 0
    policy: CompiledPolicy | None = None
    mfa_required: bool = False
    retry_after: float | None = None
    cost_micros: int = 0
    shadow: tuple[CompiledPolicy, ...] = ()
    day: int = 0


class Demand(NamedTuple):
    """Who must decide on an action. Two requests for the same action are the same approval only if this is equal."""

    outcome: str
    approvers: tuple[str, ...]
    team: str | None
    next_team: str | None
    min_approvers: int
    mfa_required: bool

    def canonical(self) -> bytes:
        """Its canonical JSON (RFC 8785), of which the SHA-256 is compared."""
        return canonical_json.dumps({**self._asdict(), "approvers": sorted(self.approvers)})


def demand_of(outcome: str, params: Mapping[str, Any], *, mfa_required: bool) -> Demand:
    """What a decision with this outcome and these `action_params` demands; the same at sidecar and store."""
    names = ("approvers", "team", "next_team", "min_approvers")
    approvers, team, next_team, min_approvers = (read_param(params, name) for name in names)
    return Demand(outcome, tuple(approvers), team, next_team, min_approvers, mfa_required)
