"""`pdp dev`: everything in one process, and the README's commands against it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.programs import BIN, BOUND_SECONDS, run
from tests.waiting import eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Http

FREE = ("--registry=127.0.0.1:0", "--store=127.0.0.1:0", "--listen=127.0.0.1:0", "--http=127.0.0.1:0")


@asynccontextmanager
async def development(*arguments: str) -> AsyncIterator[dict[str, str]]:
    """`pdp dev` on free ports: what it prints as it starts; SIGTERM at the end, and its exit code is 0."""
    process = await asyncio.create_subprocess_exec(
        BIN / "pdp", "dev", *FREE, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        printed = {}
        async with asyncio.timeout(BOUND_SECONDS):
            while "admin key" not in printed:
                name, _, value = (await process.stdout.readline()).decode().partition("  ")
                printed[name] = value.split()[0].removeprefix("http://")
        yield printed
        process.terminate()
        async with asyncio.timeout(BOUND_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_registered_agent_is_decided_at_once() -> None:
    """The four answers of the README, with the unchanged examples."""
    async with development() as printed:
        registry = Http(printed["registry"], printed["admin key"])
        endpoint = Http(printed["sidecar HTTP"])
        assert (await registry.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        path = f"/api/agents/registry/{AGENT}/policies"
        assert (await registry.call("POST", path, HIGH_VALUE)).status == 201

        async def evaluate(**action: object) -> tuple[str, str, dict[str, object]]:
            answer = await endpoint.call("POST", "/v1/evaluate", {"action": {"agent_id": AGENT} | action})
            return answer.body["outcome"], answer.body["reason"], answer.body["action_params"]

        await eventually_gives(
            lambda: evaluate(action_type="transaction.process", resource="banking_api", amount=15000),
            lambda answer: (
                answer
                == ("require_approval", "POLICY_MATCHED", {"approvers": ["finance-approvers"], "timeout_seconds": 3600})
            ),
        )
        answers = [
            (await evaluate(action_type="api.read", resource=resource, risk_score=risk))[:2]
            for resource, risk in (("banking_api", 10), ("banking_api", 85), ("production_secrets", 10))
        ]
        registry.close()
        endpoint.close()
        asked = ["evaluate", f"--agent={AGENT}", "--action=api.read", "--timeout=3600"]
        output = await run("pdp", *asked, PDP_TARGET=printed["sidecar gRPC"])
    assert answers == [
        ("allow", "RISK_BELOW_AUTO_APPROVE"),
        ("escalate", "RISK_ABOVE_MAXIMUM"),
        ("block", "RESOURCE_BLOCKED"),
    ]
    assert output.out.startswith("block · RESOURCE_NOT_ALLOWED\n")


async def test_a_folder_keeps_the_registry_and_its_keys(tmp_path: Path) -> None:
    """The second start has the same key, and the agent of the first."""
    async with development(f"--dir={tmp_path / 'dev'}") as first:
        registry = Http(first["registry"], first["admin key"])
        assert (await registry.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        registry.close()
    async with development(f"--dir={tmp_path / 'dev'}") as second:
        registry = Http(second["registry"], second["admin key"])
        assert (await registry.call("GET", f"/api/agents/registry/{AGENT}")).status == 200
        registry.close()
    assert second["admin key"] == first["admin key"]
    assert (tmp_path / "dev" / "admin.key").stat().st_mode & 0o777 == 0o600


async def test_a_port_in_use_is_one_line_and_exit_code_2() -> None:
    """The line names the option, not the registry's setting."""
    async with development() as first:
        for option, name in (("--registry", "registry"), ("--store", "registry gRPC")):
            ended = await run("pdp", "dev", *FREE, f"{option}={first[name]}")
            assert (ended.code, ended.err.count("\n")) == (2, 1), ended
            assert ended.err.startswith(f"pdp: `{option}`: cannot listen on `{first[name]}`: ")
