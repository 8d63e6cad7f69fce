"""The client that agent code imports: ask for a decision before each action, and act only when it is truthy."""

from ascend.client import AscendClient
from ascend.model import AgentAction, Decision, Outcome, Policy, RateRemaining, ShadowVerdict
from ascend.registry import RegistryError

__all__ = [
    "AgentAction",
    "AscendClient",
    "Decision",
    "Outcome",
    "Policy",
    "RateRemaining",
    "RegistryError",
    "ShadowVerdict",
]
