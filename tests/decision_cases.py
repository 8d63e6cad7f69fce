"""The decisions in `cases/*.yaml` as plain objects that any layer can run.

A file is one topic: `defaults` for all its cases, and `cases`. A case states one fact in `it` and says only what
differs from an active agent without limits that reads an API with risk 10 on Friday 2026-11-20 at 12:00 UTC:

- `agent` (null: not registered), `policies`, `organisation`, `servers`: fields of the records.
- `conditions` (and `on_missing`): one blocking policy with these conditions, so that a row may say just `holds`.
- `action`: fields of every row's action; `at`: the time.
- `rows`, each decided by itself; or `steps`, decided one after the other with one count.

A row holds fields of the action beside `expect` (outcome and reason) and, where it matters, `risk`, `policy`, `shadow`
(names), `mfa_required`, `params`, `retry_after`, and after it `remaining` (minute, hour, day) and `budget_left`. `at`,
or in steps `after` (seconds on both clocks) and `wall_jump` (seconds on the wall clock alone), sets its time; `times`
repeats it; `approved`: a person has approved it; `stale`: the registry data is too old, and this is the mode. What only
an explanation tells (`detail` of the deciding stage, `would_allow`) stands in cases of its own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdp import wire
from pdp.core.action import FIELDS, Action
from pdp.core.explanation.situation import Records
from pdp.core.model import Now, RecordKind, StaleMode
from pdp.core.records import read_agent, read_organisation_policy, read_server
from pdp.state import RawRecord, State, build

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with it, as its wheels are."""
Answer = dict[str, Any]
FOLDER = Path(__file__).parent / "cases"
NOON = "2026-11-20T12:00:00Z"
BOOT = 864_000.0
"""Ten days: on a bucket of every window, so that waits are round."""

ACTION = set(FIELDS)
EXPECTED = {"risk", "policy", "shadow", "mfa_required", "params", "retry_after", "remaining", "budget_left"}
EXPECTED |= {"detail", "would_allow"}
TIMING = {"at", "after", "wall_jump", "times", "dry_run", "approved", "stale"}
CASE = {"it", "agent", "policies", "organisation", "servers", "conditions", "on_missing", "action", "at"}
HOLDS = {True: "block POLICY_MATCHED", False: "allow RISK_BELOW_AUTO_APPROVE"}


@dataclass(frozen=True)
class Step:
    """One action at one time, and what of the answer is expected."""

    action: dict[str, Any]
    now: Now
    dry_run: bool
    approved: bool
    stale: StaleMode | None
    expected: dict[str, Any]

    def asked(self) -> Action:
        """The action as the core sees it."""
        return wire.read_json_request({"action": self.action}).action


@dataclass(frozen=True)
class Case:
    """The records in force, as synced documents, and the steps decided under them with one count."""

    name: str
    agent: dict[str, Any] | None
    organisation: tuple[dict[str, Any], ...]
    servers: tuple[dict[str, Any], ...]
    steps: tuple[Step, ...]

    def records(self) -> Records:
        """The records in force, uncompiled."""
        return Records(
            None if self.agent is None else read_agent(self.agent),
            tuple(map(read_organisation_policy, self.organisation)),
            {server["server_name"]: read_server(server) for server in self.servers},
        )

    def state(self) -> State:
        """The records in force, compiled."""
        documents = [(RecordKind.MCP_SERVER, server["server_name"], server) for server in self.servers]
        documents += [(RecordKind.ORGANISATION_POLICY, policy["policy_id"], policy) for policy in self.organisation]
        documents += [(RecordKind.AGENT, self.agent["agent_id"], self.agent)] if self.agent else []
        raw = [RawRecord(kind, name, json.dumps(document).encode()) for kind, name, document in documents]
        state, refused = build(raw, "epoch", 1)
        assert not refused, refused
        return state

    def hold(self, answers: list[Answer]) -> None:
        """Compare the answers to the steps, in the form of the JSON endpoint, with the expected ones."""
        found = [
            {name: _value_of(answer, name) for name in step.expected}
            for answer, step in zip(answers, self.steps, strict=True)
        ]
        assert found == [
            {name: pytest.approx(value) if name == "retry_after" else value for name, value in step.expected.items()}
            for step in self.steps
        ]

    def for_agent(self, agent_id: str) -> "Case":
        """The same case for an agent of another id, which nothing was counted for yet."""
        agent = self.agent and self.agent | {"agent_id": agent_id}
        steps = tuple(replace(step, action=step.action | {"agent_id": agent_id}) for step in self.steps)
        return replace(self, agent=agent, steps=steps)


@cache
def load(folder: Path = FOLDER) -> tuple[Case, ...]:
    """Every case of every file."""
    return tuple(case for path in sorted(folder.glob("*.yaml")) for case in _cases(path))


def _cases(path: Path) -> Iterator[Case]:
    document = yaml.load(path.read_text("utf-8"), SafeLoader)
    numbers = count(1)
    for given in document["cases"]:
        case = _merged(document.get("defaults", {}), given)
        _known(case, CASE | {"rows", "steps"}, path)
        rows, steps = case.get("rows", []), case.get("steps", [])
        assert bool(rows) != bool(steps), f"{path}: `{case['it']}` needs rows or steps"
        for group in [[row] for row in rows] or [steps]:
            yield _case(f"{path.stem}-{next(numbers)}", case, group)


def _case(agent_id: str, case: dict[str, Any], rows: list[dict[str, Any]]) -> Case:
    policies = list(case.get("policies", []))
    if "conditions" in case:
        on_missing = case.get("on_missing", "no_match")
        policies.append({"conditions": case["conditions"], "on_missing": on_missing, "policy_action": "block"})
    agent = case.get("agent", {})
    if agent is not None:
        limits = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")}
        about = {"agent_id": agent_id, "display_name": agent_id, "status": "active", "version": "1.0.0"}
        agent = about | limits | agent | {"policies": _policies(policies)}
    servers = tuple({"server_name": server} | (rules or {}) for server, rules in case.get("servers", {}).items())
    action = {"agent_id": agent_id, "action_type": "api.read", "risk_score": 10} | case.get("action", {})
    steps = tuple(_steps(rows, action, case.get("at", NOON)))
    organisation = tuple(_policies(case.get("organisation", []), "organisation"))
    return Case(f"{agent_id}: {case['it']}", agent, organisation, servers, steps)


def _policies(given: list[dict[str, Any]], whose: str = "own") -> list[dict[str, Any]]:
    """Policies with names and ids of their own; each is a second younger than the one before."""
    return [
        {
            "policy_id": f"{whose}-{number}",
            "policy_name": f"{whose} {number}",
            "created_at": f"2026-01-01T00:00:{number:02}.000000Z",
        }
        | policy
        for number, policy in enumerate(given, 1)
    ]


def _steps(rows: list[dict[str, Any]], action: dict[str, Any], at: str) -> Iterator[Step]:
    now = Now(_wall(at), BOOT)
    for row in rows:
        _known(row, ACTION | EXPECTED | TIMING | {"expect", "holds"}, row)
        for _ in range(row.get("times", 1)):
            if "at" in row:
                now = Now(_wall(row["at"]), now.boot)
            after = row.get("after", 0)
            now = Now(now.wall + after + row.get("wall_jump", 0), now.boot + after)
            fields = action | {name: row[name] for name in row.keys() & ACTION}
            given = {name: value for name, value in fields.items() if value is not None}
            stale = StaleMode(row["stale"]) if "stale" in row else None
            yield Step(given, now, row.get("dry_run", False), row.get("approved", False), stale, _expected(row))


def _expected(row: dict[str, Any]) -> dict[str, Any]:
    outcome, reason = (row["expect"] if "expect" in row else HOLDS[row["holds"]]).split()
    return {"outcome": outcome, "reason": reason} | {name: row[name] for name in row.keys() & EXPECTED}


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = defaults | given
    for name in ("agent", "action"):
        if name in defaults and given.get(name):
            both[name] = defaults[name] | given[name]
    return both


def _wall(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _known(given: dict[str, Any], names: set[str], where: object) -> None:
    assert given.keys() <= names, f"{where}: {given.keys() - names} is not known"


def _value_of(answer: Answer, name: str) -> object:
    """What an answer says under the short name of a case."""
    if name == "policy":
        return answer["policy"] and answer["policy"]["name"]
    if name == "shadow":
        return [verdict["policy"]["name"] for verdict in answer["shadow"]]
    if name == "remaining":
        return list(answer["rate_remaining"].values())
    full = {"risk": "risk_score", "params": "action_params", "budget_left": "budget_remaining_usd"}
    return answer[full.get(name, name)]
