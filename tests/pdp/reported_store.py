"""A store over real gRPC that keeps reported decisions and gives the answers that a test sets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from pdp.log_format.batches import Batch, opened
from pdp.v1 import log_pb2
from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncServicer, add_RegistrySyncServicer_to_server
from tests.pdp.decision_log.chains import Kept

Context = grpc.aio.ServicerContext[object, object]

METADATA = (("authorization", "Bearer owkai_up"),)


class ReportedStore(RegistrySyncServicer):  # type: ignore[misc]  # the generated class has no annotations
    """Keeps decisions; aborts with the next of `faults` first, and always where it finds a record malformed.

    It keeps the batches of refused records, and names these in its answer.
    """

    def __init__(self) -> None:
        self.kept = Kept()
        self.batches: list[list[int]] = []
        self.node_ids: set[str] = set()
        self.keys: set[str] = set()
        self.faults: list[grpc.StatusCode] = []
        self.malformed: Callable[[int, log_pb2.LogRecord], bool] = lambda sequence, record: False
        self.refused: Callable[[int, log_pb2.LogRecord], bool] = lambda sequence, record: False
        self.answering = asyncio.Event()
        self.answering.set()
        self.complaint = ""
        """What it says of every report; empty: nothing."""
        self.asked = 0
        self.watched = 0
        self.loses_answer = False
        self.states = [pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_APPROVED]

    async def ReportDecisions(  # noqa: N802 - gRPC's name
        self, request: pb.ReportDecisionsRequest, context: Context
    ) -> pb.ReportDecisionsResponse:
        self.asked += 1
        self.keys.add(str(dict(context.invocation_metadata() or ()).get("authorization")))
        self.node_ids.add(request.node_id)
        if self.faults:
            await context.abort(self.faults.pop(0), "as the test has it")
        if self.complaint:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.complaint)
        read = [opened(batch.content) for batch in request.batches]
        numbered = [one for batch in read for one in enumerate(batch.records, batch.first_sequence)]
        for place, batch in enumerate(read):
            if any(self.malformed(*one) for one in enumerate(batch.records, batch.first_sequence)):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"batches[{place}].content: is malformed")
        self.batches.append([sequence for sequence, _ in numbered])
        kept = self.kept.take(
            Batch(one.first_sequence, 0, batch.content, batch.previous_hash, batch.hash)
            for one, batch in zip(read, request.batches, strict=True)
        )
        refused = [
            pb.RefusedRecord(sequence=one[0], problem="as the test has it") for one in numbered if self.refused(*one)
        ]
        if self.loses_answer:
            self.loses_answer = False
            await context.abort(grpc.StatusCode.UNAVAILABLE, "kept, and not said so")
        await self.answering.wait()
        return pb.ReportDecisionsResponse(sequence=kept, refused=refused)

    async def UseApproval(  # noqa: N802 - gRPC's name
        self, request: pb.UseApprovalRequest, context: Context
    ) -> pb.UseApprovalResponse:
        self.asked += 1
        if self.faults:
            await context.abort(self.faults.pop(0), "as the test has it")
        await self.answering.wait()
        return pb.UseApprovalResponse(
            use=pb.APPROVAL_USE_GRANTED, approval=pb.Approval(approval_id=request.approval_id)
        )

    async def WatchApproval(  # noqa: N802 - gRPC's name
        self, request: pb.WatchApprovalRequest, context: Context
    ) -> AsyncIterator[pb.Approval]:
        self.asked += 1
        if self.faults:
            await context.abort(self.faults.pop(0), "as the test has it")
        self.watched += 1
        try:
            for state in self.states:
                yield pb.Approval(approval_id=request.approval_id, state=state)
                await self.answering.wait()
        finally:
            self.watched -= 1


@asynccontextmanager
async def reported() -> AsyncIterator[tuple[ReportedStore, str]]:
    """Such a store on a free port, and its address."""
    server, store = grpc.aio.server(), ReportedStore()
    add_RegistrySyncServicer_to_server(store, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield store, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def connected_store() -> AsyncIterator[tuple[ReportedStore, grpc.aio.Channel]]:
    """Such a store, and a channel to it."""
    async with reported() as (store, address), grpc.aio.insecure_channel(address) as channel:
        yield store, channel
