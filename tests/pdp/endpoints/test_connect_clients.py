"""The Connect protocol by the programs of others: Connect's client for Node.js, and curl."""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from grpc_tools import protoc

from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.deciding import Bench
from tests.given import agent
from tests.pdp.endpoints.test_http import port
from tests.waiting import BOUND_SECONDS

NODE = Path(__file__).parent / "node"
PROTOS = Path(__file__).parents[3] / "protos"
CALL = "/pdp.v1.PolicyDecisionPoint/Evaluate"
ACTION = {"agentId": "billing-reader-test", "actionType": "api.read", "riskScore": 10}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


def needs(*paths: str | Path) -> None:
    """Skips the test if a program or folder is missing; in CI, which skips nothing, it fails."""
    missing = [path for path in paths if not (path.exists() if isinstance(path, Path) else shutil.which(path))]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{missing[0]} is missing: make packages")
    if missing:
        pytest.skip(f"{missing[0]} is missing: make packages")


def descriptors(folder: Path) -> Path:
    """A file with the descriptors of the service and of what it imports, as protoc writes them."""
    written = folder / "descriptors"
    paths = (f"--proto_path={PROTOS}", f"--proto_path={resources.files('grpc_tools') / '_proto'}")
    found = protoc.main(["", *paths, "--include_imports", f"--descriptor_set_out={written}", "pdp/v1/decision.proto"])
    assert found == 0
    return written


async def test_connects_client_for_node_gets_every_answer(bench: Bench, tmp_path: Path) -> None:
    """In protobuf, and in JSON with gzip: decisions, a batch, an explanation, an error, a stream of states."""
    needs("node", NODE / "node_modules")
    for approval_id in ("true", "false"):
        bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_PENDING)
    async with port(bench) as http, asyncio.timeout(BOUND_SECONDS):
        process = await asyncio.create_subprocess_exec(
            "node",
            "calls.mjs",
            http.address,
            descriptors(tmp_path),
            cwd=NODE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        for number, approval_id in enumerate(("true", "false")):
            one, batch, explained, refused, pending = [await printed(process) for _ in range(5)]
            assert (one["outcome"], one["rateRemaining"]["minute"]) == ("OUTCOME_ALLOW", str(4 - number))
            assert [result["response"]["outcome"] for result in batch["results"]] == ["OUTCOME_ALLOW"] * 100
            assert explained["decision"]["reason"] == "REASON_RISK_BELOW_AUTO_APPROVE"
            assert refused["code"] == "InvalidArgument"
            assert refused["message"].startswith("action.risk_score: ")
            assert (pending["approvalId"], pending["state"]) == (approval_id, "APPROVAL_STATE_PENDING")
            bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_APPROVED, decided_by="ann")
            assert (await printed(process))["decidedBy"] == "ann"
        assert await process.wait() == 0


async def printed(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


def curl_arguments() -> Iterator[tuple[list[str], bytes]]:
    """Of curl: JSON on the command line, and protobuf with a time and an answer that may be compressed."""
    yield ["-H", "content-type: application/json", "-d", json.dumps({"action": ACTION})], b""
    message = pb.EvaluateRequest(action=pb.Action(agent_id="billing-reader-test", action_type="api.read"))
    head = ["-H", "content-type: application/proto", "-H", "connect-timeout-ms: 60000", "--compressed"]
    yield [*head, "--data-binary", "@-"], message.SerializeToString()


async def test_curl_gets_decisions(bench: Bench) -> None:
    """In JSON, and in protobuf."""
    needs("curl")
    answers = []
    async with port(bench) as http, asyncio.timeout(BOUND_SECONDS):
        for arguments, sent in curl_arguments():
            process = await asyncio.create_subprocess_exec(
                "curl",
                "-sS",
                "--fail",
                f"http://{http.address}{CALL}",
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            answers.append((await process.communicate(sent))[0])
    assert json.loads(answers[0])["outcome"] == "OUTCOME_ALLOW"
    assert pb.EvaluateResponse.FromString(answers[1]).outcome == pb.OUTCOME_REQUIRE_APPROVAL
