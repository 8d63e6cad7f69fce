"""A sidecar's reports: records in batches, or as JSON as earlier sidecars wrote them, chained and sent over gRPC."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from pdp.core.ids import DecisionIds
from pdp.log_format import batches
from pdp.log_format.old_documents import from_json
from pdp.v1 import log_pb2
from registry_store.documents import canonical, instant
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.serving import WAIT_SECONDS, Served, in_own_loop

AGENT = "finance-transaction-processor-prod"
GENESIS = bytes(32)
IDS = DecisionIds(secrets.randbits)
RISKS = {"allow": 10, "require_approval": 50, "block": 50, "escalate": 95}
REASONS = {
    "allow": ("RISK_BELOW_AUTO_APPROVE", "risk 10 is below 30"),
    "require_approval": ("RISK_NEEDS_APPROVAL", "risk 50 is within 30 to 80, where a person approves"),
    "block": ("RESOURCE_BLOCKED", "resource `ledger` is blocked for this agent"),
    "escalate": ("RISK_ABOVE_MAXIMUM", "risk 95 is above the maximum of 80"),
}


ACTION: dict[str, Any] = {
    "agent_id": AGENT,
    "action_type": "database.read",
    "resource": "ledger",
    "resource_id": "",
    "risk_score": None,
    "amount": None,
    "estimated_cost_usd": None,
    "data_classifications": [],
    "mcp_server": "",
    "tool": "",
    "environment": "",
    "attributes": {},
    "mfa_verified": False,
}
ANSWER: dict[str, Any] = {
    "outcome": "",
    "reason": "",
    "message": "",
    "decision_id": "",
    "risk_score": 0,
    "mfa_required": False,
    "policy": None,
    "action_params": {},
    "shadow": [],
    "rate_remaining": {"minute": 99, "hour": 999, "day": 9999},
    "budget_remaining_usd": None,
    "retry_after": None,
    "approval_id": None,
    "approval_expires_at": None,
    "approval_pending": False,
    "agent_version": "1.1.0",
    "registry_revision": 4,
    "staleness": 0.2,
    "source": "live",
}


def decision(
    outcome: str = "allow",
    *,
    agent_id: str = AGENT,
    at: datetime | None = None,
    opens: str | None = None,
    action: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The record of a decision made at `at`, by default now; `opens`: the id of the approval that it opens."""
    at = at or datetime.now(UTC)
    asked = ACTION | {"agent_id": agent_id} | (action or {})
    decision_id = new_id(at) if at < datetime.now(UTC) - timedelta(hours=1) else IDS.next(at.timestamp())
    digest = hashlib.sha256(canonical(asked).encode()).hexdigest()
    answer = ANSWER | {
        "outcome": outcome,
        "reason": REASONS[outcome][0],
        "message": REASONS[outcome][1],
        "decision_id": decision_id,
        "risk_score": RISKS[outcome],
        "action_params": params or {},
        "approval_id": opens,
        "approval_expires_at": instant(at + timedelta(hours=1)) if opens else None,
    }
    return {
        "decision_id": decision_id,
        "repeat_of": None,
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


def new_id(at: datetime | None = None) -> str:
    """An id of this time, by default now, also where a later one was given already."""
    return DecisionIds(secrets.randbits).next((at or datetime.now(UTC)).timestamp())


def gap(first: int, last: int, records: int | None = None) -> dict[str, Any]:
    """The record that says that those from `first` to `last` had to give way."""
    said = {"first_sequence": first, "last_sequence": last, "records": records or last - first + 1}
    return {"gap": said | {"at": instant(datetime.now(UTC))}}


def ended(decided: dict[str, Any], result: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """The record of the outcome of a decision, by default a second later and at its estimate."""
    made = {
        "decision_id": decided["decision_id"],
        "agent_id": decided["action"]["agent_id"],
        "activations": 0,
        "approval_id": "",
        "decided_at": decided["decided_at"],
        "reported_at": instant(datetime.fromisoformat(decided["decided_at"]) + timedelta(seconds=1)),
        "result": result,
        "charged_micros": decided["cost_micros"],
        "actual_cost_micros": None,
        "error": "",
    }
    return {"outcome": made | fields}


def suspended(agent_id: str, trigger: str, activations: int = 0, **figures: Any) -> dict[str, Any]:
    """The record of a sidecar that suspended an agent."""
    made = {"agent_id": agent_id, "activations": activations, "trigger": trigger, "figures": figures}
    return {"suspension": made | {"at": instant(datetime.now(UTC))}}


Said = dict[str, Any] | log_pb2.LogRecord | bytes
"""A record: as JSON, as a message, or serialized."""


def record_of(said: dict[str, Any] | log_pb2.LogRecord) -> log_pb2.LogRecord:
    """The record of a document."""
    return said if isinstance(said, log_pb2.LogRecord) else from_json(said)


class Log:
    """The decision log of one sidecar."""

    def __init__(self, node_id: str = "node-1", sequence: int = 0, last_hash: bytes = GENESIS) -> None:
        self.node_id = node_id
        self.sequence = sequence
        self.hash = last_hash

    def records(self, *documents: dict[str, Any] | bytes) -> list[pb.DecisionRecord]:
        """The next records."""
        return [self._next(each if isinstance(each, bytes) else canonical(each).encode()) for each in documents]

    def old_report(self, *documents: dict[str, Any] | bytes) -> pb.ReportDecisionsRequest:
        """The next records, as a sidecar from before there were batches reports them."""
        return pb.ReportDecisionsRequest(node_id=self.node_id, records=self.records(*documents))

    def batch(self, *said: Said) -> pb.ChainedBatch:
        """The next records as a batch."""
        records = [one if isinstance(one, bytes) else record_of(one).SerializeToString() for one in said]
        made = batches.sealed(self.hash, self.sequence + 1, records)
        self.sequence, self.hash = made.last, made.hash
        return pb.ChainedBatch(content=made.content, previous_hash=made.previous_hash, hash=made.hash)

    def report(self, *said: Said) -> pb.ReportDecisionsRequest:
        """The next records, as they are reported: in one batch."""
        return pb.ReportDecisionsRequest(node_id=self.node_id, batches=[self.batch(*said)])

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
        return (await self.answer(request)).sequence

    async def answer(self, request: pb.ReportDecisionsRequest) -> pb.ReportDecisionsResponse:
        """The store's answer."""
        answer = await self._report(request, metadata=self._metadata, timeout=WAIT_SECONDS)
        assert isinstance(answer, pb.ReportDecisionsResponse)
        return answer

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


def tell_usage_as_of(at: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time of what REST tells of usage stand, so that no minute or day ends after what is reported."""
    monkeypatch.setattr("registry_store.rest.resources.usage.datetime", SimpleNamespace(now=lambda _zone: at))


def report(store: Served, *said: Said, log: Log | None = None, key: str | None = None) -> int:
    """Report these decisions from outside of any loop."""
    request = (log or Log(f"node-{secrets.token_hex(4)}")).report(*said)

    async def work() -> int:
        async with reporter(store, key) as sidecar:
            return await sidecar.send(request)

    return in_own_loop(work())
