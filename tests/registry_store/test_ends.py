"""How streams end that are cut off as they begin."""

import asyncio

import grpc
import pytest

from registry_store.approval_feed import Watch
from registry_store.approval_service import ApprovalService
from registry_store.peers import Context
from registry_store.settings import Settings
from registry_store.sync_service import Pace
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.approving import opened, sidecar
from tests.registry_store.serving import in_thread, served, subscriber


async def test_a_wait_ends_also_while_its_first_message_is_on_its_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for an approval is told so, and not left to wait for ever."""

    async def until_time_is_up(_: ApprovalService, watch: Watch, context: Context) -> None:
        await watch.news()
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
