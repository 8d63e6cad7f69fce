"""The example bodies in OpenAPI; each works unchanged with a new store."""

from typing import Any

AGENT: dict[str, Any] = {
    "agent_id": "finance-transaction-processor-prod",
    "display_name": "Transaction processor",
    "description": "Books incoming payments",
    "agent_type": "supervised",
    "tags": ["finance", "prod"],
    "allowed_action_types": ["database.read", "transaction.process"],
    "action_risk_scores": {"transaction.process": 60},
    "auto_approve_below": 20,
    "max_risk_threshold": 70,
    "max_actions_per_minute": 50,
    "max_daily_budget_usd": 10000,
}
CHANGE = {"max_risk_threshold": 60, "version_notes": "SEC-1042: lower ceiling after the review"}
ROLLBACK = {"target_version": "1.0.0", "reason": "SEC-1043: the lower ceiling stops payroll"}
REASON = {"reason": "OPS-7: checked by the owner"}
POLICY = {
    "policy_name": "High-Value Review",
    "priority": 10,
    "conditions": {"action_type": "transaction.process", "amount_above": 5000},
    "policy_action": "require_approval",
    "action_params": {"approvers": ["finance-leads"], "timeout_seconds": 1800},
    "on_missing": "match",
}
DECLARATION = AGENT | {"status": "active", "policies": [POLICY], "version_notes": "SEC-1041: as reviewed"}
POLICY_CHANGE = {"priority": 5, "version_notes": "SEC-1045: before the other rules"}
POLICY_ROLLBACK = {"target_version": "1.0.0", "reason": "SEC-1046: back in its old place"}
ORGANISATION_POLICY = {
    "policy_name": "No personal data at night",
    "conditions": {"data_classification": "pii", "hour_after": 20, "hour_before": 6},
    "policy_action": "block",
    "applies_to": {"tags": ["finance"], "agent_types": []},
}
MCP_SERVER = {
    "server_name": "filesystem",
    "display_name": "File system",
    "transport_type": "stdio",
    "auto_approve_tools": ["read_file"],
    "blocked_tools": ["delete_file"],
    "tool_risk_overrides": {"write_file": 65},
}
MCP_SERVER_CHANGE = {"blocked_tools": ["delete_file", "move_file"]}
KEY = {"name": "payments cluster", "role": "sidecar", "expires_at": "2100-01-01T00:00:00Z"}
EMERGENCY_STOP = {"tags": ["finance"], "reason": "SEC-1044: unexplained transfers"}
RELEASE = {"stop_id": "stop_0123456789abcdef0123456789abcdef", "reason": "SEC-1044: explained"}
RELEASE_NODE = {"reason": "OPS-9: the cluster has a key of a new name", "key_name": "payments cluster 2"}
APPROVE = {"comment": "FIN-881: the payee was called back"}
DENY = {"comment": "FIN-882: the payee does not know of it"}
