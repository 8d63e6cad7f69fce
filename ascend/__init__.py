"""The client that agent code imports: ask for a decision before each action, and act only when it is truthy."""

from importlib import import_module
from typing import TYPE_CHECKING

from ascend.action import ActionFields, AgentAction
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
    from ascend.async_client import AsyncAscendClient
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


# With asyncio and urllib3, which many clients need not load.
_MODULES = {"AsyncAscendClient": "ascend.async_client", "Registry": "ascend.registry"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    found: object = getattr(import_module(_MODULES[name]), name)
    return found
