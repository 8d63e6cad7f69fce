"""gRPC messages that are none: nobody reads them who has no key, and whoever has one is told so."""

import asyncio

import grpc
import pytest

from tests.registry_store.serving import WAIT_SECONDS, Served, in_thread

SERVICE = "/registry_store.v1.RegistrySync"
METHODS = ["ReportDecisions", "UseApproval", "WatchApproval", "Sync"]
MALFORMED = b"\xff\xff\xff\xff"
TIMES = 50


async def status(channel: grpc.aio.Channel, method: str, key: str | None) -> tuple[grpc.StatusCode, str]:
    """How the store ends a call whose message is malformed."""
    metadata = [("authorization", f"Bearer {key}")] if key else []
    unary = method in ("ReportDecisions", "UseApproval")
    try:
        if unary:
            await channel.unary_unary(f"{SERVICE}/{method}")(MALFORMED, metadata=metadata, timeout=WAIT_SECONDS)
        else:
            call = channel.stream_stream(f"{SERVICE}/{method}")(metadata=metadata, timeout=WAIT_SECONDS)
            await call.write(MALFORMED)
            await call.read()
            return await call.code(), await call.details()
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the store took it")


@pytest.mark.parametrize("method", METHODS)
async def test_without_a_key_a_message_is_not_even_read(
    fresh: Served, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """UNAUTHENTICATED, and nothing in the log, however many come."""
    async with grpc.aio.insecure_channel(fresh.running.grpc_address) as channel:
        codes = {code for code, _ in await asyncio.gather(*(status(channel, method, None) for _ in range(TIMES)))}
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


@pytest.mark.parametrize("method", METHODS)
async def test_a_malformed_message_is_an_invalid_argument(
    fresh: Served, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says which message it should be; nothing is logged."""
    key = await in_thread(fresh.key, "sidecar")
    async with grpc.aio.insecure_channel(fresh.running.grpc_address) as channel:
        code, why = await status(channel, method, key)
    name = "SidecarMessage" if method == "Sync" else f"{method}Request"
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, f"the message is not a `registry_store.v1.{name}`")
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
