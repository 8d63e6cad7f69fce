"""What goes up to the store beside the subscription, on the same connection, for as long as that lives."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc

from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncStub

REPORT_SECONDS = 30.0
USE_SECONDS = 2.0


class AwayError(Exception):
    """The store cannot be reached now; the text says why."""


class UnknownApprovalError(Exception):
    """The store knows of no such approval."""


class RefusedError(Exception):
    """The store finds a request malformed, and would do so again; the text is its own."""


class _Connection(NamedTuple):
    stub: RegistrySyncStub
    metadata: tuple[tuple[str, str], ...]


class Uplink:
    """Calls to the store while there is a connection; without one, and when it ends under a call, `AwayError`."""

    def __init__(self) -> None:
        self._connection: _Connection | None = None
        self._here = asyncio.Event()

    @contextmanager
    def connected(self, channel: grpc.aio.Channel, key: str) -> Iterator[None]:
        """Calls go over `channel`, under `key`, until the block is left."""
        self._connection = _Connection(RegistrySyncStub(channel), (("authorization", f"Bearer {key}"),))
        self._here.set()
        try:
            yield
        finally:
            self._connection = None
            self._here.clear()

    async def here(self) -> None:
        """Return once there is a connection."""
        await self._here.wait()

    async def report(self, request: pb.ReportDecisionsRequest) -> int:
        """The newest sequence that the store has kept. `RefusedError` where it finds a record malformed."""
        answer: pb.ReportDecisionsResponse = await self._ask(
            lambda stub, metadata: stub.ReportDecisions(request, metadata=metadata, timeout=REPORT_SECONDS),
            _OF_REPORTS,
        )
        return answer.sequence

    async def use_approval(self, request: pb.UseApprovalRequest) -> pb.UseApprovalResponse:
        """Takes an approval, within two seconds; `UnknownApprovalError` where nobody has asked for it."""
        answer: pb.UseApprovalResponse = await self._ask(
            lambda stub, metadata: stub.UseApproval(request, metadata=metadata, timeout=USE_SECONDS),
            _OF_APPROVALS,
        )
        return answer

    async def watch_approval(self, approval_id: str) -> AsyncIterator[pb.Approval]:
        """The approval, and each state that follows, until it is final; `UnknownApprovalError` as above."""
        request = pb.WatchApprovalRequest(approval_id=approval_id)
        call = self._started(lambda stub, metadata: stub.WatchApproval(request, metadata=metadata))
        try:
            while isinstance(approval := await _awaited(call.read(), _OF_APPROVALS), pb.Approval):
                yield approval
        finally:
            call.cancel()

    async def _ask(self, start: "Start", meanings: "Meanings") -> Any:
        return await _awaited(self._started(start), meanings)

    def _started(self, start: "Start") -> Any:
        if self._connection is None:
            raise AwayError("there is no connection to the store")
        try:
            return start(*self._connection)
        except grpc.aio.UsageError:  # the channel is closed, and whoever holds it has not come to say so
            raise AwayError(_ENDED) from None


Start = Callable[[Any, Any], Any]
Meanings = Mapping[grpc.StatusCode, type[Exception]]

_ENDED = "the connection to the store ended"
_OF_REPORTS: Meanings = {grpc.StatusCode.INVALID_ARGUMENT: RefusedError}
_OF_APPROVALS: Meanings = {
    grpc.StatusCode.NOT_FOUND: UnknownApprovalError,
    grpc.StatusCode.INVALID_ARGUMENT: UnknownApprovalError,  # it can be no approval's id
}


async def _awaited(answer: Any, meanings: Meanings) -> Any:
    try:
        return await answer
    except grpc.aio.AioRpcError as error:
        raise_if_cancelled()
        meaning = meanings.get(error.code())
        if meaning is None:
            raise AwayError(f"{error.code().name}: {error.details()}") from error
        raise meaning(error.details()) from error
    except asyncio.CancelledError:
        # A channel that is closed cancels its calls; whoever waits for one has not been cancelled for that.
        raise_if_cancelled()
        raise AwayError(_ENDED) from None


def raise_if_cancelled() -> None:
    """Raise `CancelledError` if this task has been cancelled, which a call may have hidden.

    grpc.aio loses a cancellation that comes while a call that fails is still being set up: `read` awaits a task of its
    own that ends as if nothing had happened. The event loop remembers it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
