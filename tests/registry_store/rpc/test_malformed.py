"""Malformed gRPC messages: refused without a key before they are parsed, with a key as malformed."""

import asyncio

import grpc
import pytest

from tests.registry_store.serving import WAIT_SECONDS, Served, in_thread

SERVICE = "/registry_store.v1.RegistrySync"
METHODS = ["ReportDecisions", "UseApproval", "WatchApproval", "Sync"]
MALFORMED = b"\xff\xff\xff\xff"
TIMES = 50


def status(channel: grpc.Channel, method: str, key: str | None) -> tuple[grpc.StatusCode, str]:
    """How the store ends a call whose message is malformed.

    Not by grpc.aio: there a write that comes after the end of the call turns the status into INTERNAL.
    """
    metadata = [("authorization", f"Bearer {key}")] if key else []
    try:
        if method in ("ReportDecisions", "UseApproval"):
            channel.unary_unary(f"{SERVICE}/{method}")(MALFORMED, metadata=metadata, timeout=WAIT_SECONDS)
        else:
            next(
                channel.stream_stream(f"{SERVICE}/{method}")(iter([MALFORMED]), metadata=metadata, timeout=WAIT_SECONDS)
            )
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the store took it")


@pytest.mark.parametrize("method", METHODS)
async def test_without_a_key_a_message_is_not_even_read(
    fresh: Served, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """UNAUTHENTICATED, and nothing in the log, however many come."""
    with grpc.insecure_channel(fresh.running.grpc_address) as channel:
        calls = [in_thread(status, channel, method, None) for _ in range(TIMES)]
        codes = {code for code, _ in await asyncio.gather(*calls)}
    assert codes == {grpc.StatusCode.UNAUTHENTICATED}
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


@pytest.mark.parametrize("method", METHODS)
async def test_a_malformed_message_is_an_invalid_argument(
    fresh: Served, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says which message it should be; nothing is logged."""
    key = await in_thread(fresh.key, "sidecar")
    with grpc.insecure_channel(fresh.running.grpc_address) as channel:
        code, why = await in_thread(status, channel, method, key)
    name = "SidecarMessage" if method == "Sync" else f"{method}Request"
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, f"the message is not a `registry_store.v1.{name}`")
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
