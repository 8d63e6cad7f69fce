"""Every decision of `cases/*.yaml` over the wire: each layer a function from a case to its answers."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict

from pdp import wire
from pdp.core.model import Source
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.deciding import Bench, served
from tests.decision_cases import Answer, Case, Step, load
from tests.pdp.endpoints.connecting import Connecting
from tests.pdp.endpoints.test_http import port


@dataclass(frozen=True)
class Sidecar:
    """One service for the whole session, its records and clocks set by each case, and what calls it."""

    bench: Bench
    stub: PolicyDecisionPointStub
    connect: dict[str, Connecting]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sidecar() -> AsyncIterator[Sidecar]:
    bench = Bench()
    async with served(bench.service) as stub, port(bench) as http:
        connect = {form: Connecting(http.address, is_json=form == "json") for form in ("proto", "json")}
        yield Sidecar(bench, stub, connect)


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


async def json_endpoint(case: Case, sidecar: Sidecar) -> list[Answer]:
    answers = []
    for step in _steps(case, sidecar):
        body = json.dumps({"action": step.action, "dry_run": step.dry_run, "approval_id": _approval(step)}).encode()
        status, answer = await sidecar.bench.service.evaluate_json(body)
        assert status == 200, answer
        answers.append(answer)
    return answers


async def connect_proto(case: Case, sidecar: Sidecar) -> list[Answer]:
    return await _connected(case, sidecar, "proto")


async def connect_json(case: Case, sidecar: Sidecar) -> list[Answer]:
    return await _connected(case, sidecar, "json")


async def _connected(case: Case, sidecar: Sidecar, form: str) -> list[Answer]:
    client = sidecar.connect[form]
    return [wire.answer_json(await client.call("Evaluate", _request(step))) for step in _steps(case, sidecar)]


Layer = Callable[[Case, Sidecar], Awaitable[list[Answer]]]
LAYERS: tuple[Layer, ...] = (unary, batch, stream, json_endpoint, connect_proto, connect_json)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
@pytest.mark.parametrize("case", load(), ids=lambda case: case.name)
async def test_case(case: Case, layer: Layer, sidecar: Sidecar) -> None:
    """The fact that the case states holds at this layer."""
    name, _, _ = case.name.partition(":")
    answers = await layer(case.for_agent(f"{name}-{layer.__name__}"), sidecar)
    case.hold(answers)


def _steps(case: Case, sidecar: Sidecar) -> Iterator[Step]:
    """The steps, each handed out when the clocks stand at its time, with the case's records in force."""
    sidecar.bench.holder.swap(case.state(), Source.LIVE)
    for step in case.steps:
        sidecar.bench.now = step.now
        sidecar.bench.age(step.stale)
        sidecar.bench.people.granted.add(_approval(step))
        yield step


def _request(step: Step) -> pb.EvaluateRequest:
    return pb.EvaluateRequest(
        action=ParseDict(step.action, pb.Action()), dry_run=step.dry_run, approval_id=_approval(step)
    )


def _approval(step: Step) -> str:
    """An id of its own for each step, since an approval is used but once."""
    return f"{step.action['agent_id']}-{id(step)}" if step.approved else ""
