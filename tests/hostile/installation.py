"""A store and two sidecars as processes of their own, for tests that attack, stop and kill them.

Each program writes its log into a file; whatever happens to a program, its log must stay short and free of tracebacks.
"""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import urllib3

from tests.ports import reserved
from tests.waiting import eventually_gives

BIN = Path(sys.executable).parent
STOP_SECONDS = 60
HONEST, LIMITED, SUSPENDED, TOGGLED, INTRUDER, SPENDER = (
    "honest-agent",
    "limited-agent",
    "suspended-agent",
    "toggled-agent",
    "intruder-agent",
    "spender-agent",
)
LIMIT_PER_MINUTE = 20
BUDGET_DOLLARS = 5
UNLIMITED = {"max_actions_per_minute": None, "max_actions_per_hour": None, "max_actions_per_day": None}
AGENTS: dict[str, dict[str, Any]] = {
    HONEST: {"blocked_resources": ["secrets"], **UNLIMITED},
    LIMITED: {**UNLIMITED, "max_actions_per_minute": LIMIT_PER_MINUTE},
    SPENDER: {**UNLIMITED, "max_daily_budget_usd": BUDGET_DOLLARS},
    SUSPENDED: UNLIMITED,
    TOGGLED: UNLIMITED,
    INTRUDER: UNLIMITED,
}


@dataclass(frozen=True)
class Target:
    """What an attacker may know: where the programs listen, a sidecar's key of its own, the node id of its victim."""

    grpc: str
    http: str
    store_http: str
    store_grpc: str
    intruder_key: str
    viewer_key: str
    victim_key_id: str
    victim_node: str

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class Program:
    """One program, which may be started again under the same arguments."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [str(BIN / command[0]), *command[1:]]
        self._environment = _clean_environment() | environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def set_environment(self, environment: Mapping[str, str]) -> None:
        """From its next start on it runs with this, beside what this process has."""
        self._environment = _clean_environment() | environment

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        process = self._process
        assert process is not None
        with suppress(ProcessLookupError):
            process.send_signal(how)
        return await asyncio.to_thread(process.wait, STOP_SECONDS)

    async def kill(self) -> None:
        await self.stop(signal.SIGKILL)

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def log_faults(self) -> list[str]:
        """Lines of its log that no program may write, whatever is sent to it."""
        text = self.log.read_text(errors="replace")
        return [f"{self.name}: {line}" for line in text.splitlines() if "Traceback" in line or "CRITICAL" in line]


def _clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PDP_")}


class Api:
    """The REST interface of the store, with one key."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        self._key = key
        self._pool = urllib3.PoolManager(retries=False, timeout=30.0, maxsize=4)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The body of a good answer; fails on any other."""
        status, content = await self.answer(method, path, body)
        assert 200 <= status < 300, (method, path, status, content)
        return content

    async def answer(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and body of an answer; (0, None) where there is none."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self._key}"}
        url = f"http://{self._address}{path}"
        try:
            response = await asyncio.to_thread(self._pool.request, method, url, body=data, headers=headers)
        except urllib3.exceptions.HTTPError:
            return 0, None
        is_json = "json" in response.headers.get("content-type", "")
        return response.status, json.loads(response.data) if is_json else response.data.decode()


class Installation:
    """The programs, and the addresses and keys with which a test reaches them."""

    def __init__(
        self, folder: Path, addresses: Sequence[str], options: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.store_http, self.store_grpc, *pairs = addresses
        self.sidecar_addresses = [(pairs[at], pairs[at + 1]) for at in range(0, len(pairs), 2)]
        self._options = options
        self._environment = environment
        self._database = folder / "registry.db"
        serve = ("serve", "--database", f"sqlite:///{self._database}", "--http", self.store_http)
        self.store = self._program("store", "registry-store", *serve, "--grpc", self.store_grpc, "--auto-activate")
        self.sidecars: list[Program] = []
        self.admin = Api(self.store_http, self._admin_key())

    def _admin_key(self) -> str:
        command = [str(BIN / "registry-store"), "keys", "create", "--database", f"sqlite:///{self._database}"]
        options = ["--role", "admin", "--name", "admin"]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout.strip()

    async def _key(self, role: str, name: str, **scope: Any) -> str:
        made = await self.admin.call("POST", "/api/keys", {"role": role, "name": name, **scope})
        key: str = made["key"]
        return key

    async def start(self) -> None:
        self.store.start()
        await self.until_ready(self.store_http)
        for agent_id, fields in AGENTS.items():
            await self.admin.call(
                "POST", "/api/agents/registry", {"agent_id": agent_id, "display_name": agent_id, **fields}
            )
        await self.admin.call("POST", f"/api/agents/registry/{SUSPENDED}/suspend", {"reason": "test"})
        for number, (grpc_address, http_address) in enumerate(self.sidecar_addresses):
            name = f"sidecar-{number}"
            key_file = self.folder / f"{name}.key"
            key_file.touch(0o600)
            key_file.write_text(await self._key("sidecar", name))
            sidecar = self._program(
                name,
                "pdp",
                *("serve", "--store", self.store_grpc, "--key-file", str(key_file), "--all-agents"),
                *("--listen", grpc_address, "--http", http_address, "--data-dir", f"{self.folder / name}"),
                # Attackers fill the default of 256 MiB in seconds, and then the oldest records give way, as they must.
                *("--log-format", "json", "--log-bytes", str(8 << 30), *self._options),
            )
            sidecar.start()
            self.sidecars.append(sidecar)
        for _, http_address in self.sidecar_addresses:
            await self.until_ready(http_address)

    async def target(self, number: int = 0) -> Target:
        """The knowledge of an attacker of one sidecar."""
        grpc_address, http_address = self.sidecar_addresses[number]
        intruder = await self._key("sidecar", "intruder", agents=[INTRUDER])
        viewer = await self._key("viewer", "viewer")
        victim_key = (self.folder / f"sidecar-{number}.key").read_text()
        node = (self.folder / f"sidecar-{number}" / "node-id").read_text().strip()
        return Target(
            grpc_address,
            http_address,
            self.store_http,
            self.store_grpc,
            intruder,
            viewer,
            victim_key.split("_")[1],
            node,
        )

    async def until_ready(self, address: str) -> None:
        """Return once a program's readiness probe is good."""
        await eventually_gives(lambda: self.probe(address, "/readyz"), lambda status: status == 200)

    async def probe(self, address: str, path: str = "/healthz") -> int:
        """The status of one request on a connection of its own; 0 where there is no answer."""
        with urllib3.PoolManager(retries=False, timeout=10.0) as pool, suppress(urllib3.exceptions.HTTPError):
            return (await asyncio.to_thread(pool.request, "GET", f"http://{address}{path}")).status
        return 0

    def programs(self) -> list[Program]:
        return [self.store, *self.sidecars]

    def recorded(self) -> set[str]:
        """The ids of all decisions that the store has kept."""
        return {decision_id for (decision_id,) in self._rows("SELECT decision_id FROM decisions")}

    def revision(self) -> int:
        """The newest revision of the registry."""
        revision: int = self._rows("SELECT revision FROM meta")[0][0]
        return revision

    async def stop(self) -> None:
        """Stop what runs, sidecars first."""
        for program in reversed(self.programs()):
            if program.is_running:
                await program.stop()

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query).fetchall()

    def _program(self, name: str, *command: str) -> Program:
        return Program(name, command, self.folder, self._environment)


@asynccontextmanager
async def installed(
    folder: Path, sidecars: int = 2, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> AsyncIterator[Installation]:
    """A running installation; `options` are further ones of each sidecar."""
    with ExitStack() as stack:
        addresses = [stack.enter_context(reserved()) for _ in range(2 + 2 * sidecars)]
        installation = Installation(folder, addresses, options, environment or {})
        try:
            await installation.start()
            yield installation
        finally:
            await installation.stop()
