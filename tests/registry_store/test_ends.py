"""How streams end that are cut off as they begin, and that they go on after the store itself has stood still."""

import asyncio
from typing import Any

import grpc
import pytest

from registry_store.approvals.watching import Watch
from registry_store.rpc.approvals import ApprovalService
from registry_store.rpc.calls import Context
from registry_store.rpc.sync import Pace, _Stream
from registry_store.settings import Settings
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.approving import opened, sidecar
from tests.registry_store.serving import in_thread, served, subscriber


async def test_a_wait_ends_also_while_its_first_message_is_on_its_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for an approval is told so, and not left to wait for ever."""

    async def until_time_is_up(_: ApprovalService, watch: Watch, context: Context) -> None:
        await watch.next_status()
        writing = asyncio.create_task(context.write(pb.Approval()))
        await asyncio.sleep(0)  # it has begun
        writing.cancel()
        await asyncio.wait([writing])
        raise TimeoutError

    monkeypatch.setattr(ApprovalService, "_follow", until_time_is_up)
    with served(settings) as store:
        approval_id = await in_thread(opened, store)
        async with sidecar(store) as node:
            assert (await node.watch(approval_id).ended())[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_subscription_ends_also_while_its_first_message_is_on_its_way(settings: Settings) -> None:
    """Its time is up as soon as it has begun to write."""
    with served(settings, Pace(lifetime=(0.0, 0.0))) as store:
        async with subscriber(store.running.grpc_address, await in_thread(store.key, "sidecar")) as node:
            await node.hello()
            assert (await node.ended())[0] is grpc.StatusCode.OK


class StandingStill:
    """A call's context; the store stands still for two seconds while the first message is on its way."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        if self._first:
            self._first = False
            loop = asyncio.get_running_loop()
            written, now = loop.create_future(), loop.time

            def stand_still() -> None:
                loop.time = lambda: now() + 2  # type: ignore[method-assign]
                loop.call_soon(written.set_result, None)

            loop.call_soon(stand_still)
            await written


async def test_who_reads_is_not_dropped_because_the_store_stood_still(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a subscriber may take to read: the message was taken meanwhile."""
    begin: Any = _Stream.__init__
    monkeypatch.setattr(
        _Stream, "__init__", lambda self, service, context, *more: begin(self, service, StandingStill(context), *more)
    )
    with served(settings, Pace(silence=60.0)) as store:
        async with subscriber(store.running.grpc_address, await in_thread(store.key, "sidecar")) as node:
            await node.hello()
            assert (await node.snapshot()).records == []
            while (await node.read()).WhichOneof("message") != "heartbeat":
                pass
