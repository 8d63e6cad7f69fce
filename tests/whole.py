"""Store and sidecar in a test: both real, over real HTTP and gRPC on free ports, on SQLite in a temporary folder."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import urllib3
from prometheus_client.parser import text_string_to_metric_families

import registry_store.app
from pdp import app
from pdp.settings import Settings, Subscription, address, host_and_port
from pdp.sync.subscriber import Timing
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from registry_store.settings import Settings as StoreSettings
from tests.registry_store.serving import PATIENT
from tests.waiting import BOUND_SECONDS, eventually_gives

EXAMPLES = Path(__file__).parent.parent / "examples"
FINANCIAL: dict[str, Any] = json.loads((EXAMPLES / "financial-agent.json").read_text())
HIGH_VALUE: dict[str, Any] = json.loads((EXAMPLES / "high-value-policy.json").read_text())
AGENT = FINANCIAL["agent_id"]
QUICK = Timing(heartbeat=0.2, dead_after=BOUND_SECONDS, backoff_first=0.05, backoff_max=0.2)
"""A connection that closes during a pause is soon open again, but calls fail in between."""


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: Any


class Http:
    """HTTP calls to one address, made on a thread so that servers of this event loop can answer them."""

    def __init__(self, address: str, key: str = "") -> None:
        self.address = address
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._pool = urllib3.PoolManager(retries=False, timeout=BOUND_SECONDS)

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, with JSON or the bytes given as its body."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = self._headers | {"content-type": "application/json"} | dict(headers or {})
        url = f"http://{self.address}{path}"
        response = await asyncio.to_thread(self._pool.request, method, url, body=data, headers=sent)
        is_json = "json" in response.headers.get("content-type", "")
        return Answer(response.status, json.loads(response.data) if is_json else response.data.decode())

    async def until_probed(self, status: int) -> Answer:
        """The first answer of `/readyz` with this status."""
        return await eventually_gives(lambda: self.call("GET", "/readyz"), lambda answer: answer.status == status)

    def close(self) -> None:
        """Closes its connections."""
        self._pool.clear()


class Central(NamedTuple):
    """A running store: its REST API with an admin's key, and where sidecars sync."""

    rest: Http
    grpc_address: str
    key_file: Path
    metrics_address: str | None = None


class Beside:
    """A running sidecar, and calls to it."""

    def __init__(self, sidecar: app.Sidecar, channel: grpc.aio.Channel, http: Http) -> None:
        self.sidecar = sidecar
        self.http = http
        self.channel = channel
        self.stub = PolicyDecisionPointStub(channel)

    async def evaluate(self, action_type: str = "api.read", **fields: Any) -> pb.EvaluateResponse:
        """One decision about the financial agent, on a resource that it may use."""
        dry_run = fields.pop("dry_run", False)
        action = {"agent_id": AGENT, "action_type": action_type, "resource": "banking_api"} | fields
        return await self.stub.Evaluate(
            pb.EvaluateRequest(action=pb.Action(**action), dry_run=dry_run), timeout=BOUND_SECONDS
        )

    async def reason(self, **fields: Any) -> str:
        """The reason of a dry run, without its prefix; the status of the error if there is one."""
        try:
            answer = await self.evaluate(dry_run=True, **fields)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return pb.Reason.Name(answer.reason).removeprefix("REASON_")

    async def until(self, reason: str, **fields: Any) -> None:
        """Waits until a dry run gives this reason."""
        await eventually_gives(lambda: self.reason(**fields), lambda found: found == reason)

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample of /metrics, by its name and sorted labels, as a Prometheus parser reads it."""
        text = (await self.http.call("GET", "/metrics")).body
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@asynccontextmanager
async def store(folder: Path, grpc_address: str = "127.0.0.1:0", **changes: Any) -> AsyncIterator[Central]:
    """A store on the database in `folder`, at which registrations are active at once."""
    values = {"database": f"sqlite:///{folder / 'registry.db'}", "http": "127.0.0.1:0", "auto_activate": True}
    settings = StoreSettings(**(values | {"grpc": grpc_address} | changes))
    async with registry_store.app.running(settings, PATIENT) as running:
        key_file = folder / "sidecar.key"
        key_file.touch(0o600)
        key_file.write_text(await running.create_key("sidecar", "test"))
        rest = Http(running.http_address, await running.create_key("admin", "test"))
        try:
            yield Central(rest, running.grpc_address, key_file, running.metrics_address)
        finally:
            rest.close()


def settings(folder: Path, store_address: str, **changes: Any) -> Settings:
    """The settings of a sidecar on free ports that keeps its state in `folder`, for all agents."""
    key_file = folder / "sidecar.key"
    if not key_file.exists():
        key_file.touch(0o600)
        key_file.write_text("owkai_none")
    values: dict[str, Any] = {
        "store": host_and_port("--store", store_address),
        "key_file": key_file,
        "subscription": Subscription(),
        "listen": (address("--listen", "127.0.0.1:0"),),
        "http": (host_and_port("--http", "127.0.0.1:0"),),
        "data_dir": folder / "sidecar",
    }
    return Settings(**(values | changes))


@asynccontextmanager
async def sidecar(settings: Settings, timing: Timing = QUICK) -> AsyncIterator[Beside]:
    """A running sidecar, and a channel to it."""
    async with app.running(settings, timing) as running:
        http = Http(running.http_address)
        try:
            async with grpc.aio.insecure_channel(running.grpc_address) as channel:
                yield Beside(running, channel, http)
        finally:
            http.close()
