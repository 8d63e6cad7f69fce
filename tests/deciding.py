"""A decision point for tests: the test sets the records and moves the clocks."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from pdp import wire
from pdp.asking import NOTHING_KNOWN, Approving
from pdp.core.action import Action
from pdp.core.model import Now, RecordKind, Source, StaleMode
from pdp.decision_log.record import Entry, record
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.decision_log.spool import Spool
from pdp.endpoints.service import DecisionService
from pdp.log_format import documents
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, build
from pdp.sync.uplink import StoreUnreachableError, UnknownApprovalError, UnknownDecisionError, UnsupportedCallError
from pdp.v1 import decision_pb2 as pb
from pdp.v1 import log_pb2
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from registry_store.v1 import sync_pb2
from tests.given import NOON

SMALL_WINDOW = ("grpc.http2.bdp_probe", 0)
"""Without the probe the client's window stays at its least, 64 KiB, and is soon full."""


class Kept:
    """A decision log that the test reads: its entries, and how many of them were urgent."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.urgent = 0
        self.full = False
        self.crowded = False

    async def room(self) -> None:
        """There is always room."""

    def append(self, entry: Entry, *, urgent: bool) -> None:
        self.entries.append(entry)
        self.urgent += urgent


def request_in(entry: Entry) -> wire.Request:
    """The request of a decision in the log."""
    return wire.read_request(pb.EvaluateRequest.FromString(entry.request))


def answer_in(entry: Entry) -> pb.EvaluateResponse:
    """The answer of a decision in the log."""
    return pb.EvaluateResponse.FromString(entry.answer)


def record_in(entry: Entry, redact: Redaction = NOTHING) -> log_pb2.LogRecord:
    """The record of a decision as the log writes it."""
    return log_pb2.LogRecord.FromString(record(entry, redact))


def shown(entry: Entry, redact: Redaction = NOTHING) -> dict[str, Any]:
    """The JSON that people read of the record of a decision."""
    return documents.document(record_in(entry, redact))


def entry_of(action: Action, answer: pb.EvaluateResponse, **changes: Any) -> Entry:
    """The entry of a decision about `action` as it was made at noon in 0.1 ms; `changes` by the names of its fields."""
    request = wire.Request(action, **{name: changes.pop(name) for name in wire.Request._fields if name in changes})
    written, made = wire.write_request(request), answer.SerializeToString()
    return Entry(written, made, NOON, 0.0001, has_attributes=bool(action.attributes))._replace(**changes)


class People:
    """The store's answers about approvals, as the test sets them; each approval in `granted` is granted once."""

    def __init__(self) -> None:
        self.granted: set[str] = set()
        self.states: dict[str, sync_pb2.Approval] = {}
        self.changed = asyncio.Event()
        self.present = True
        self.asked: list[sync_pb2.UseApprovalRequest] = []
        self.decisions: dict[str, sync_pb2.FindDecisionResponse] = {}
        self.sought: list[sync_pb2.FindPendingApprovalRequest] = []
        self.pending: sync_pb2.Approval | None = None
        self.old = False

    def say(
        self,
        approval_id: str,
        state: "sync_pb2.ApprovalState",
        *,
        agent_id: str = "billing-reader-test",
        **fields: Any,
    ) -> None:
        """From now on the approval of this agent is in this state."""
        self.states[approval_id] = sync_pb2.Approval(approval_id=approval_id, agent_id=agent_id, state=state, **fields)
        self.changed.set()

    def go(self, *, present: bool) -> None:
        """The store goes away, or comes back."""
        self.present = present
        self.changed.set()

    async def use_approval(self, request: sync_pb2.UseApprovalRequest) -> sync_pb2.UseApprovalResponse:
        self.asked.append(request)
        self._check(request.approval_id, request.approval_id in self.granted)
        if request.approval_id in self.granted:
            approval = sync_pb2.Approval(decided_by="ann", comment="checked")
            return sync_pb2.UseApprovalResponse(use=sync_pb2.APPROVAL_USE_GRANTED, approval=approval)
        approval = self.states[request.approval_id]
        if approval.agent_id != request.agent_id or approval.state == sync_pb2.APPROVAL_STATE_APPROVED:
            return sync_pb2.UseApprovalResponse(use=sync_pb2.APPROVAL_USE_MISMATCH, approval=approval)
        return sync_pb2.UseApprovalResponse(use=sync_pb2.APPROVAL_USE_NOT_APPROVED, approval=approval)

    async def find_pending_approval(
        self, request: sync_pb2.FindPendingApprovalRequest
    ) -> sync_pb2.FindPendingApprovalResponse:
        self.sought.append(request)
        if self.old:
            raise UnsupportedCallError
        self._check("", True)
        known = self.states.get(request.opened_approval_id)
        is_pending = known is not None and known.state == sync_pb2.APPROVAL_STATE_PENDING
        pending = known if is_pending else self.pending
        return sync_pb2.FindPendingApprovalResponse(approval=pending, opened_is_known=known is not None)

    async def watch_approval(self, approval_id: str) -> AsyncGenerator[sync_pb2.Approval]:
        while True:
            self.changed.clear()
            self._check(approval_id, False)
            yield self.states[approval_id]
            await self.changed.wait()

    async def find_decision(self, decision_id: str) -> sync_pb2.FindDecisionResponse:
        if not self.present:
            raise StoreUnreachableError("the store is away")
        if decision_id not in self.decisions:
            raise UnknownDecisionError(decision_id)
        return self.decisions[decision_id]

    async def wait_connected(self) -> None:
        while not self.present:
            self.changed.clear()
            await self.changed.wait()

    def _check(self, approval_id: str, known: bool) -> None:
        if not self.present:
            raise StoreUnreachableError("the store is away")
        if not known and approval_id not in self.states:
            raise UnknownApprovalError(approval_id)


class Bench:
    """A decision service with records, clocks and approvals from the test, and a log that the test can read."""

    def __init__(self, spool: Spool | None = None, agents: Sequence[str] = ()) -> None:
        self.now = Now(NOON, 1_000_000.0)
        self.holder = Holder()
        self.metrics = Metrics(agents)
        self.log = Kept()
        self.people = People()
        self.service = DecisionService(self.holder, self.metrics, lambda: self.now, spool or self.log, self.people)
        self._revision = 0

    def pass_seconds(self, seconds: float) -> None:
        """Move both clocks on."""
        self.now = Now(self.now.wall + seconds, self.now.boot + seconds)

    def age(self, mode: StaleMode | None) -> None:
        """Let the registry data be older than allowed, in this mode; None: the store confirms it now."""
        self.holder.max_staleness, self.holder.stale_mode = (None, StaleMode.BLOCK) if mode is None else (60.0, mode)
        self.holder.confirm(self.now.boot - (0.0 if mode is None else 61.0))

    def evaluate(self, request: wire.Request, approving: Approving = NOTHING_KNOWN) -> pb.EvaluateResponse:
        """The answer of the decision point."""
        return pb.EvaluateResponse.FromString(self.service.point.evaluate(request, approving))

    def put(self, *agents: dict[str, Any], servers: list[dict[str, Any]] | None = None) -> None:
        """Put these agents and MCP servers in force, and nothing else."""
        self._revision += 1
        records = [RawRecord(RecordKind.AGENT, one["agent_id"], json.dumps(one).encode()) for one in agents]
        records += [
            RawRecord(RecordKind.MCP_SERVER, one["server_name"], json.dumps(one).encode()) for one in servers or []
        ]
        state, refused = build(records, "epoch", self._revision)
        assert not refused, refused
        self.holder.swap(state, Source.LIVE)
        self.holder.confirm(self.now.boot)


@asynccontextmanager
async def listening(service: DecisionService) -> AsyncIterator[str]:
    """The service behind a real gRPC server on a free port: its address."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def served(service: DecisionService, *options: tuple[str, int]) -> AsyncIterator[PolicyDecisionPointStub]:
    """A stub that calls the service, as it listens, over a channel with `options`."""
    async with listening(service) as address, grpc.aio.insecure_channel(address, options=options) as channel:
        yield PolicyDecisionPointStub(channel)
