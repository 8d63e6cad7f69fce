"""Calls by gRPC: over a channel that blocks, and over one for each event loop of asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import grpc

from ascend.calls.calls import SERVICE, CallError, ClientClosedError, Code
from ascend.calls.tls import Credentials, Files

# The client reconnects to a restarted sidecar within a second. `min_reconnect_backoff_ms` keeps its default: it limits
# the time to connect, and a sidecar may be busy for a moment without being down.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
OWN_CONNECTION = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
"""A channel with new certificates must not share the connection of the one before it."""


class BlockingGrpcCalls:
    """`Calls` over a synchronous channel; its coroutines block and never suspend."""

    def __init__(self, address: str, files: Files | None) -> None:
        self._address = address
        self._files = files
        self._connect()

    def _connect(self) -> None:
        if self._files is None:
            self._channel = grpc.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        else:
            credentials = _channel_credentials(self._files.credentials)
            self._channel = grpc.secure_channel(self._address, credentials, options=OWN_CONNECTION)

    def _current(self) -> grpc.Channel:
        """The channel to call on. After new certificates it is a new one; calls under way keep the one before."""
        if self._files is not None and self._files.renewed():
            self._connect()
        return self._channel

    async def unary(
        self, method: str, request: bytes, seconds: float, *, repeatable: bool = False, waits: bool = False
    ) -> bytes:
        with _errors():
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._current().unary_unary(_path(method))
            return call(request, timeout=seconds, wait_for_ready=waits)

    async def stream(self, method: str, request: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
        with _errors():
            call: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._current().unary_stream(_path(method))
            answers = call(request, timeout=seconds)
            try:
                for answer in answers:
                    yield answer
            finally:
                answers.cancel()

    async def close(self) -> None:
        self._channel.close()


class AsyncGrpcCalls:
    """`Calls` over channels of grpc.aio: one for each event loop that uses it, opened at the first call there."""

    def __init__(self, address: str, files: Files | None) -> None:
        self._address = address
        self._files = files
        self._channels: dict[asyncio.AbstractEventLoop, grpc.aio.Channel] = {}
        self._closed = False

    async def unary(
        self, method: str, request: bytes, seconds: float, *, repeatable: bool = False, waits: bool = False
    ) -> bytes:
        with _errors():
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel().unary_unary(_path(method))
            return await call(request, timeout=seconds, wait_for_ready=waits)

    async def stream(self, method: str, request: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
        with _errors():
            call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel().unary_stream(_path(method))
            answers = call(request, timeout=seconds)
            try:
                async for answer in answers:
                    yield answer
            finally:
                # grpc.aio ends the call of a task that is cancelled, unless the request has gone out just then.
                answers.cancel()

    async def close(self) -> None:
        """Close the channel of this event loop, and open no other."""
        self._closed = True
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.close()

    def _channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise ClientClosedError
        loop = asyncio.get_running_loop()
        if self._files is not None and self._files.renewed():
            self._channels = {}  # calls under way keep their channel
        channel = self._channels.get(loop)
        if channel is None:
            self._channels = {one: open_ for one, open_ in self._channels.items() if not one.is_closed()}
            channel = self._channels[loop] = self._new()
        return channel

    def _new(self) -> grpc.aio.Channel:
        if self._files is None:
            return grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        credentials = _channel_credentials(self._files.credentials)
        return grpc.aio.secure_channel(self._address, credentials, options=OWN_CONNECTION)


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"


def _channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.cert)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the errors of gRPC into those of `Calls`."""
    try:
        yield
    except grpc.RpcError as error:
        raise CallError(Code(error.code().name), error.details() or "") from None
    except (grpc.aio.UsageError, ValueError):
        raise ClientClosedError from None
    except asyncio.CancelledError:
        # So grpc.aio ends a call whose channel is closed, also if its task is not cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ClientClosedError from None
