"""The servers under test, each a process of its own, and what each used of the processor and of memory."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import rule
from benchmarks.report import ROOT
from tests.ports import reserved

BIN = Path(sys.executable).parent
PEERS = ROOT / "benchmarks" / "peers" / "cerbos"
CERBOS = PEERS / "node_modules" / "@cerbos" / "cerbos-linux-x64" / "cerbos-linux-x64"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
SHIPPED = "pdp_decisions_shipped_total"
SHIPPED_SECONDS = 120.0
SHIPPED_POLL_SECONDS = 0.25
"""To make the metrics takes the sidecar's time too."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory(NamedTuple):
    """Bytes that are resident, and those of them that belong to the process alone, no pages of files."""

    resident: int
    private: int


class Server:
    """A program that runs, and what it needs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def cpu_seconds(self) -> float:
        """Processor time so far, of all its threads and of the processes that it started."""
        return sum(cpu_seconds(pid) for pid in self._pids())

    def memory(self) -> Memory:
        """Memory of all its processes."""
        found = [list(map(int, Path(f"/proc/{pid}/statm").read_text().split())) for pid in self._pids()]
        return Memory(PAGE * sum(one[1] for one in found), PAGE * sum(one[1] - one[2] for one in found))

    def check(self) -> None:
        """Exit if it has ended."""
        if self._process.poll() is not None:
            sys.exit(f"ended with {self._process.returncode}: {self._log.read_text()[-2000:]}")

    def until_listening(self, address: str) -> None:
        """Return once `HOST:PORT` or `unix:PATH` takes connections."""
        self._until(lambda: connected(address), f"`{address}` takes no connections")

    def until_ready(self, address: str) -> None:
        """Return once the readiness probe is good."""
        self._until(lambda: _status(f"http://{address}/readyz") == 200, f"`{address}` is not ready")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _until(self, holds: Any, otherwise: str) -> None:
        until = time.monotonic() + START_SECONDS
        while not holds():
            self.check()
            if time.monotonic() > until:
                sys.exit(f"{otherwise}: {self._log.read_text()[-2000:]}")
            time.sleep(POLL_SECONDS)

    def _pids(self) -> Iterator[int]:
        found = [self._process.pid]
        while found:
            pid = found.pop()
            yield pid
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, in user and kernel mode, of all its threads."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names


def connected(address: str) -> bool:
    """Whether somebody listens there."""
    family, name = (
        (socket.AF_UNIX, address.removeprefix("unix:"))
        if address.startswith("unix:")
        else (socket.AF_INET, (address.rpartition(":")[0], int(address.rpartition(":")[2])))
    )
    with socket.socket(family) as client, suppress(OSError):
        client.connect(name)
        return True
    return False


@contextmanager
def running(command: Sequence[str | Path], log: Path, **how: Any) -> Iterator[Server]:
    """A program, which is ended when the block is left."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PDP_", "PYTHON"))}
    with log.open("wb") as out:
        process = subprocess.Popen([*map(str, command)], env=environment, stdout=out, stderr=out, **how)
    server = Server(process, log)
    try:
        yield server
    finally:
        server.stop()


class Installation:
    """A registry store with the rule's agent, and a sidecar that follows it, with everything switched on."""

    def __init__(self, stack: ExitStack, folder: Path, bin_: Path = BIN, database: str = "") -> None:
        self._stack = stack
        self._folder = folder
        self._bin = bin_
        self.database = database or f"sqlite:///{folder}/registry.db"
        self.grpc, self.http, self._store_http, self._store_grpc = (stack.enter_context(reserved()) for _ in range(4))
        self.unix = f"unix:{folder}/pdp.sock"

    def start_store(self) -> Server:
        """The store, with the agent and its policies in it."""
        options = [] if self.database.startswith("sqlite:") else ["--pepper-file", f"{self._folder}/pepper"]
        command: list[str | Path] = [self._bin / "registry-store", "serve", "--database", self.database]
        command += ["--http", self._store_http, "--grpc", self._store_grpc, "--auto-activate", *options]
        self._store("migrate")
        self._admin_key = self._store("keys", "create", "--role", "admin", "--name", "admin", *options)
        server = self._stack.enter_context(running(command, self._folder / "store.log"))
        server.until_ready(self._store_http)
        self.call("POST", "/api/agents/registry", rule.AGENT)
        for policy in rule.policies():
            self.call("POST", f"/api/agents/registry/{rule.AGENT_ID}/policies", policy)
        return server

    def start_sidecar(self, command: Sequence[str | Path] = (), unix: bool = True, **how: Any) -> Server:
        """The sidecar; `command` is how to start one of another kind, under the same options."""
        key_file = self._folder / "sidecar.key"
        key_file.touch(0o600)
        key_file.write_text(self.call("POST", "/api/keys", {"role": "sidecar", "name": "sidecar"})["key"])
        options = ["--store", self._store_grpc, "--key-file", str(key_file), "--all-agents", "--listen", self.grpc]
        options += ["--http", self.http, *(["--http", self.unix] if unix else [])]
        options += ["--data-dir", f"{self._folder}/sidecar", "--log-bytes", str(4 << 30)]
        started: list[str | Path] = [*(command or [self._bin / "pdp"]), "serve", *options]
        server = self._stack.enter_context(running(started, self._folder / "sidecar.log", **how))
        server.until_ready(self.http)
        return server

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of the store's REST interface; fails on any but a good one."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self._admin_key}", "content-type": "application/json"}
        url = f"http://{self._store_http}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
            return json.load(answer)

    def metrics(self, *names: str) -> list[float]:
        """The sums of these metrics of the sidecar over their labels."""
        with urllib.request.urlopen(f"http://{self.http}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return [
            sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
            for name in names
        ]

    def until_shipped(self) -> None:
        """Return once the store has acknowledged every decision; exits if that takes too long."""
        until = time.monotonic() + SHIPPED_SECONDS
        while time.monotonic() < until:
            shipped, decided = self.metrics(SHIPPED, "pdp_decisions_total")
            if shipped >= decided:
                return
            time.sleep(SHIPPED_POLL_SECONDS)
        sys.exit("the store has not acknowledged every decision")

    def _store(self, *command: str) -> str:
        """What another command of the store prints."""
        called = [str(self._bin / "registry-store"), *command, "--database", self.database]
        return subprocess.run(called, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


class Cerbos:
    """Cerbos' server with the rule, audit off."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.grpc, self.http = (stack.enter_context(reserved()) for _ in range(2))
        set_ = {
            "server.grpcListenAddr": self.grpc,
            "server.httpListenAddr": self.http,
            "storage.disk.directory": PEERS / "policies",
        }
        options = [f"--set={name}={value}" for name, value in set_.items()]
        command: list[str | Path] = [
            CERBOS,
            "server",
            f"--config={PEERS / 'config.yaml'}",
            "--log-level=error",
            *options,
        ]
        self.server = stack.enter_context(running(command, folder / "cerbos.log"))
        for address in (self.grpc, self.http):
            self.server.until_listening(address)


def cerbos_version() -> str:
    """The version of the server that `make bench` installed."""
    version: str = json.loads((CERBOS.parent / "package.json").read_text())["version"]
    return version


def empty(stack: ExitStack, folder: Path, kind: str, answer: bytes) -> tuple[Server, str]:
    """An empty endpoint, and its address."""
    address = stack.enter_context(reserved())
    (folder / f"{kind}.answer").write_bytes(answer)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "benchmarks.peers.empty",
        kind,
        address,
        folder / f"{kind}.answer",
    ]
    server = stack.enter_context(running(command, folder / f"{kind}.log", cwd=ROOT))
    server.until_listening(address)
    return server, address


def _status(url: str) -> int:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a probe of these servers
        status: int = answer.status
        return status
    return 0
