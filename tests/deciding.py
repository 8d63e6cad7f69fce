"""A decision point in a test: records put in force by hand, and clocks that stand until they are moved."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from pdp.core.model import Now
from pdp.metrics import Metrics
from pdp.service import DecisionService
from pdp.state import Holder, Kind, RawRecord, Source, build
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub

NOON = 1_795_176_000.0
"""Friday 2026-11-20, 12:00 UTC."""


class Bench:
    """A decision service whose records and clocks the test sets."""

    def __init__(self) -> None:
        self.now = Now(NOON, 1_000_000.0)
        self.holder = Holder()
        self.metrics = Metrics()
        self.service = DecisionService(self.holder, self.metrics, lambda: self.now)
        self._revision = 0

    def pass_seconds(self, seconds: float) -> None:
        """Move both clocks on."""
        self.now = Now(self.now.wall + seconds, self.now.boot + seconds)

    def put(self, *agents: dict[str, Any], servers: list[dict[str, Any]] | None = None) -> None:
        """Put these agents and MCP servers in force, and nothing else."""
        self._revision += 1
        records = [RawRecord(Kind.AGENT, one["agent_id"], json.dumps(one).encode()) for one in agents]
        records += [RawRecord(Kind.MCP_SERVER, one["server_name"], json.dumps(one).encode()) for one in servers or []]
        state, refused = build(records, "epoch", self._revision)
        assert not refused, refused
        self.holder.swap(state, Source.LIVE)
        self.holder.confirm(self.now.boot)


def agent(agent_id: str = "billing-reader-test", **fields: Any) -> dict[str, Any]:
    """An active agent without rate limits, as the store would send it."""
    limits = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")}
    about = {"agent_id": agent_id, "display_name": agent_id, "status": "active", "version": "1.0.0"}
    return about | limits | fields


@asynccontextmanager
async def served(service: DecisionService, *options: tuple[str, int]) -> AsyncIterator[PolicyDecisionPointStub]:
    """The service behind a real gRPC server on a free port, and a stub that calls it over a channel with `options`."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield PolicyDecisionPointStub(channel)
    finally:
        await server.stop(None)
