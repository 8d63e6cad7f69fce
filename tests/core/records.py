"""Records for the tests of the core; a test names only the fields that matter."""

from typing import Any

from pdp.core.model import AgentRecord, PolicyRecord, ServerRecord
from pdp.core.records import read_agent, read_organisation_policy, read_server


def agent_record(**fields: Any) -> AgentRecord:
    """An active agent with every default."""
    about = {"agent_id": "some-agent", "display_name": "Some agent", "status": "active", "version": "1.0.0"}
    return read_agent(about | fields)


def policy_record(**fields: Any) -> PolicyRecord:
    """A policy that blocks everything."""
    about = {
        "policy_id": "p",
        "policy_name": "P",
        "policy_action": "block",
        "created_at": "2026-01-01T00:00:00.000000Z",
    }
    return read_organisation_policy(about | fields)


def server_record(**fields: Any) -> ServerRecord:
    """An MCP server with every default."""
    return read_server({"server_name": "db"} | fields)
