"""The agents of `examples/` against a `pdp dev`, with a person who approves."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ascend import AscendClient, Registry
from tests import console
from tests.project.test_docs import need_jq
from tests.waiting import BOUND_SECONDS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text()
AGENT: dict[str, Any] = json.loads((EXAMPLES / "financial-agent.json").read_text())
POLICY: dict[str, Any] = json.loads((EXAMPLES / "high-value-policy.json").read_text())


def until(holds: Callable[[], object]) -> None:
    """Returns once `holds()` is true; fails when it is not within the bound."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def dev() -> Iterator[console.Dev]:
    """A registry and a sidecar that know the agent and its policy, as after the commands of the README."""
    with console.dev() as running, Registry(f"http://{running.registry}", running.key) as registry:
        registry.register(**AGENT)
        registry.add_policy(AGENT["agent_id"], **POLICY)
        with AscendClient("", AGENT["agent_id"], "", pdp_address=running.sidecar_grpc, timeout=BOUND_SECONDS) as client:
            payment = {"amount": 15_000, "dry_run": True}
            until(lambda: client.evaluate_action("transaction.process", "banking_api", **payment).policy)
        yield running


@contextmanager
def agent(name: str, dev: console.Dev) -> Iterator["subprocess.Popen[str]"]:
    """A running agent, whose output is read as it comes."""
    environment = os.environ | {"PDP_ADDRESS": dev.sidecar_grpc, "PYTHONUNBUFFERED": "1"}
    program = [sys.executable, EXAMPLES / name]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def pending(dev: console.Dev) -> list[Any]:
    with Registry(f"http://{dev.registry}", dev.key) as registry:
        return list(registry.approvals(status="pending"))


def test_the_agent_of_the_readme_waits_for_a_person(dev: console.Dev) -> None:
    """The README has its code and what it prints, and the command with which a person approves."""
    need_jq()
    assert f"```python\n{(EXAMPLES / 'agent.py').read_text()}```\n" in README
    started, approved = [one for one in console.commands(README) if re.match("ID=|.*examples/agent.py", one.text)]
    with agent("agent.py", dev) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        until(lambda: pending(dev))
        assert console.printed(approved, dev) == approved.shown
        assert first + process.stdout.read() == started.shown
        assert process.wait(BOUND_SECONDS) == 0


def test_the_asyncio_agent_goes_on_while_payments_wait(dev: console.Dev) -> None:
    """The small payment is made while two wait; one is denied, and says why."""
    with agent("async_agent.py", dev) as process, Registry(f"http://{dev.registry}", dev.key) as registry:
        assert process.stdout is not None
        assert process.stdout.readline() == "call_5: paid 120 to Ann\n"
        until(lambda: len(pending(dev)) == 2)
        by_amount = {one["action"]["amount"]: one["approval_id"] for one in pending(dev)}
        registry.approve(by_amount[15_000], "invoice checked")
        assert process.stdout.readline() == "call_3: paid 15000 to Bob\n"
        registry.deny(by_amount[20_000], "paid already")
        denied = by_amount[20_000]
        assert process.stdout.read() == f"call_4: not done: `pdp dev` denied approval `{denied}`: paid already\n"
        assert process.wait(BOUND_SECONDS) == 0
