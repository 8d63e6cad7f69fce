"""A sidecar's reports: decision records as `pdp.record` writes them, chained and sent over real gRPC."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from pdp.core.ids import DecisionIds
from registry_store.documents import canonical, instant
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.serving import WAIT_SECONDS, Served, in_own_loop

AGENT = "finance-transaction-processor-prod"
GENESIS = bytes(32)
IDS = DecisionIds(secrets.randbits)
REASONS = {
    "allow": "RISK_BELOW_AUTO_APPROVE",
    "require_approval": "RISK_NEEDS_APPROVAL",
    "block": "ACTION_NOT_ALLOWED",
    "escalate": "RISK_ABOVE_MAXIMUM",
}


def decision(
    outcome: str = "allow",
    *,
    agent_id: str = AGENT,
    at: datetime | None = None,
    opens: str | None = None,
    action: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The record of a decision made at `at`, by default now; `opens`: the id of the approval that it opens."""
    at = at or datetime.now(UTC)
    asked = {"agent_id": agent_id, "action_type": "database.read", "resource": "ledger", **(action or {})}
    decision_id = IDS.next(at.timestamp()) if at > datetime.now(UTC) - timedelta(hours=1) else old_id(at)
    digest = hashlib.sha256(canonical(asked).encode()).hexdigest()
    answer = {
        "outcome": outcome,
        "reason": REASONS[outcome],
        "message": f"decided to {outcome}",
        "decision_id": decision_id,
        "risk_score": 10,
        "policy": None,
        "action_params": {},
        "approval_id": opens,
        "approval_expires_at": instant(at + timedelta(hours=1)) if opens else None,
    }
    return {
        "decision_id": decision_id,
        "decided_at": instant(at),
        "latency_seconds": 0.000021,
        "dry_run": False,
        "idempotency_key": "",
        "approval_id": "",
        "action": asked,
        "answer": answer,
        "cost_micros": 0,
        "opens": {"approval_id": opens, "action_sha256": digest, "timeout_seconds": 3600} if opens else None,
        **fields,
    }


def old_id(at: datetime) -> str:
    """An id of that time, also where a later one was given already."""
    return DecisionIds(secrets.randbits).next(at.timestamp())


def gap(first: int, last: int, records: int | None = None) -> dict[str, Any]:
    """The record that says that those from `first` to `last` had to give way."""
    said = {"first_sequence": first, "last_sequence": last, "records": records or last - first + 1}
    return {"gap": said | {"at": instant(datetime.now(UTC))}}


class Log:
    """The decision log of one sidecar."""

    def __init__(self, node_id: str = "node-1", sequence: int = 0, last_hash: bytes = GENESIS) -> None:
        self.node_id = node_id
        self.sequence = sequence
        self.hash = last_hash

    def records(self, *documents: dict[str, Any] | bytes) -> list[pb.DecisionRecord]:
        """The next records."""
        return [self._next(each if isinstance(each, bytes) else canonical(each).encode()) for each in documents]

    def report(self, *documents: dict[str, Any] | bytes) -> pb.ReportDecisionsRequest:
        """The next records, as they are reported."""
        return pb.ReportDecisionsRequest(node_id=self.node_id, records=self.records(*documents))

    def copy(self) -> "Log":
        """The same log on another machine."""
        return Log(self.node_id, self.sequence, self.hash)

    def _next(self, document: bytes) -> pb.DecisionRecord:
        before = self.hash
        self.sequence += 1
        self.hash = hashlib.sha256(before + self.sequence.to_bytes(8, "big") + document).digest()
        return pb.DecisionRecord(sequence=self.sequence, document=document, previous_hash=before, hash=self.hash)


class Reporter:
    """A sidecar's end of `ReportDecisions`."""

    def __init__(self, channel: grpc.aio.Channel, key: str | None) -> None:
        self._metadata = [("authorization", f"Bearer {key}")] if key else []
        self._report = channel.unary_unary(
            "/registry_store.v1.RegistrySync/ReportDecisions",
            request_serializer=pb.ReportDecisionsRequest.SerializeToString,
            response_deserializer=pb.ReportDecisionsResponse.FromString,
        )

    async def send(self, request: pb.ReportDecisionsRequest) -> int:
        """The sequence up to which the store says that all is kept."""
        answer = await self._report(request, metadata=self._metadata, timeout=WAIT_SECONDS)
        assert isinstance(answer, pb.ReportDecisionsResponse)
        return answer.sequence

    async def refused(self, request: pb.ReportDecisionsRequest) -> tuple[grpc.StatusCode, str]:
        """The status with which the store refuses the report."""
        try:
            await self.send(request)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        raise AssertionError("it was taken")


@asynccontextmanager
async def reporter(store: Served, key: str | None = None, role: str = "sidecar") -> AsyncIterator[Reporter]:
    """A sidecar connected to the store, with a key of its own unless one is given."""
    async with grpc.aio.insecure_channel(store.running.grpc_address) as channel:
        yield Reporter(channel, key or await asyncio.to_thread(store.key, role))


def report(store: Served, *documents: dict[str, Any] | bytes, log: Log | None = None, key: str | None = None) -> int:
    """Report these decisions from outside of any loop."""
    request = (log or Log(f"node-{secrets.token_hex(4)}")).report(*documents)

    async def work() -> int:
        async with reporter(store, key) as sidecar:
            return await sidecar.send(request)

    return in_own_loop(work())
