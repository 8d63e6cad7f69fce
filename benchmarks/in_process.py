"""Time of `decide` in process, and of the same rule by cedarpy, casbin and regopy.

Each engine gets its policies parsed and its request ready in the form that it takes quickest, and has to allow and to
deny what the rule does before it is measured. The others have the rule alone, and `decide` also with ten policies, of
which the rule is the last; it checks the agent's limits and budget beside them.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks import compiled
from benchmarks.compiled import NOW
from benchmarks.options import Options
from benchmarks.peers import rule
from benchmarks.peers.rule import Case
from benchmarks.report import Column, Table, interleaved, write
from pdp.core.decide import decide
from pdp.core.model import Outcome
from pdp.core.usage import Usage

ROUND_SECONDS = 0.3
TITLE = "One decision in process"
TIME = Column("time", "µs")

Ask = Callable[[], bool]
"""Asks an engine once: whether it allows the action."""


class Engine(NamedTuple):
    """An engine with the rule: its text in full, and what makes a case into a question."""

    text: str
    question: Callable[[Case], Ask]


def ours(policies: list[dict[str, Any]]) -> Engine:
    """`decide`, with these policies."""
    state, usage = compiled.state(policies), Usage()
    agent = state.agents[rule.AGENT_ID]

    def question(case: Case) -> Ask:
        action = compiled.action(case)
        return lambda: decide(agent, state.servers, action, usage, NOW).outcome is Outcome.ALLOW

    return Engine("\n".join(map(json.dumps, [rule.AGENT, *policies])), question)


CEDAR = f"""permit (principal == Agent::"{rule.AGENT_ID}", action == Action::"data.read", resource)
when {{
  context.risk_score < 60
  && [Resource::"reports", Resource::"invoices"].contains(resource)
  && context.environment == "production"
}};
"""


def cedarpy() -> Engine:
    """Cedar in Rust, with policies and entities that are parsed once."""
    from cedarpy import Entities, PolicySet, is_authorized

    policies, entities = PolicySet.from_str(CEDAR), Entities.from_json_str("[]")

    def question(case: Case) -> Ask:
        request = {
            "principal": {"type": "Agent", "id": rule.AGENT_ID},
            "action": {"type": "Action", "id": "data.read"},
            "resource": {"type": "Resource", "id": case.resource},
            "context": {"risk_score": case.risk_score, "environment": case.environment},
        }
        return lambda: bool(is_authorized(request, policies, entities).allowed)

    return Engine(CEDAR, question)


CASBIN = """[request_definition]
r = agent, action, resource, risk_score, environment
[policy_definition]
p = agent, action, environment
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.agent == p.agent && r.action == p.action && r.risk_score < 60 \\
    && r.resource in ('reports', 'invoices') && r.environment == p.environment
"""
CASBIN_POLICY = (rule.AGENT_ID, "data.read", "production")


def casbin() -> Engine:
    """Casbin in Python."""
    from casbin import Enforcer

    enforcer = Enforcer(Enforcer.new_model(text=CASBIN))
    enforcer.add_policy(*CASBIN_POLICY)

    def question(case: Case) -> Ask:
        values = (rule.AGENT_ID, "data.read", case.resource, case.risk_score, case.environment)
        return lambda: bool(enforcer.enforce(*values))

    return Engine(f"{CASBIN}\np, {', '.join(CASBIN_POLICY)}", question)


REGO = f"""package rule

default allow := false

allow if {{
  input.agent == "{rule.AGENT_ID}"
  input.action == "data.read"
  input.risk_score < 60
  input.resource in {{"reports", "invoices"}}
  input.environment == "production"
}}
"""


def regopy() -> Engine:
    """Rego in C++, with a policy that is compiled once."""
    from regopy import Interpreter

    engine = Interpreter()
    engine.add_module("rule", REGO)
    bundle = engine.build(None, ["rule/allow"])

    def question(case: Case) -> Ask:
        request = {
            "agent": rule.AGENT_ID,
            "action": "data.read",
            "risk_score": case.risk_score,
            "resource": case.resource,
            "environment": case.environment,
        }

        def ask() -> bool:
            engine.set_input(request)
            return bool(engine.query_bundle_entrypoint(bundle, "rule/allow").results[0].expressions[0])

        return ask

    return Engine(REGO, question)


ENGINES: Mapping[str, Callable[[], Engine]] = {
    "decide, 10 policies": lambda: ours(rule.policies()),
    "decide, the rule alone": lambda: ours([rule.RULE]),
    "cedarpy": cedarpy,
    "casbin": casbin,
    "regopy": regopy,
}


def checked(name: str, engine: Engine) -> Engine:
    """The engine, which decides each case as the rule says; `AssertionError` if it does not."""
    for case in rule.CASES:
        if engine.question(case)() != case.allowed:
            raise AssertionError(f"{name} decides otherwise than the rule: {case}")
    return engine


def micros(ask: Ask, calls: int) -> float:
    """Microseconds of the processor for each of so many calls."""
    started = time.process_time()
    for _ in range(calls):
        ask()
    return (time.process_time() - started) / calls * 1e6


def measured(engines: Mapping[str, Callable[[], Engine]], rounds: int, seconds: float = ROUND_SECONDS) -> Table:
    """The time of each engine, over that of the first one; each round of it takes about so long."""
    table = Table(TITLE, [TIME], base=next(iter(engines)))
    rows: dict[str, Callable[[], Mapping[str, float]]] = {}
    for name, make in engines.items():
        engine = checked(name, make())
        ask = engine.question(rule.ALLOWED)
        micros(ask, 100)  # to warm up
        rows[name] = partial(_row, ask, max(1, int(seconds * 1e6 / micros(ask, 100))))
        table.notes = [*table.notes, "", f"{name}:", engine.text.rstrip()]
    return interleaved(table, rounds, rows)


def _row(ask: Ask, calls: int) -> Mapping[str, float]:
    return {TIME.name: micros(ask, calls)}


def run(options: Options) -> None:
    """Measure, print and write the table."""
    write("in_process", options.command("in_process"), [measured(ENGINES, options.rounds)])
