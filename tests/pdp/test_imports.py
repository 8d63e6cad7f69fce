"""What a sidecar that serves has imported, because each module stays in its memory."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.programs import BIN, BOUND_SECONDS, serve_arguments
from tests.whole import AGENT, FINANCIAL, Http, store

UNUSED = frozenset(
    {"alembic", "cryptography", "fastapi", "jinja2", "opentelemetry", "pydantic", "sqlalchemy", "yaml"}
    | {"google.protobuf.descriptor_pb2", "grpc_reflection.v1alpha", "importlib.metadata", "zipfile"}
    | {"pdp.ask", "pdp.callers.agents_file", "pdp.core.explanation.explain", "pdp.dev"}
    | {"pdp.endpoints.explaining", "pdp.endpoints.openapi", "pdp.endpoints.openapi_connect", "pdp.endpoints.tracing"}
    | {"pdp.injector", "pdp.serving.monitoring.tracing", "registry_store.app"}
)
"""What only other commands, flags, pages or explanations need: libraries and modules that no decision needs."""

ACTION: dict[str, Any] = {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api", "risk_score": 10}


@asynccontextmanager
async def imports_told(*arguments: str) -> AsyncIterator[tuple[dict[str, list[str]], list[str]]]:
    """A sidecar that listens: its addresses, and a list that grows by each module that it imports."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", BIN / "pdp", *arguments, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    lines, imported, listening = process.stderr, [], asyncio.Future[dict[str, list[str]]]()

    async def read() -> None:
        async for line in lines:
            if line.startswith(b"import time:"):
                imported.append(line.decode().rpartition("|")[2].strip())
            elif b"listening" in line:
                listening.set_result(json.loads(line))

    reading = asyncio.create_task(read())
    try:
        yield await asyncio.wait_for(listening, BOUND_SECONDS), imported
        process.terminate()
        await asyncio.wait_for(reading, BOUND_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def test_a_sidecar_serves_without_what_it_does_not_need(tmp_path: Path) -> None:
    """Neither its start nor a decision over gRPC and HTTP imports what other commands, flags or pages need."""
    async with store(tmp_path) as central:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        async with imports_told(*serve_arguments(tmp_path, central.grpc_address)) as (addresses, imported):
            http = Http(addresses["http"])
            await http.until_probed(200)
            async with grpc.aio.insecure_channel(addresses["grpc"][0]) as channel:
                answer = await PolicyDecisionPointStub(channel).Evaluate(pb.EvaluateRequest(action=pb.Action(**ACTION)))
                assert answer.outcome == pb.OUTCOME_ALLOW
            assert (await http.call("POST", "/v1/evaluate", {"action": ACTION})).body["outcome"] == "allow"
            http.close()
    assert "pdp.decision_point" in imported
    assert {name for name in imported if any(f"{name}.".startswith(f"{one}.") for one in UNUSED)} == set()
