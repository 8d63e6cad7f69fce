"""A store over real gRPC that keeps reported decisions and gives the answers that a test sets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc

from pdp.decision_log.segments import Record
from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncServicer, add_RegistrySyncServicer_to_server
from tests.pdp.decision_log.chains import Kept

Context = grpc.aio.ServicerContext[object, object]

METADATA = (("authorization", "Bearer owkai_up"),)


class ReportedStore(RegistrySyncServicer):  # type: ignore[misc]  # the generated class has no annotations
    """Keeps decisions; aborts with the next of `faults` first, and always where it finds a record malformed."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.batches: list[list[int]] = []
        self.node_ids: set[str] = set()
        self.keys: set[str] = set()
        self.faults: list[grpc.StatusCode] = []
        self.malformed: Callable[[pb.DecisionRecord], bool] = lambda record: False
        self.answering = asyncio.Event()
        self.answering.set()
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
        if any(map(self.malformed, request.records)):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "records[0].document: is malformed")
        self.batches.append([record.sequence for record in request.records])
        sequence = self.kept.take(
            Record(record.sequence, record.document, record.previous_hash, record.hash) for record in request.records
        )
        if self.loses_answer:
            self.loses_answer = False
            await context.abort(grpc.StatusCode.UNAVAILABLE, "kept, and not said so")
        await self.answering.wait()
        return pb.ReportDecisionsResponse(sequence=sequence)

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
