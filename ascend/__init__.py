"""The client that agent code imports: ask for a decision before each action, and act only when it is truthy."""

from typing import TYPE_CHECKING

from ascend.action import ActionFields, AgentAction
from ascend.async_client import AsyncAscendClient
from ascend.client import AscendClient
from ascend.errors import (
    ActionBlocked,
    ActionRefused,
    ApprovalDenied,
    ApprovalPending,
    ApprovalUnusable,
    Conflict,
    DecisionUnavailable,
    Invalid,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    RegistryError,
    Stale,
    Unavailable,
)
from ascend.model import Approval, ApprovalState, Decision, Outcome, Policy, RateRemaining, ShadowVerdict

if TYPE_CHECKING:
    from ascend.registry import Registry

__all__ = [
    "ActionBlocked",
    "ActionFields",
    "ActionRefused",
    "AgentAction",
    "Approval",
    "ApprovalDenied",
    "ApprovalPending",
    "ApprovalState",
    "ApprovalUnusable",
    "AscendClient",
    "AsyncAscendClient",
    "Conflict",
    "Decision",
    "DecisionUnavailable",
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


def __getattr__(name: str) -> object:
    if name != "Registry":
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    from ascend.registry import Registry  # with urllib3, which a client without a registry does not need

    return Registry
