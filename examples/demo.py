"""From registration to decision in one run: a store and a sidecar as two processes, and an agent.

It uses a temporary folder and free ports; when it ends, even with an error, it stops every process.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import urllib3
from rich.console import Console
from rich.table import Column, Table

from ascend import AgentAction, AscendClient, Decision, Outcome

EXAMPLES = Path(__file__).parent
BIN = Path(sys.executable).parent
START_SECONDS = 60.0
CHANGE_SECONDS = 30.0
STOP_SECONDS = 30.0
AGENTS = "/agents/registry"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
COLOURS = {"allow": "green", "require_approval": "yellow", "escalate": "magenta", "block": "red"}
ACTIONS = (
    AgentAction(action_type="api.read", resource="banking_api", risk_score=10),
    AgentAction(action_type="database.query", resource="postgresql", risk_score=29),
    AgentAction(action_type="database.query", resource="postgresql", risk_score=30),
    AgentAction(action_type="transaction.process", resource="banking_api", risk_score=25, amount=500),
    AgentAction(action_type="transaction.process", resource="banking_api", risk_score=25, amount=15000),
    AgentAction(action_type="transaction.process", resource="banking_api", risk_score=85, amount=500),
    AgentAction(action_type="api.read", resource="production_secrets", risk_score=10),
    AgentAction(action_type="file.delete", resource="postgresql", risk_score=10),
)
LARGE = ACTIONS[4]
READ = ACTIONS[0]

T = TypeVar("T")

console = Console(width=None if sys.stdout.isatty() else 120)


class DemoError(Exception):
    """The demo did not show the expected result."""


class Registry(NamedTuple):
    """The store's REST API, called with an admin's key."""

    pool: urllib3.PoolManager
    url: str

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One request to a path below /api; `DemoError` unless it succeeds."""
        response = self.pool.request(method, f"{self.url}/api{path}", body=json.dumps(body) if body else None)
        if response.status >= 300:
            raise DemoError(f"{method} {path}: {response.status} {response.data.decode()}")
        answer: dict[str, Any] = response.json()
        return answer


class Program(NamedTuple):
    """A process, and the file with its output."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait_for_output(self, pattern: str) -> re.Match[str]:
        """Waits until its output matches."""

        def found() -> re.Match[str] | None:
            if self.process.poll() is not None:
                raise DemoError(f"it ended with code {self.process.returncode}: {self.output.read_text()}")
            return re.search(pattern, self.output.read_text())

        return until(found, START_SECONDS, f"no `{pattern}` in {self.output}")

    def stop(self) -> None:
        """Asks it to end, and kills it if it does not."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main() -> int:
    """Runs the demo; the exit code is 0 if it showed every expected result."""
    for number in SIGNALS:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="pdp-demo-")))
            show(stack, folder)
    except DemoError as error:
        console.print(f"[red]failed:[/red] {error}")
        return 1
    return 0


def show(stack: ExitStack, folder: Path) -> None:
    """The scenes, one after the other."""
    database = f"--database=sqlite:///{folder / 'registry.db'}"
    keys = {role: new_key(database, role) for role in ("admin", "sidecar", "agent")}
    store, registry, sync_address = start_store(stack, folder, database, keys["admin"])
    address = start_sidecar(stack, folder, sync_address, keys["sidecar"])
    policy_id = register(registry)
    agent_id = example("financial-agent.json")["agent_id"]
    agent = stack.enter_context(AscendClient(keys["agent"], agent_id, "Demo", pdp_address=address))
    until(lambda: agent.evaluate(LARGE, dry_run=True).policy, CHANGE_SECONDS, "the policy did not arrive")

    decide(agent)
    approve_payment(registry, agent)
    change_policy(registry, agent, policy_id)
    reach_the_limit(registry, agent)
    stop_the_store(store, agent)


def register(registry: Registry) -> str:
    """Registers the financial agent and its policy from the examples; returns the policy's id."""
    scene("Register an agent and its policy, over HTTP")
    agent = registry.call("POST", AGENTS, example("financial-agent.json"))
    console.print(f"agent  [bold]{agent['agent_id']}[/bold], version {agent['version']}, {agent['status']}")
    policy = registry.call("POST", f"{AGENTS}/{agent['agent_id']}/policies", example("high-value-policy.json"))
    console.print(f"policy [bold]{policy['policy_name']}[/bold], for an action with")
    console.print(f"  {json.dumps(policy['conditions'])}")
    policy_id: str = policy["policy_id"]
    return policy_id


def decide(agent: AscendClient) -> None:
    """Asks for decisions on several actions; all four outcomes must appear."""
    scene("Ask for decisions, over gRPC")
    text, number = partial(Column, overflow="fold"), partial(Column, justify="right", no_wrap=True)
    outcome = Column("outcome", no_wrap=True)
    table = Table(
        text("action"), text("resource"), number("risk"), number("amount"), outcome, text("reason"), number("µs")
    )
    for action in ACTIONS:
        agent.evaluate(action, dry_run=True)  # so that the times below are for an open connection
    seen = set()
    for action in ACTIONS:
        decision, seconds = timed(partial(agent.evaluate, action))
        seen.add(decision.outcome)
        amount = "" if action.amount is None else f"{action.amount:,.0f}"
        risk, micros = str(action.risk_score), f"{seconds * 1e6:.0f}"
        table.add_row(action.action_type, action.resource, risk, amount, coloured(decision), decision.reason, micros)
    console.print(table)
    if seen != set(Outcome):
        raise DemoError(f"only {', '.join(seen)} appeared")


def approve_payment(registry: Registry, agent: AscendClient) -> None:
    """Has the payment approved while the agent waits; then it is allowed once."""
    scene("Have a person approve the payment")
    held = agent.evaluate(LARGE)
    approvers = ", ".join(held.action_params["approvers"])
    console.print(f"{LARGE.action_type} of {LARGE.amount:,.0f}: {coloured(held)} of {approvers}")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(agent.wait_for_approval, held, CHANGE_SECONDS)
        until(lambda: held.approval_id in pending(registry), CHANGE_SECONDS, "no approval was requested")
        registry.call("POST", f"/approvals/{held.approval_id}/approve", {"comment": "invoice 4711 checked"})
        approval, seconds = timed(waiting.result)
    console.print(f"{approval.state} ({approval.comment}); the agent was notified {seconds * 1e3:.1f} ms later")
    first, second = (agent.evaluate(LARGE, approval_id=held.approval_id) for _ in range(2))
    console.print(f"the same again: {coloured(first)} {first.reason}; and once more: {coloured(second)}")
    if (first.reason, bool(second)) != ("APPROVED", False):
        raise DemoError(f"the approval was not used once: {first.message}, {second.message}")


def pending(registry: Registry) -> set[str]:
    """The ids of the approvals that wait for people."""
    listed = registry.call("GET", "/approvals?status=pending&limit=500")["approvals"]
    return {approval["approval_id"] for approval in listed}


def change_policy(registry: Registry, agent: AscendClient, policy_id: str) -> None:
    """Raises the policy's amount, and measures how long the old decision stays in force after the answer."""
    scene("Change the policy")
    before = agent.evaluate(LARGE)
    conditions = {"action_type": "transaction.process", "amount_above": 20000}
    registry.call("PUT", f"{AGENTS}/{agent.agent_id}/policies/{policy_id}", {"conditions": conditions})
    _, seconds = timed(
        lambda: until(
            lambda: agent.evaluate(LARGE, dry_run=True).outcome != before.outcome,
            CHANGE_SECONDS,
            "the change did not arrive",
        )
    )
    after = agent.evaluate(LARGE)
    console.print(
        f"{LARGE.action_type} of {LARGE.amount:,.0f}: {coloured(before)} → {coloured(after)},\n"
        f"  [bold]{seconds * 1e3:.1f} ms[/bold] after the registry's answer"
    )


def reach_the_limit(registry: Registry, agent: AscendClient) -> None:
    """Sends actions until the rate limit blocks one; then raises the limit."""
    scene("Run into the rate limit")
    admitted = 0
    while decision := agent.evaluate(READ):
        admitted += 1
        if admitted > 1000:
            raise DemoError("the limit of 100 a minute let 1,000 pass")
    if decision.reason != "RATE_LIMIT_EXCEEDED":
        raise DemoError(f"refused for {decision.reason}")
    console.print(f"{admitted} more pass, then {coloured(decision)} {decision.reason}:\n  {decision.message}")
    registry.call(
        "PUT", f"{AGENTS}/{agent.agent_id}", {"max_actions_per_minute": 200, "version_notes": "demo: more room"}
    )
    until(lambda: agent.evaluate(READ, dry_run=True), CHANGE_SECONDS, "the new limit did not arrive")
    decision = agent.evaluate(READ)
    console.print(f"with a limit of 200: {coloured(decision)}, {decision.rate_remaining.minute} left this minute")


def stop_the_store(store: Program, agent: AscendClient) -> None:
    """Stops the store; the sidecar keeps deciding."""
    scene("Stop the store")
    store.stop()
    console.print(f"the store has ended with code {store.process.returncode}")
    for action in (READ, LARGE, ACTIONS[6]):
        decision = agent.evaluate(action)
        if decision.error_code:
            raise DemoError(f"no decision without the store: {decision.message}")
        console.print(
            f"{action.action_type} on {action.resource}: {coloured(decision)} {decision.reason},\n"
            f"  from revision {decision.registry_revision}, {decision.staleness:.1f} s after the store's last message"
        )


def start_store(stack: ExitStack, folder: Path, database: str, key: str) -> tuple[Program, Registry, str]:
    """Starts a store on free ports; returns the process, its REST API, and the address for sidecars."""
    options = (database, "--http=127.0.0.1:0", "--grpc=127.0.0.1:0", "--auto-activate")
    store = stack.enter_context(running("registry-store", "serve", *options, output=folder / "store.log"))
    found = store.wait_for_output(r"http (\S+) grpc (\S+)")
    pool = urllib3.PoolManager(
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"}, timeout=10, retries=False
    )
    return store, Registry(pool, f"http://{found[1]}"), found[2]


def start_sidecar(stack: ExitStack, folder: Path, sync_address: str, key: str) -> str:
    """Starts a sidecar on a Unix socket; returns its address."""
    key_file = folder / "sidecar.key"
    key_file.touch(0o600)
    key_file.write_text(key)
    address = f"unix:{folder / 'pdp.sock'}"
    options = (
        f"--store={sync_address}",
        f"--key-file={key_file}",
        "--all-agents",
        f"--listen={address}",
        "--http=127.0.0.1:0",
        f"--data-dir={folder / 'sidecar'}",
    )
    sidecar = stack.enter_context(running("pdp", "serve", *options, output=folder / "sidecar.log"))
    sidecar.wait_for_output(r"listening")
    return address


def new_key(database: str, role: str) -> str:
    """Creates a key of the registry before it serves."""
    extra = [f"--agent-id={example('financial-agent.json')['agent_id']}"] if role == "agent" else []
    command = [str(BIN / "registry-store"), "keys", "create", f"--role={role}", "--name=demo", database, *extra]
    made = subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False)
    if made.returncode:
        raise DemoError(made.stderr.decode())
    return made.stdout.decode().strip()


@contextmanager
def running(name: str, *arguments: str, output: Path) -> Iterator[Program]:
    """Runs a program of the project; stops it at the end."""
    program = None
    command = [str(BIN / name), *arguments]
    try:
        with output.open("wb") as file, uninterrupted():
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            program = Program(process, output)
        yield program
    finally:
        if program is not None:
            with uninterrupted():
                program.stop()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays signals: one that arrives just after a process starts would leave the process running."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for missed in caught:
            signal.raise_signal(missed)


def until(ask: Callable[[], T | None], seconds: float, otherwise: str) -> T:
    """The first true result within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(0.0005)
    raise DemoError(otherwise)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its duration in seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def example(name: str) -> dict[str, Any]:
    """One of the JSON files beside this program."""
    content: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return content


def coloured(decision: Decision) -> str:
    return f"[{COLOURS[decision.outcome]}]{decision.outcome}[/]"


def scene(title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


if __name__ == "__main__":
    sys.exit(main())
