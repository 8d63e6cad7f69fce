"""The two ways to a sidecar: a gRPC channel that blocks, and one for each event loop of asyncio."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import grpc

from ascend import answers, messages, outcomes, settings
from ascend.model import Approval, Decision, Question
from ascend.registration import Registration
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub

# The client reconnects to a restarted sidecar within a second. `min_reconnect_backoff_ms` keeps its default: it limits
# the time to connect, and a sidecar may be busy for a moment without being down.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
OWN_CONNECTION = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
"""A channel with new certificates must not share the connection of the one before it."""


class BlockingTransport:
    """A `Transport` over a synchronous gRPC channel; its coroutines block and never suspend."""

    def __init__(self, checked: settings.Settings, registration: Registration) -> None:
        self._settings = checked
        self._registration = registration
        self._connect()

    def _connect(self) -> None:
        address, files = self._settings.address, self._settings.tls
        if files is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, files.credentials, options=OWN_CONNECTION)
        self._stub = PolicyDecisionPointStub(self._channel)

    def _current(self) -> PolicyDecisionPointStub:
        """The stub to call. After new certificates it is one of a new channel; calls under way keep the one before."""
        files = self._settings.tls
        if files is not None and files.renewed():
            self._connect()
        return self._stub

    async def decide(self, question: Question) -> Decision:
        try:
            answer = self._current().Evaluate(messages.request(question), timeout=self._settings.timeout)
        except Exception as error:
            return answers.without(error, self._settings.fail_mode)
        return answers.read(answer)

    async def watch(self, approval_id: str, seconds: float) -> AsyncIterator[Approval]:
        for update in self._current().WaitForApproval(
            pb.WaitForApprovalRequest(approval_id=approval_id), timeout=seconds
        ):
            yield messages.approval(update)

    async def report(self, outcome: pb.ReportOutcomeRequest) -> bool:
        try:
            # The sidecar takes an outcome once, so waiting for its restart can report nothing twice.
            self._current().ReportOutcome(outcome, timeout=self._settings.timeout, wait_for_ready=True)
        except Exception as error:
            outcomes.log_lost(outcome, error)
            return False
        return True

    async def register(self, agent_id: str) -> bool:
        return self._registration.possible(agent_id) and self._registration.attempt()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - to block is what this transport is for

    def now(self) -> float:
        return time.monotonic()

    async def close(self) -> None:
        self._channel.close()


class _Connection(NamedTuple):
    channel: grpc.aio.Channel
    stub: PolicyDecisionPointStub


class AsyncTransport:
    """A `Transport` over channels of grpc.aio: one for each event loop that uses it, opened at the first call there."""

    def __init__(self, checked: settings.Settings, registration: Registration) -> None:
        self._settings = checked
        self._registration = registration
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}
        self._closed = False

    async def decide(self, question: Question) -> Decision:
        try:
            request = messages.request(question)
            with _closing_is_an_error():
                answer = await self._stub().Evaluate(request, timeout=self._settings.timeout)
        except Exception as error:
            return answers.without(error, self._settings.fail_mode)
        return answers.read(answer)

    async def watch(self, approval_id: str, seconds: float) -> AsyncIterator[Approval]:
        with _closing_is_an_error():
            request = pb.WaitForApprovalRequest(approval_id=approval_id)
            async for update in self._stub().WaitForApproval(request, timeout=seconds):
                yield messages.approval(update)

    async def report(self, outcome: pb.ReportOutcomeRequest) -> bool:
        try:
            with _closing_is_an_error():
                # The sidecar takes an outcome once, so waiting for its restart can report nothing twice.
                await self._stub().ReportOutcome(outcome, timeout=self._settings.timeout, wait_for_ready=True)
        except Exception as error:
            outcomes.log_lost(outcome, error)
            return False
        return True

    async def register(self, agent_id: str) -> bool:
        return self._registration.possible(agent_id) and await asyncio.to_thread(self._registration.attempt)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    async def close(self) -> None:
        """Close the channel of this event loop, and open no other."""
        self._closed = True
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.channel.close()

    def _stub(self) -> PolicyDecisionPointStub:
        if self._closed:
            raise answers.ClientClosedError
        loop = asyncio.get_running_loop()
        files = self._settings.tls
        if files is not None and files.renewed():
            self._connections = {}  # calls under way keep their channel
        connection = self._connections.get(loop)
        if connection is None:
            self._connections = {one: open_ for one, open_ in self._connections.items() if not one.is_closed()}
            channel = self._channel()
            connection = self._connections[loop] = _Connection(channel, PolicyDecisionPointStub(channel))
        return connection.stub

    def _channel(self) -> grpc.aio.Channel:
        address, files = self._settings.address, self._settings.tls
        if files is None:
            return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(address, files.credentials, options=OWN_CONNECTION)


@contextmanager
def _closing_is_an_error() -> Iterator[None]:
    """Raise an error where grpc.aio ends a call as if its task was cancelled, because its channel is closed."""
    try:
        yield
    except grpc.aio.UsageError:
        raise answers.ClientClosedError from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise answers.ClientClosedError from None
