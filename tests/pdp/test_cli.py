"""The command line, as processes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.ports import reserved
from tests.programs import NOWHERE, run, serve_arguments, started
from tests.waiting import BOUND_SECONDS, eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE, Http, settings, sidecar, store


async def test_serve_decides_and_sigterm_drains_it(tmp_path: Path) -> None:
    """On SIGTERM the probe says no, the open stream is still answered, and the exit code is 0."""
    async with store(tmp_path) as central, AsyncExitStack() as life:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        arguments = [*serve_arguments(tmp_path, central.grpc_address), "--drain-seconds=3600"]
        program = await life.enter_async_context(started("pdp", *arguments))
        addresses = await program.logged("listening")
        http = Http(addresses["http"])
        await http.until_probed(200)
        async with grpc.aio.insecure_channel(addresses["grpc"][0]) as channel:
            call = PolicyDecisionPointStub(channel).EvaluateStream()
            action = pb.Action(agent_id=AGENT, action_type="api.read", resource="banking_api", risk_score=10)
            request = pb.EvaluateStreamRequest(sequence=1, request=pb.EvaluateRequest(action=action))
            await call.write(request)
            assert (await call.read()).result.response.outcome == pb.OUTCOME_ALLOW
            program.process.terminate()
            draining = await http.until_probed(503)
            await call.write(request)
            assert (await call.read()).result.response.outcome == pb.OUTCOME_ALLOW
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        http.close()
        assert await program.stopped() == 0
    assert draining.body == {"status": "draining"}


async def test_a_sidecar_keeps_answering_when_its_store_is_killed(tmp_path: Path) -> None:
    """SIGKILL closes the store's sockets and nothing else."""
    database = f"--database=sqlite:///{tmp_path / 'registry.db'}"
    made = await run("registry-store", "keys", "create", "--role=sidecar", "--name=test", database)
    assert made.code == 0, made
    key_file = tmp_path / "sidecar.key"
    key_file.touch(0o600)
    key_file.write_text(made.out)
    async with store(tmp_path) as central:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
    async with AsyncExitStack() as life:
        address = life.enter_context(reserved())
        serve = ["serve", database, "--http=127.0.0.1:0", f"--grpc={address}"]
        program = await life.enter_async_context(started("registry-store", *serve))
        beside = await life.enter_async_context(sidecar(settings(tmp_path, address)))
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
        program.process.kill()
        await program.process.wait()
        await eventually_gives(
            beside.samples,
            lambda samples: samples["pdp_sync_state", (("pdp_sync_state", "disconnected"),)] == 1,
        )
        assert await beside.reason(risk_score=10) == "RISK_BELOW_AUTO_APPROVE"


async def test_each_stale_mode_works_when_the_store_is_killed(tmp_path: Path) -> None:
    """Up to the bound every answer stays the same, and beyond it every answer follows the mode."""
    database, key_file = f"--database=sqlite:///{tmp_path / 'registry.db'}", tmp_path / "sidecar.key"
    made = await run("registry-store", "keys", "create", "--role=sidecar", "--name=test", database)
    async with store(tmp_path) as central:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
    key_file.touch(0o600)
    key_file.write_text(made.out)
    fresh = ("allow", "RISK_BELOW_AUTO_APPROVE")
    modes = {"serve": fresh, "escalate": ("escalate", "REGISTRY_STALE"), "block": ("block", "REGISTRY_STALE")}
    async with AsyncExitStack() as life:
        address = life.enter_context(reserved())
        serve = ["serve", database, "--http=127.0.0.1:0", f"--grpc={address}"]
        central_program = await life.enter_async_context(started("registry-store", *serve))
        asked = {}
        for mode in modes:
            own = [f"--data-dir={tmp_path / mode}", "--max-staleness=3", f"--stale-mode={mode}"]
            program = await life.enter_async_context(started("pdp", *serve_arguments(tmp_path, address), *own))
            asked[mode] = (await program.logged("listening"))["http"]
            await _standing(asked[mode], "live")
        central_program.process.kill()
        await central_program.process.wait()
        for mode, stale in modes.items():
            async for answer in _until_older(asked[mode], 3):
                expected = stale if answer["staleness"] > 3 else fresh
                assert (answer["outcome"], answer["reason"]) == expected, answer
            await _standing(asked[mode], "stale")


async def _until_older(address: str, seconds: float) -> AsyncIterator[dict[str, Any]]:
    """Answers to one action after the other, up to the first whose staleness is above `seconds`."""
    action = {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api", "risk_score": 10}
    http, staleness = Http(address), 0.0
    async with asyncio.timeout(BOUND_SECONDS):
        while staleness <= seconds:
            answer = (await http.call("POST", "/v1/evaluate", {"action": action, "dry_run": True})).body
            staleness = answer["staleness"]
            yield answer
            await asyncio.sleep(0.02)
    http.close()


async def _standing(address: str, standing: str) -> None:
    http = Http(address)
    ready = await eventually_gives(
        lambda: http.call("GET", "/readyz"), lambda answer: answer.body.get("registry") == standing
    )
    assert (ready.status, ready.body["status"]) == (200, "ready")
    http.close()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ("--store=nowhere", "pdp: `--store`: `nowhere` is not HOST:PORT"),
        ("--agents=agent-a", "pdp: `--agents`: exactly one of `--agents`, `--tags` and `--all-agents` is required"),
        ("--key-file=/nonexistent", "pdp: `--key-file`: cannot read `/nonexistent`: No such file or directory"),
        ("--listen=x", "pdp: `--listen`: `x` is not unix:PATH or HOST:PORT"),
        ("--listen=unix:/nonexistent/pdp.sock", "pdp: `--listen`: cannot use `/nonexistent/pdp.sock`: No such file"),
        ("--drain-seconds=x", "pdp: Invalid value for '--drain-seconds'"),
        ("--log-level=loud", "pdp: Invalid value for '--log-level'"),
        ("--data-dir=/dev/null/x", "pdp: `--data-dir`: cannot use `/dev/null/x`: Not a directory"),
        ("--redact=a..b", "pdp: `--redact`: `a..b` is not a dotted path, as `customer.ssn` or `cards.*.number`"),
        ("--log-bytes=1", "pdp: `--log-bytes`: `1` is not within 1048576 to 68719476736"),
        ("--log-full=wait", "pdp: Invalid value for '--log-full'"),
        ("--max-staleness=x", "pdp: Invalid value for '--max-staleness'"),
        ("--max-staleness=-1", "pdp: `--max-staleness`: `-1` is not above 0 and at most 2592000"),
        ("--stale-mode=never", "pdp: Invalid value for '--stale-mode'"),
        ("--stale-mode=serve", "pdp: `--stale-mode`: requires `--max-staleness`"),
        ("--surprise", "pdp: No such option"),
    ],
)
async def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path, replaced: str, message: str) -> None:
    """The line names the setting and its valid values."""
    ended = await run("pdp", *serve_arguments(tmp_path), replaced)
    assert ended.code == 2
    assert ended.err.startswith(message), ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out


async def test_a_port_in_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """A second sidecar does not start."""
    async with sidecar(settings(tmp_path, NOWHERE)) as beside:
        grpc_address, http_address = beside.sidecar.grpc_address, beside.sidecar.http_address
        second = await run("pdp", *serve_arguments(tmp_path), f"--listen={grpc_address}")
        third = await run("pdp", *serve_arguments(tmp_path), f"--http={http_address}")
    assert (second.code, third.code) == (2, 2)
    assert second.err == f"pdp: `--listen`: `{grpc_address}` is in use by another process\n"
    assert third.err == f"pdp: `--http`: `{http_address}` is in use by another process\n"


async def test_every_option_is_an_environment_variable(tmp_path: Path) -> None:
    """If both are given, the option wins."""
    options = dict(part.removeprefix("--").partition("=")[::2] for part in serve_arguments(tmp_path)[1:])
    environment = {f"PDP_{name.upper().replace('-', '_')}": value or "1" for name, value in options.items()}
    async with started("pdp", "serve", **environment) as program:
        assert (await program.logged("listening"))["grpc"]
        assert await program.stopped() == 0
    ended = await run("pdp", "serve", "--store=wrong", **environment)
    assert (ended.code, ended.err) == (2, "pdp: `--store`: `wrong` is not HOST:PORT\n")


async def test_evaluate_asks_a_sidecar(tmp_path: Path) -> None:
    """It prints lines for people or JSON for programs; a dry run counts nothing."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        await beside.until("RISK_BELOW_AUTO_APPROVE", risk_score=10)
        target = f"--target={beside.sidecar.grpc_address}"
        common = ["evaluate", target, "--timeout=3600", f"--agent={AGENT}", "--resource=banking_api"]
        output = await run("pdp", *common, "--action=api.read", "--risk=10", "--dry-run")
        as_json = await run("pdp", *common, "--action=api.read", "--risk=85", "--json")
        full = await run(
            "pdp", *common, "--action=api.read", "--amount=3.5", "--cost=0.25", "--mcp-server=files", "--tool=rm",
            "--environment=production", "--data-classification=pii", "--data-classification=secret",
            '--attributes={"a": {"b": 1}}', "--mfa-verified", "--idempotency-key=k", "--resource-id=7", "--json",
        )  # fmt: skip
        malformed = await run("pdp", *common, "--action=api.read", "--amount=nan")
        not_json = await run("pdp", *common, "--action=api.read", "--attributes=[1]")
    assert output.code == 0
    assert output.out.startswith("allow · RISK_BELOW_AUTO_APPROVE\n")
    assert "100 this minute" in output.out
    answer = json.loads(as_json.out)
    assert (answer["outcome"], answer["reason"]) == ("escalate", "RISK_ABOVE_MAXIMUM")
    assert json.loads(full.out)["reason"] == "MCP_SERVER_NOT_REGISTERED"
    assert (malformed.code, malformed.out) == (2, "")
    assert "action.amount" in malformed.err
    assert not_json.code == 2
    assert "Invalid value for '--attributes' (env var: 'PDP_ATTRIBUTES'): it is not a JSON object" in not_json.err


@pytest.mark.parametrize("command", ["evaluate", "explain"])
@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ("{", "it is not JSON: "),
        ("[" * 100_000, "it is not JSON: it is nested too deep"),
        ('{"amount": 1, "amount": 2}', "it is not JSON: duplicate name `amount` in an object"),
        ('{"amount": NaN}', "it is not JSON: `NaN` is not a JSON number"),
        ("null", "it is not a JSON object"),
    ],
)
async def test_ambiguous_attributes_are_refused(command: str, attributes: str, why: str) -> None:
    """As at the sidecar's JSON endpoint, and before a sidecar is called."""
    output = await run("pdp", command, f"--agent={AGENT}", "--action=api.read", f"--attributes={attributes}")
    assert (output.code, output.out) == (2, "")
    assert f"Invalid value for '--attributes' (env var: 'PDP_ATTRIBUTES'): {why}" in output.err


async def test_explain_shows_what_led_to_a_decision(tmp_path: Path) -> None:
    """For people stage by stage with what would allow; for programs the same in JSON; nothing is counted."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        path = f"/api/agents/registry/{AGENT}/policies"
        assert (await central.rest.call("POST", path, HIGH_VALUE)).status == 201
        await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=15000)
        action = [f"--agent={AGENT}", "--action=transaction.process", "--resource=banking_api", "--amount=15000"]
        target = f"--target={beside.sidecar.grpc_address}"
        action.append("--timeout=3600")
        output = await run("pdp", "explain", target, *action)
        as_json = await run("pdp", "explain", target, *action, "--json")
        malformed = await run("pdp", "explain", target, "--agent=x", "--action=api.read")
        counted = await beside.evaluate(risk_score=10)
    assert output.code == 0
    assert "require_approval" in output.out
    assert "amount_above" in output.out
    explanation = json.loads(as_json.out)
    assert explanation["decision"]["reason"] == "POLICY_MATCHED"
    policy = explanation["policies"][0]
    assert (policy["policy"]["name"], policy["outcome"], policy["decided"]) == (
        "High-Value Transaction Review",
        "require_approval",
        True,
    )
    assert {one["operator"]: one["held"] for one in policy["conditions"]} == {
        "action_type": True,
        "amount_above": True,
    }
    assert "decided" in {stage["verdict"] for stage in explanation["stages"]}
    assert (malformed.code, malformed.err.count("\n")) == (2, 1)
    assert counted.rate_remaining.minute == 99


async def test_evaluate_without_a_sidecar_is_exit_code_1() -> None:
    """The line says that there is no decision."""
    asked = ["evaluate", "--agent=agent-a", "--action=api.read", "--timeout=3600"]
    ended = await run("pdp", *asked, PDP_ADDRESS=NOWHERE)
    assert ended.code == 1
    assert ended.err.startswith("pdp: UNAVAILABLE: ")
    assert ended.err.count("\n") == 1


WITHOUT_EXTRAS = """
import sys
sys.argv[0] = "pdp"

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sqlalchemy", "fastapi", "pydantic", "alembic", "aiosqlite", "yaml", "rich"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import ascend, pdp.app
from pdp.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        (["serve", "--help"], 0, "--data-dir"),
        (["dev"], 2, "is not installed: pip install 'agent-pdp[store]'\n"),
    ],
)
def test_the_base_install_is_enough_for_a_sidecar_and_a_client(command: list[str], code: int, shown: str) -> None:
    """Without the extras the client and the sidecar run, and `pdp dev` says in one line what it lacks."""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code, ended
    assert shown in ended.stdout + ended.stderr
