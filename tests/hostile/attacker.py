"""The common parts of attacks: the target, the findings, and a way to send arbitrary bytes."""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from pdp.v1 import decision_pb2 as pdp_pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.hostile.installation import HONEST, SUSPENDED, Target

CALL_SECONDS = 30
EXCHANGE_SECONDS = 10
MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024
FORBIDDEN_CODES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
OF_THE_CLIENT = ("RST_STREAM", "Internal error from Core")
"""What gRPC's client makes of a call that the server ended before all of it was sent."""
ALLOWED_REPEATS = 100


@dataclass
class Tally:
    """What an attack was given and what it found."""

    decisions: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    calls: int = 0

    def saw(self, holds: bool, finding: str) -> None:
        self.calls += 1
        if not holds:
            self.findings.append(finding[:500])

    def decided(self, response: pdp_pb.EvaluateResponse, agent_id: str) -> None:
        self.decisions.append(response.decision_id)
        is_allow = response.outcome == pdp_pb.OUTCOME_ALLOW
        self.saw(not (is_allow and agent_id == SUSPENDED), f"{SUSPENDED} was allowed: {response.decision_id}")


@dataclass
class Attacker:
    """One attack under way: whom it is against, its chances, and until when."""

    target: Target
    tally: Tally
    random: random.Random
    until: float

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    @asynccontextmanager
    async def sidecar(self) -> AsyncIterator[PolicyDecisionPointStub]:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 64 << 20)]
        async with grpc.aio.insecure_channel(self.target.grpc, options=options) as channel:
            yield PolicyDecisionPointStub(channel)

    @asynccontextmanager
    async def raw(self, address: str) -> AsyncIterator[Callable[..., Awaitable[grpc.StatusCode]]]:
        """Calls a method with bytes, and gives the status; INTERNAL and UNKNOWN are findings."""
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:

            async def call(method: str, raw: bytes, metadata: Any = ()) -> grpc.StatusCode:
                code, details = await _status(channel, method, raw, metadata)
                has_reason = (
                    code not in FORBIDDEN_CODES or "RST_STREAM" in details or details == "Internal error from Core"
                )
                self.tally.saw(has_reason, f"{method} answered {code.name}, {details}, to {raw[:80]!r}")
                return code

            yield call

    async def post(self, address: str, path: str, body: bytes, *headers: str) -> tuple[int, bytes]:
        """One POST on a connection of its own: the status and the answer, (0, b"") where there is none."""
        head = [f"POST {path} HTTP/1.1", f"Host: {address}", "Connection: close", f"Content-Length: {len(body)}"]
        request = "\r\n".join([*head, *headers, "", ""]).encode() + body
        status, answer = await exchange(address, request)
        self.tally.saw(status not in (500, 502), f"POST {path} answered {status} to {body[:80]!r}")
        return status, answer

    async def post_json(self, body: bytes, *headers: str) -> tuple[int, bytes]:
        """A body to `/v1/evaluate`; a decision in the answer is taken note of."""
        status, answer = await self.post(self.target.http, "/v1/evaluate", body, *headers)
        self.tally.saw(len(answer) <= MAX_ANSWER_BYTES, f"an answer of {len(answer)} bytes to {len(body)}")
        if status == 200:
            self.tally.decisions.append(json.loads(answer)["decision_id"])
        return status, answer


async def exchange(address: str, request: bytes) -> tuple[int, bytes]:
    """The status and body of the first answer to raw bytes; (0, b"") where the peer only closes, or says nothing."""
    host, port = address.rsplit(":", 1)
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(EXCHANGE_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port), limit=MAX_HEAD_BYTES)
            try:
                with suppress(OSError):  # it may refuse before it has read all
                    writer.write(request)
                    await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
                body = await (reader.readexactly(int(length[1])) if length else reader.read())
            finally:
                writer.close()
        return int(head[9:12]), body
    return 0, b""


async def _status(channel: grpc.aio.Channel, method: str, raw: bytes, metadata: Any) -> tuple[grpc.StatusCode, str]:
    call = channel.stream_stream(method)(metadata=metadata, timeout=CALL_SECONDS)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(raw)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code(), await call.details() or ""


def action(agent_id: str = HONEST, **fields: Any) -> pdp_pb.EvaluateRequest:
    values = {"action_type": "api.read", "resource": "data", "risk_score": 1} | fields
    return pdp_pb.EvaluateRequest(action=pdp_pb.Action(agent_id=agent_id, **values))


Attack = Callable[[Attacker], Awaitable[None]]
