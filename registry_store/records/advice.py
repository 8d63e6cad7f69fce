"""Warnings about records that are valid but probably not what the author meant."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from registry_store.alerts.routes import Routes

VAGUE = frozenset(
    {
        *("a", "my", "the", "new", "some", "default", "demo", "example", "foo", "bar", "test", "tmp"),
        *("agent", "agents", "ai", "app", "assistant", "bot", "service"),
    }
)
EXACT = ("allowed_action_types", "allowed_resources", "blocked_resources")
NO_EFFECT = "has no effect yet: each sidecar enforces the whole limit until one limit over many sidecars exists"


def on_agent(configuration: Mapping[str, Any], written: Collection[str], routes: Routes) -> list[str]:
    """The warnings about an agent's configuration, of which a request wrote the fields `written`.

    `routes`: the ways in which the store sends alerts.
    """
    return [
        *_on_id(configuration["agent_id"]),
        *_on_wildcards(configuration),
        *(f"{name} `{configuration[name]}` {NO_EFFECT}" for name in _without_effect(configuration) if name in written),
        *(f"{name} has no effect: {why}" for name, why in routes.unusable(configuration).items() if name in written),
    ]


def _on_id(agent_id: str) -> list[str]:
    words = [word for word in re.split(r"[-_]|(?<=[a-z])(?=[0-9])", agent_id.lower()) if word]
    if any(word not in VAGUE and not word.isdigit() for word in words):
        return []
    return [
        f"agent_id `{agent_id}` does not name a team, purpose or environment; "
        "better: `finance-transaction-processor-prod`"
    ]


def _on_wildcards(configuration: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} contains `{entry}`: entries match exactly, `*` is not a wildcard"
        for name in EXACT
        for entry in configuration[name]
        if "*" in entry
    ]


def _without_effect(configuration: Mapping[str, Any]) -> list[str]:
    # A default that nobody wrote is not mentioned: every registration would have the warning.
    scope = ["limit_scope"] if configuration["limit_scope"] == "agent" else []
    return [*scope, "on_quota_unavailable"]
