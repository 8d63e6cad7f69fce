"""The client that agent code imports: ask for a decision before each action, and act only when it is truthy."""

from ascend.action import ActionFields, AgentAction
from ascend.client import AscendClient
from ascend.errors import (
    Conflict,
    Invalid,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    RegistryError,
    Stale,
    Unavailable,
)
from ascend.model import Approval, ApprovalState, Decision, Outcome, Policy, RateRemaining, ShadowVerdict
from ascend.registry import Registry

__all__ = [
    "ActionFields",
    "AgentAction",
    "Approval",
    "ApprovalState",
    "AscendClient",
    "Conflict",
    "Decision",
    "Invalid",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "Outcome",
    "Policy",
    "RateRemaining",
    "Registry",
    "RegistryError",
    "ShadowVerdict",
    "Stale",
    "Unavailable",
]
