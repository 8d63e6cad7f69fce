"""The agent, the requests and the answers of the rule as a sidecar has them in memory."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.peers import rule
from pdp import wire
from pdp.core.action import Action
from pdp.core.decision import Decision
from pdp.core.model import Now, RecordKind, Source
from pdp.core.usage import Usage
from pdp.endpoints import incoming
from pdp.endpoints.connect_messages import methods
from pdp.endpoints.service import SERVICE
from pdp.state import RawRecord, State, build
from tests.deciding import Bench
from tests.given import NOON

NOW = Now(NOON, 1_000_000.0)
EVALUATE = f"/{SERVICE}/Evaluate"


def stored(policies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The agent with these policies, as the store sends it."""
    told = {"created_at": "2026-01-01T00:00:00.000000Z", "is_active": True}
    sent = [policy | told | {"policy_id": f"pol-{number}"} for number, policy in enumerate(policies)]
    return rule.AGENT | {"status": "active", "version": "1.0.0", "policies": sent}


def state(policies: Sequence[dict[str, Any]]) -> State:
    """The registry data in force: the agent with these policies alone."""
    record = RawRecord(RecordKind.AGENT, rule.AGENT_ID, json.dumps(stored(policies)).encode())
    found, refused = build([record], "epoch", 1)
    if refused:
        raise ValueError(f"the agent was refused: {refused}")
    return found


def parsed(raw: bytes) -> wire.Request:
    """The request of these bytes."""
    return incoming.read_message(raw)


def action(case: rule.Case) -> Action:
    """The action of a case, as it is decided on."""
    return parsed(rule.request(case)).action


def answer(decision: Decision, found: State, usage: Usage, decision_id: str) -> bytes:
    """The answer to a decision of a policy, made as the decision point makes it."""
    agent = found.agents[rule.AGENT_ID]
    made = wire.Answer(decision, decision_id, "", found.revision, Source.LIVE, 0.5, agent.version)
    made.remaining, made.budget_micros = usage.remaining(agent.limits, NOW.boot), agent.budget_micros
    return wire.write_answer(made)


def evaluating(bench: Bench) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """The servicer's handler of Evaluate, at a sidecar that has the agent with the ten policies."""
    bench.put(stored(rule.policies()))
    handler: Any = methods(bench.service.handlers())[EVALUATE].handler
    return handler  # type: ignore[no-any-return]
