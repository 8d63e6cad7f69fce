"""Calls to the store over the current connection, and their errors without one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
import pytest

from pdp.sync import uplink as module
from pdp.sync.uplink import InvalidReportError, StoreUnreachableError, UnknownApprovalError, Uplink
from registry_store.v1 import sync_pb2 as pb
from tests.pdp.reported_store import METADATA, connected_store
from tests.waiting import eventually

REPORT = pb.ReportDecisionsRequest(node_id="node-1")
USE = pb.UseApprovalRequest(approval_id="a-1")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's answer is awaited even if this machine pauses."""
    monkeypatch.setattr(module, "USE_SECONDS", 3600)


async def states(watch: AsyncIterator[pb.Approval]) -> list[int]:
    return [approval.state async for approval in watch]


async def test_calls_go_over_the_connection_under_its_key() -> None:
    """Each of the three calls."""
    uplink = Uplink()
    async with connected_store() as (store, channel):
        with uplink.connected(channel, METADATA):
            assert (await uplink.report(REPORT)).sequence == 0
            assert (await uplink.use_approval(USE)).approval.approval_id == "a-1"
            watched = await states(uplink.watch_approval("a-1"))
    assert watched == [pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_APPROVED]
    assert (store.keys, store.node_ids) == ({"Bearer owkai_up"}, {"node-1"})


async def test_without_a_connection_the_store_is_unreachable() -> None:
    """At once, before the first one and after the last."""
    uplink = Uplink()
    async with connected_store() as (_, channel):
        with uplink.connected(channel, METADATA):
            pass
    for call in (uplink.report(REPORT), uplink.use_approval(USE), states(uplink.watch_approval("a-1"))):
        with pytest.raises(StoreUnreachableError, match="no connection"):
            await call


async def test_wait_connected_returns_once_there_is_a_connection() -> None:
    """It waits while there is none."""
    uplink = Uplink()
    waiting = asyncio.create_task(uplink.wait_connected())
    await asyncio.sleep(0)
    assert not waiting.done()
    async with connected_store() as (_, channel):
        with uplink.connected(channel, METADATA):
            await waiting
            await uplink.wait_connected()
    assert not asyncio.create_task(uplink.wait_connected()).done()


@pytest.mark.parametrize("call", ["report", "use_approval", "watch_approval"])
async def test_a_connection_that_ends_during_a_call_makes_the_store_unreachable(call: str) -> None:
    """The caller gets an error, and is not cancelled."""
    uplink = Uplink()
    async with connected_store() as (store, channel):
        store.answering.clear()
        with uplink.connected(channel, METADATA):
            calls = {
                "report": uplink.report(REPORT),
                "use_approval": uplink.use_approval(USE),
                "watch_approval": states(uplink.watch_approval("a-1")),
            }
            asked = asyncio.create_task(calls.pop(call))
            for unused in calls.values():
                unused.close()
            await eventually(lambda: store.asked)
            await channel.close()
        with pytest.raises(StoreUnreachableError, match="the connection to the store ended"):
            await asked
        store.answering.set()


async def test_a_closed_channel_makes_the_store_unreachable() -> None:
    """Its owner has not left the `connected` block yet."""
    uplink = Uplink()
    async with connected_store() as (_, channel):
        with uplink.connected(channel, METADATA):
            await channel.close()
            with pytest.raises(StoreUnreachableError, match="ended"):
                await uplink.report(REPORT)
            with pytest.raises(StoreUnreachableError, match="ended"):
                await states(uplink.watch_approval("a-1"))


async def test_a_caller_that_is_cancelled_is_cancelled() -> None:
    """It does not get `StoreUnreachableError`."""
    uplink = Uplink()
    async with connected_store() as (store, channel):
        store.answering.clear()
        with uplink.connected(channel, METADATA):
            asked = asyncio.create_task(uplink.report(REPORT))
            await eventually(lambda: store.asked)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        store.answering.set()


@pytest.mark.parametrize(
    ("code", "of_report", "of_approval"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidReportError, UnknownApprovalError),
        (grpc.StatusCode.NOT_FOUND, StoreUnreachableError, UnknownApprovalError),
        (grpc.StatusCode.UNAVAILABLE, StoreUnreachableError, StoreUnreachableError),
        (grpc.StatusCode.UNAUTHENTICATED, StoreUnreachableError, StoreUnreachableError),
        (grpc.StatusCode.INTERNAL, StoreUnreachableError, StoreUnreachableError),
        (grpc.StatusCode.UNIMPLEMENTED, StoreUnreachableError, StoreUnreachableError),
    ],
)
async def test_errors_of_the_store_have_their_types(
    code: grpc.StatusCode, of_report: type[Exception], of_approval: type[Exception]
) -> None:
    """Permanent errors differ from temporary ones."""
    uplink = Uplink()
    async with connected_store() as (store, channel):
        with uplink.connected(channel, METADATA):
            store.faults = [code] * 3
            with pytest.raises(of_report, match="as the test has it"):
                await uplink.report(REPORT)
            with pytest.raises(of_approval, match="as the test has it"):
                await uplink.use_approval(USE)
            with pytest.raises(of_approval, match="as the test has it"):
                await states(uplink.watch_approval("a-1"))


async def test_taking_an_approval_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent waits for the answer."""
    monkeypatch.setattr(module, "USE_SECONDS", 0.05)
    uplink = Uplink()
    async with connected_store() as (store, channel):
        store.answering.clear()
        with uplink.connected(channel, METADATA), pytest.raises(StoreUnreachableError, match="DEADLINE_EXCEEDED"):
            await uplink.use_approval(USE)
        store.answering.set()


async def test_a_watch_that_is_left_ends_at_the_store() -> None:
    """No unused stream stays open."""
    uplink = Uplink()
    async with connected_store() as (store, channel):
        store.answering.clear()
        with uplink.connected(channel, METADATA):
            async with aclosing(uplink.watch_approval("a-1")) as watch:
                assert (await anext(watch)).state == pb.APPROVAL_STATE_PENDING
                assert store.watched == 1
            await eventually(lambda: store.watched == 0)
        store.answering.set()


async def test_a_cancellation_that_grpc_loses_is_not_an_outage() -> None:
    """A call that fails while it is cancelled cancels its caller, and does not look like an outage."""

    async def losing() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()) from None

    task = asyncio.create_task(module._awaited(losing(), {}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
