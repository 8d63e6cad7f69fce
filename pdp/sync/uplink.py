"""Calls to the store beside the subscription, on the same connection while it lasts."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import grpc

from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncStub

REPORT_SECONDS = 30.0
USE_SECONDS = 2.0
FIND_SECONDS = 0.5
"""A decision waits for this; without an answer it opens an approval, and the store sees whether one is pending."""


Metadata: TypeAlias = tuple[tuple[str, str], ...]


class StoreUnreachableError(Exception):
    """The store cannot be reached now; the text says why."""


class UnknownApprovalError(Exception):
    """The store knows no such approval."""


class UnknownDecisionError(Exception):
    """The store has no such decision."""


class ForeignDecisionError(Exception):
    """The decision is of an agent outside the scope of the key."""


class UnsupportedCallError(Exception):
    """The store is older than this sidecar and does not know the call."""


class InvalidReportError(Exception):
    """The store refuses a report as malformed, and would refuse it again; the text is the store's."""


class _Connection(NamedTuple):
    stub: RegistrySyncStub
    metadata: Metadata


class Uplink:
    """Calls to the store; `StoreUnreachableError` without a connection, and if it ends during a call."""

    def __init__(self) -> None:
        self._connection: _Connection | None = None
        self._is_connected = asyncio.Event()

    @contextmanager
    def connected(self, channel: grpc.aio.Channel, metadata: Metadata) -> Iterator[None]:
        """Calls use `channel` and `metadata` until the block is left."""
        self._connection = _Connection(RegistrySyncStub(channel), metadata)
        self._is_connected.set()
        try:
            yield
        finally:
            self._connection = None
            self._is_connected.clear()

    async def wait_connected(self) -> None:
        """Return once there is a connection."""
        await self._is_connected.wait()

    async def report(self, request: pb.ReportDecisionsRequest) -> pb.ReportDecisionsResponse:
        """Sends batches; how far the store has the log, and what of it is refused. `InvalidReportError`: malformed."""
        answer: pb.ReportDecisionsResponse = await self._ask(
            lambda stub, metadata: stub.ReportDecisions(request, metadata=metadata, timeout=REPORT_SECONDS),
            _REPORT_ERRORS,
        )
        return answer

    async def use_approval(self, request: pb.UseApprovalRequest) -> pb.UseApprovalResponse:
        """Uses an approval, within two seconds; `UnknownApprovalError` if the store does not know it."""
        answer: pb.UseApprovalResponse = await self._ask(
            lambda stub, metadata: stub.UseApproval(request, metadata=metadata, timeout=USE_SECONDS),
            _APPROVAL_ERRORS,
        )
        return answer

    async def find_decision(self, decision_id: str) -> pb.FindDecisionResponse:
        """Whose decision it is, within two seconds; `UnknownDecisionError` or `ForeignDecisionError` as above."""
        request = pb.FindDecisionRequest(decision_id=decision_id)
        answer: pb.FindDecisionResponse = await self._ask(
            lambda stub, metadata: stub.FindDecision(request, metadata=metadata, timeout=USE_SECONDS),
            _DECISION_ERRORS,
        )
        return answer

    async def find_pending_approval(self, request: pb.FindPendingApprovalRequest) -> pb.FindPendingApprovalResponse:
        """The approval of an action that waits for people, within half a second; `UnsupportedCallError` if too old."""
        answer: pb.FindPendingApprovalResponse = await self._ask(
            lambda stub, metadata: stub.FindPendingApproval(request, metadata=metadata, timeout=FIND_SECONDS),
            _FIND_ERRORS,
        )
        return answer

    async def watch_approval(self, approval_id: str) -> AsyncGenerator[pb.Approval]:
        """The approval, and each state that follows, until it is final; `UnknownApprovalError` as above."""
        request = pb.WatchApprovalRequest(approval_id=approval_id)
        call = self._started(lambda stub, metadata: stub.WatchApproval(request, metadata=metadata))
        try:
            while isinstance(approval := await _awaited(call.read(), _APPROVAL_ERRORS), pb.Approval):
                yield approval
        finally:
            call.cancel()

    async def _ask(self, start: "Start", error_types: "ErrorTypes") -> Any:
        return await _awaited(self._started(start), error_types)

    def _started(self, start: "Start") -> Any:
        if self._connection is None:
            raise StoreUnreachableError("there is no connection to the store")
        try:
            return start(*self._connection)
        except grpc.aio.UsageError:  # the channel is closed, but its owner has not left the `connected` block yet
            raise StoreUnreachableError(_ENDED) from None


Start = Callable[[Any, Any], Any]
ErrorTypes = Mapping[grpc.StatusCode, type[Exception]]

_ENDED = "the connection to the store ended"
_REPORT_ERRORS: ErrorTypes = {grpc.StatusCode.INVALID_ARGUMENT: InvalidReportError}
_DECISION_ERRORS: ErrorTypes = {
    grpc.StatusCode.NOT_FOUND: UnknownDecisionError,
    grpc.StatusCode.PERMISSION_DENIED: ForeignDecisionError,
}
_FIND_ERRORS: ErrorTypes = {grpc.StatusCode.UNIMPLEMENTED: UnsupportedCallError}
_APPROVAL_ERRORS: ErrorTypes = {
    grpc.StatusCode.NOT_FOUND: UnknownApprovalError,
    grpc.StatusCode.INVALID_ARGUMENT: UnknownApprovalError,  # the id is invalid
}


async def _awaited(answer: Any, error_types: ErrorTypes) -> Any:
    try:
        return await answer
    except grpc.aio.AioRpcError as error:
        raise_if_cancelled()
        error_type = error_types.get(error.code())
        if error_type is None:
            raise StoreUnreachableError(f"{error.code().name}: {error.details()}") from error
        raise error_type(error.details()) from error
    except asyncio.CancelledError:
        # A closed channel cancels its calls; the waiting task itself is not cancelled by that.
        raise_if_cancelled()
        raise StoreUnreachableError(_ENDED) from None


def raise_if_cancelled() -> None:
    """Raise `CancelledError` if this task has been cancelled, which a call may have hidden.

    grpc.aio loses a cancellation that arrives while a failing call is still being set up: `read` awaits a separate task
    that ends normally. The event loop remembers the cancellation.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
