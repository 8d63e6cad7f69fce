"""Approvals in tests: decision records that ask for them, and a sidecar that uses them and waits for them."""

import asyncio
import hashlib
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from pdp.core.errors import Problems
from registry_store.approvals import opening, requests
from registry_store.database.tables import Approval
from registry_store.documents import canonical, instant
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.reporting import AGENT, decision
from tests.registry_store.serving import WAIT_SECONDS, Served

SERVICE = "/registry_store.v1.RegistrySync"


def record(
    *,
    agent_id: str = AGENT,
    approval_id: str | None = None,
    at: datetime | None = None,
    timeout: int = 3600,
    params: dict[str, Any] | None = None,
    outcome: str = "require_approval",
    mfa_required: bool = False,
    **action: Any,
) -> dict[str, Any]:
    """The record of a decision, made at `at`, by default now, that asks for an approval."""
    at = at or datetime.now(UTC)
    wanted = {"action_type": "transaction.process", "resource": "banking_api", **action}
    asked = decision(outcome, agent_id=agent_id, opens=approval_id or str(uuid.uuid4()), action=wanted)
    asked["decided_at"] = instant(at)
    asked["answer"] |= {
        "reason": "POLICY_MATCHED",
        "policy": {"id": "pol_1", "name": "High-Value Review", "priority": 10},
        "action_params": params or {},
        "mfa_required": mfa_required,
        "approval_expires_at": instant(at + timedelta(seconds=timeout)),
    }
    asked["opens"]["timeout_seconds"] = timeout
    return asked


def sha256(action: dict[str, Any]) -> bytes:
    return hashlib.sha256(canonical(action).encode()).digest()


def open_all(
    store: Served,
    *records: dict[str, Any],
    node_id: str = "node-1",
    at: datetime | None = None,
    escalation_team: str = "",
    merging: bool = False,
) -> list[str]:
    """Open what these records ask for, as a report of them does; returns the ids of what was opened.

    Only with `merging` is a question that is pending already asked once: most tests ask the same of the same store.
    """
    problems = Problems()
    read = [requests.read(one, f"records[{index}]", problems) for index, one in enumerate(records)]
    problems.raise_if_any()
    wanted = [request for request in read if request is not None]
    if not merging:
        wanted = [request._replace(demand_sha256=secrets.token_hex(32)) for request in wanted]

    async def work() -> list[Approval]:
        async with store.running._store.database.writing() as session:
            moment = at or datetime.now(UTC)
            return await opening.open_requested(session, node_id, wanted, moment, escalation_team)

    return [approval.approval_id for approval in store.run(work())]


def opened(store: Served, at: datetime | None = None, **fields: Any) -> str:
    """Open one approval at the instant at which it is asked for, by default now; returns its id."""
    at = at or datetime.now(UTC)
    (approval_id,) = open_all(store, record(at=at, **fields), at=at)
    return approval_id


class Sidecar:
    """A sidecar's calls about approvals."""

    def __init__(self, channel: grpc.aio.Channel, key: str | None) -> None:
        self._metadata = [("authorization", f"Bearer {key}")] if key else []
        self._use = channel.unary_unary(
            f"{SERVICE}/UseApproval",
            request_serializer=pb.UseApprovalRequest.SerializeToString,
            response_deserializer=pb.UseApprovalResponse.FromString,
        )
        self._find = channel.unary_unary(
            f"{SERVICE}/FindPendingApproval",
            request_serializer=pb.FindPendingApprovalRequest.SerializeToString,
            response_deserializer=pb.FindPendingApprovalResponse.FromString,
        )
        self._watch = channel.unary_stream(
            f"{SERVICE}/WatchApproval",
            request_serializer=pb.WatchApprovalRequest.SerializeToString,
            response_deserializer=pb.Approval.FromString,
        )

    async def use(
        self, approval_id: str, action: dict[str, Any] | None = None, **fields: Any
    ) -> pb.UseApprovalResponse:
        """The answer to one try to use an approval, by default for the action of `record()`."""
        action = action or record()["action"]
        request = {"agent_id": action["agent_id"], "action_sha256": sha256(action), "use_id": str(uuid.uuid4())}
        message = pb.UseApprovalRequest(approval_id=approval_id, **request | fields)
        answer = await self._use(message, metadata=self._metadata, timeout=WAIT_SECONDS)
        assert isinstance(answer, pb.UseApprovalResponse)
        return answer

    async def find(self, **fields: Any) -> pb.FindPendingApprovalResponse:
        """The pending approval of an action, if there is one."""
        request = pb.FindPendingApprovalRequest(**fields)
        answer = await self._find(request, metadata=self._metadata, timeout=WAIT_SECONDS)
        assert isinstance(answer, pb.FindPendingApprovalResponse)
        return answer

    def watch(self, approval_id: str) -> "Watching":
        """A stream of what becomes of an approval."""
        return Watching(self._watch(pb.WatchApprovalRequest(approval_id=approval_id), metadata=self._metadata))


class Watching:
    """A stream of what becomes of one approval."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def next(self) -> pb.Approval:
        async with asyncio.timeout(WAIT_SECONDS):
            message = await self.call.read()
        assert isinstance(message, pb.Approval), "the stream has ended"
        return message

    async def states(self) -> list[str]:
        """The states until the stream ends by itself."""
        found = []
        async with asyncio.timeout(WAIT_SECONDS):
            while (message := await self.call.read()) is not grpc.aio.EOF:
                found.append(state(message))
        return found

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """The status with which the store ends the stream."""
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or ""
            return await self.call.code(), await self.call.details()


def state(approval: pb.Approval) -> str:
    return pb.ApprovalState.Name(approval.state).removeprefix("APPROVAL_STATE_").lower()


def verdict(answer: pb.UseApprovalResponse) -> str:
    return pb.ApprovalUse.Name(answer.use).removeprefix("APPROVAL_USE_").lower()


@asynccontextmanager
async def sidecar(store: Served, key: str | None = None, role: str = "sidecar") -> AsyncIterator[Sidecar]:
    """A sidecar connected to the store, with a key of its own unless one is given."""
    async with grpc.aio.insecure_channel(store.running.grpc_address) as channel:
        yield Sidecar(channel, key or await asyncio.to_thread(store.key, role))
