"""Common values of tests: a moment, and an agent."""

from typing import Any

NOON = 1_795_176_000.0
"""Friday 2026-11-20, 12:00 UTC."""


def agent(agent_id: str = "billing-reader-test", **fields: Any) -> dict[str, Any]:
    """An active agent without rate limits, as the store would send it."""
    limits = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")}
    about = {"agent_id": agent_id, "display_name": agent_id, "status": "active", "version": "1.0.0"}
    return about | limits | fields
