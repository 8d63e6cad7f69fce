"""Every decision of `cases/*.yaml`, by every layer that decides: one function each, from a case to its answers."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict

from pdp import wire
from pdp.core.decide import charge, decide
from pdp.core.explain import explain
from pdp.core.model import Action
from pdp.core.situation import Records, local_at
from pdp.core.stages import limits_of
from pdp.core.usage import Usage
from pdp.state import Kind, RawRecord, Source, State, build
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.deciding import Bench, served
from tests.decision_cases import Case, Step, load
from tests.history import BruteForce, settle

Answer = dict[str, Any]


@dataclass(frozen=True)
class Sidecar:
    """One service for the whole session, its records and clocks set by each case, and a stub that calls it."""

    bench: Bench
    stub: PolicyDecisionPointStub


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sidecar() -> AsyncIterator[Sidecar]:
    bench = Bench()
    async with served(bench.service) as stub:
        yield Sidecar(bench, stub)


async def core(case: Case, sidecar: Sidecar) -> list[Answer]:
    state, usage = _state(case), Usage()
    return [_core_answer(state, usage, step) for step in case.steps]


async def reference(case: Case, sidecar: Sidecar) -> list[Answer]:
    records, history = case.records(), BruteForce()
    return [_reference_answer(records, history, step) for step in case.steps]


async def unary(case: Case, sidecar: Sidecar) -> list[Answer]:
    return [wire.answer_json(await sidecar.stub.Evaluate(_request(step))) for step in _steps(case, sidecar)]


async def batch(case: Case, sidecar: Sidecar) -> list[Answer]:
    answers = []
    for step in _steps(case, sidecar):
        response = await sidecar.stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[_request(step)]))
        answers += [wire.answer_json(result.response) for result in response.results]
    return answers


async def stream(case: Case, sidecar: Sidecar) -> list[Answer]:
    answers = []
    call = sidecar.stub.EvaluateStream()
    for step in _steps(case, sidecar):
        await call.write(pb.EvaluateStreamRequest(request=_request(step)))
        answers.append(wire.answer_json((await call.read()).result.response))
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    return answers


async def json_door(case: Case, sidecar: Sidecar) -> list[Answer]:
    answers = []
    for step in _steps(case, sidecar):
        body = json.dumps({"action": step.action, "dry_run": step.dry_run}).encode()
        status, answer = sidecar.bench.service.evaluate_json(body)
        assert status == 200, answer
        answers.append(answer)
    return answers


Layer = Callable[[Case, Sidecar], Awaitable[list[Answer]]]
LAYERS: tuple[Layer, ...] = (core, reference, unary, batch, stream, json_door)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
@pytest.mark.parametrize("case", load(), ids=lambda case: case.name)
async def test_case(case: Case, layer: Layer, sidecar: Sidecar) -> None:
    """The fact that the case states holds at this layer."""
    name, _, _ = case.name.partition(":")
    answers = await layer(case.for_agent(f"{name}-{layer.__name__}"), sidecar)
    told = [
        {name: _told(answer, name) for name in step.expected} for answer, step in zip(answers, case.steps, strict=True)
    ]
    assert told == [
        {name: pytest.approx(value) if name == "retry_after" else value for name, value in step.expected.items()}
        for step in case.steps
    ]


def test_there_are_at_least_150_cases() -> None:
    """And no two of one name."""
    names = [case.name for case in load()]
    assert len(names) >= 150
    assert len(set(names)) == len(names)


def _told(answer: Answer, name: str) -> object:
    """What an answer says under the short name of a case."""
    if name == "policy":
        return answer["policy"] and answer["policy"]["name"]
    if name == "shadow":
        return [verdict["policy"]["name"] for verdict in answer["shadow"]]
    if name == "remaining":
        return list(answer["rate_remaining"].values())
    full = {"risk": "risk_score", "params": "action_params", "budget_left": "budget_remaining_usd"}
    return answer[full.get(name, name)]


def _steps(case: Case, sidecar: Sidecar) -> Iterator[Step]:
    """The steps, each handed out when the clocks stand at its time, with the case's records in force."""
    sidecar.bench.holder.swap(_state(case), Source.LIVE)
    for step in case.steps:
        sidecar.bench.now = step.now
        yield step


def _state(case: Case) -> State:
    records = [RawRecord(Kind.MCP_SERVER, one["server_name"], _bytes(one)) for one in case.servers]
    records += [RawRecord(Kind.ORGANISATION_POLICY, one["policy_id"], _bytes(one)) for one in case.organisation]
    if case.agent is not None:
        records.append(RawRecord(Kind.AGENT, case.agent["agent_id"], _bytes(case.agent)))
    state, refused = build(records, "epoch", 1)
    assert not refused, refused
    return state


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _request(step: Step) -> pb.EvaluateRequest:
    return pb.EvaluateRequest(action=ParseDict(step.action, pb.Action()), dry_run=step.dry_run)


def _core_answer(state: State, usage: Usage, step: Step) -> Answer:
    action = _action(step)
    agent = state.agents.get(action.agent_id)
    decision = decide(agent, state.servers, action, usage, step.now)
    answer = wire.write_decision(decision)
    if agent is not None:
        if not step.dry_run:
            charge(agent, usage, decision, step.now)
        left = _left(agent.budget_micros, usage, local_at(agent.zone, step.now.wall).day)
        wire.write_remaining(answer, usage.remaining(agent.limits, step.now.boot), left)
    return wire.answer_json(answer)


def _reference_answer(records: Records, history: BruteForce, step: Step) -> Answer:
    action, now = _action(step), step.now
    explanation = explain(records, action, history, now)
    answer = {
        "outcome": explanation.outcome.name.lower(),
        "reason": explanation.reason.name,
        "risk_score": explanation.risk_score,
        "mfa_required": explanation.mfa_required,
        "policy": explanation.policy and {"name": explanation.policy.policy_name},
        "action_params": explanation.policy.action_params if explanation.policy else {},
        "shadow": [{"policy": {"name": policy.policy_name}} for policy in explanation.shadow],
        "retry_after": explanation.retry_after,
    }
    if records.agent is None:
        return answer
    day = local_at(records.agent.time_window_timezone, now.wall).day
    if not step.dry_run:
        settle(history, explanation, day, now)
    budget = records.agent.max_daily_budget_usd
    left = _left(None if budget is None else int(budget * 1_000_000), history, day)
    return answer | {
        "rate_remaining": history.remaining(limits_of(records.agent), now.boot)._asdict(),
        "budget_remaining_usd": None if left is None else left / 1_000_000,
    }


def _left(budget_micros: int | None, usage: Usage | BruteForce, day: int) -> int | None:
    return None if budget_micros is None else max(0, budget_micros - usage.spent(day))


def _action(step: Step) -> Action:
    return wire.read_json_request({"action": step.action}).action
