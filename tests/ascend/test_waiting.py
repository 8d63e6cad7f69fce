"""The client waits for an approval at a sidecar whose answers the test sets."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from ascend import Approval, ApprovalState, AscendClient
from ascend.calls.grpc import AsyncGrpcCalls
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.ascend.ways import offered
from tests.deciding import Bench
from tests.given import NOON, agent
from tests.waiting import BOUND_SECONDS, eventually


@asynccontextmanager
async def waiting_client(way: str, bench: Bench) -> AsyncIterator[AscendClient]:
    """A client of the bench's sidecar."""
    async with offered(bench.service, way) as address:
        with AscendClient("", "billing-reader-test", "Test", pdp_address=address) as client:
            yield client


async def wait(client: AscendClient, approval_id: str, seconds: float) -> Approval:
    return await asyncio.to_thread(client.wait_for_approval, approval_id, seconds)


async def test_a_final_state_has_the_answer_of_people(way: str) -> None:
    """An approval is truthy, and has its decider, comment and expiry."""
    bench = Bench()
    bench.put(agent())
    said = {"decided_by": "ann", "comment": "go", "expires_at": NOON}
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_APPROVED, **said)
    async with waiting_client(way, bench) as client:
        approval = await wait(client, "a1", 20)
    assert (bool(approval), approval.decided_by, approval.comment) == (True, "ann", "go")
    assert approval.expires_at is not None
    assert approval.expires_at.timestamp() == NOON


async def test_after_the_timeout_the_client_returns_the_last_known_state(way: str) -> None:
    """That state is not an approval."""
    bench = Bench()
    bench.put(agent())
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    async with waiting_client(way, bench) as client:
        for seconds in (0.2, 1, 5, 25):
            approval = await wait(client, "a1", seconds)
            if approval.state is not ApprovalState.UNKNOWN:
                break  # else the machine was too slow for the time-out
    assert (bool(approval), approval.state) == (False, ApprovalState.PENDING)


async def test_an_unknown_approval_is_reported_at_once(way: str) -> None:
    """With the sidecar's reason, and without waiting for the timeout."""
    async with waiting_client(way, Bench()) as client:
        approval = await wait(client, "a1", 3600)
    assert (bool(approval), approval.state) == (False, ApprovalState.UNKNOWN)
    assert approval.comment == "approval `a1` is unknown"


async def test_without_a_sidecar_nothing_is_approved(nowhere: str) -> None:
    """The client raises nothing."""
    with AscendClient("", "billing-reader-test", "Test", pdp_address=nowhere) as client:
        approval = await wait(client, "a1", 0.3)
    assert (bool(approval), approval.state) == (False, ApprovalState.UNKNOWN)


@pytest.mark.parametrize("way", ["grpc", "grpc+unix"])
async def test_a_stream_that_is_left_ends_its_call(way: str) -> None:
    """At once, and not when the garbage collector finds it: until then the sidecar would wait for nobody."""
    bench = Bench()
    bench.put(agent())
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    request = pb.WaitForApprovalRequest(approval_id="a1").SerializeToString()
    async with offered(bench.service, way) as address:
        calls = AsyncGrpcCalls(address, None)
        gc.disable()
        try:
            async with aclosing(calls.stream("WaitForApproval", request, BOUND_SECONDS)) as updates:
                await anext(updates)
                assert bench.service.approvals.waiting == 1
            await eventually(lambda: bench.service.approvals.waiting == 0)
        finally:
            gc.enable()
            await calls.close()
