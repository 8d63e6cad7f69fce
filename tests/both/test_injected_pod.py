"""A pod that the injector has patched, run: the sidecar's container and the agent's, each as its own user."""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jsonpatch
import pytest
import trustme

from pdp.injector.patch import Namespace, inject
from pdp.injector.settings import Settings
from tests import ports
from tests.both import pod as pods
from tests.both.collector import collecting
from tests.pdp.injector.cases import SETTINGS
from tests.tls.certificates import write_pair
from tests.waiting import BOUND_SECONDS, eventually_gives
from tests.whole import AGENT, FINANCIAL, Http, store

AGENT_USER = 1000
SIDECAR_USER = 65532

ASKS = """
import json, os, socket, sys, ascend
client = ascend.AscendClient(api_key="", agent_id=AGENT, agent_name="")
decision = client.evaluate_action("api.read", "banking_api", risk_score=10)
folder = os.path.dirname(os.environ["PDP_ADDRESS"].removeprefix("unix:"))
try:
    os.unlink(f"{folder}/pdp.sock")
    unlinked = "yes"
except OSError as error:
    unlinked = error.strerror
with socket.socket(socket.AF_UNIX) as http:
    http.connect(os.environ["PDP_HTTP_ADDRESS"].removeprefix("http+unix:"))
    body = json.dumps({"action": {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api"}})
    head = "POST /v1/evaluate HTTP/1.1\\r\\nhost: localhost\\r\\ncontent-type: application/json\\r\\n"
    http.sendall(f"{head}connection: close\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n{body}".encode())
    answer = b"".join(iter(lambda: http.recv(65536), b"")).decode()
print(json.dumps({
    "user": os.getuid(), "outcome": decision.outcome, "reason": decision.reason, "unlinked": unlinked,
    "http": answer.split(" ", 2)[1], "fail_mode": os.environ["PDP_FAIL_MODE"], "seen": sorted(os.listdir(folder)),
    "over_grpc": "grpc" in sys.modules,
}))
"""

LOADS = """
import http.client, json, os, signal, socket, threading, grpc
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
answered, failed, ending = [], [], threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ending.set())

def load(asks):
    "Asks, and once the pod ends, a hundred times more: it has work to finish."
    left = 100
    while left:
        left -= ending.is_set()
        try:
            asks()
        except (grpc.RpcError, OSError, http.client.HTTPException) as error:
            failed.append(repr(error))
            return
        answered.append(1)
        if len(answered) == 100:
            print("running", flush=True)

def by_grpc():
    with grpc.insecure_channel(os.environ["PDP_ADDRESS"]) as channel:
        stub = PolicyDecisionPointStub(channel)
        action = pb.Action(agent_id=AGENT, action_type="api.read", resource="banking_api", risk_score=10)
        load(lambda: stub.Evaluate(pb.EvaluateRequest(action=action), timeout=60))

def by_http():
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.environ["PDP_HTTP_ADDRESS"].removeprefix("http+unix:"))
    body = json.dumps({"action": {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api"}})
    def asks():
        connection.request("POST", "/v1/evaluate", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(answer.status)
    load(asks)

threads = [threading.Thread(target=by) for by in [by_grpc] * 6 + [by_http] * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps({"answered": len(answered), "failed": failed}))
"""


class Pod(NamedTuple):
    """A patched pod, and the folders that stand for its volumes."""

    spec: dict[str, Any]
    volumes: dict[str, Path]

    @property
    def sidecar(self) -> dict[str, Any]:
        """The injected container."""
        found: dict[str, Any] = self.spec["initContainers"][0]
        return found

    def agent(self, program: str) -> dict[str, Any]:
        """The agent's container, with a Python program as its command."""
        code = program.replace("AGENT", repr(AGENT))
        found: dict[str, Any] = self.spec["containers"][0] | {"command": [sys.executable, "-c", code]}
        return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="pod-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(autouse=True)
def mounts() -> None:
    if not pods.possible():
        pytest.skip("to run containers as processes takes root and mounts of one's own")


async def test_an_injected_pod_runs(folder: Path) -> None:
    """The sidecar comes up by its probes; the agent's user reaches it with the environment and mounts that it got.

    The client asks over HTTP, since the environment names both ways.
    """
    async with pod(folder) as made, running(made.sidecar, made.volumes, SIDECAR_USER) as sidecar:
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            await until_probed(made.sidecar[name])
        assert (made.volumes["pdp-socket"] / "pdp.sock").stat().st_uid == SIDECAR_USER
        async with running(made.agent(ASKS), made.volumes, AGENT_USER) as agent:
            out, err = await finished(agent)
        assert json.loads(out or b"{}") == {
            "user": AGENT_USER,
            "outcome": "allow",
            "reason": "RISK_BELOW_AUTO_APPROVE",
            "unlinked": "Read-only file system",
            "http": "200",
            "fail_mode": "closed",
            "over_grpc": False,
            "seen": ["pdp.http.sock", "pdp.http.sock.lock", "pdp.sock", "pdp.sock.lock"],
        }, err.decode()
        sidecar.send_signal(signal.SIGTERM)
        _, err = await finished(sidecar)
        assert sidecar.returncode == 0, err.decode()


async def test_a_pod_ends_under_load_without_a_failed_decision(folder: Path) -> None:
    """Both containers get SIGTERM at once; the agent finishes its work, and the sidecar answers until it has."""
    async with pod(folder) as made, running(made.sidecar, made.volumes, SIDECAR_USER) as sidecar:
        await until_probed(made.sidecar["startupProbe"])
        async with running(made.agent(LOADS), made.volumes, AGENT_USER) as agent:
            assert agent.stdout is not None
            assert await agent.stdout.readline() == b"running\n"
            sidecar.send_signal(signal.SIGTERM)
            agent.send_signal(signal.SIGTERM)
            out, err = await finished(agent)
            result = json.loads(out or b"{}")
            assert result.pop("answered", 0) >= 800, err.decode()
            assert result == {"failed": []}
        _, logged = await finished(sidecar)
        assert sidecar.returncode == 0, logged.decode()


async def test_an_injected_sidecar_sends_its_traces(folder: Path) -> None:
    """To the collector of the injector's settings; what waits is sent at the end."""
    async with collecting() as collector, pod(folder, otlp_endpoint=f"http://{collector.address}") as made:
        async with running(made.sidecar, made.volumes, SIDECAR_USER) as sidecar:
            await until_probed(made.sidecar["startupProbe"])
            async with running(made.agent(ASKS), made.volumes, AGENT_USER) as agent:
                _, err = await finished(agent)
                assert agent.returncode == 0, err.decode()
            sidecar.send_signal(signal.SIGTERM)
            _, err = await finished(sidecar)
            assert sidecar.returncode == 0, err.decode()
        decided = [(span.service, span.name, span.attributes["pdp.agent.id"]) for span in collector.spans]
        assert decided == [("pdp", "pdp.decision", AGENT)] * 2


@asynccontextmanager
async def pod(folder: Path, **changes: Any) -> AsyncIterator[Pod]:
    """A plain pod, patched, beside a store that speaks TLS; `changes` are of the injector's settings."""
    authority = trustme.CA()
    pair = write_pair(folder / "tls", authority)
    async with store(folder) as central:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
    with ports.reserved() as free:
        async with store(folder, tls_cert=pair.cert, tls_key=pair.key) as central:
            settings = Settings.from_text(**SETTINGS | {"store": central.grpc_address} | changes)
            port = free.rpartition(":")[2]
            annotations = {"pdp.dev/agent-id": AGENT, "pdp.dev/metrics-port": port}
            plain = {
                "metadata": {"annotations": annotations},
                "spec": {"containers": [{"name": "agent", "image": "x"}]},
            }
            verdict = inject(plain, Namespace("agents"), settings.sidecar)
            spec = jsonpatch.apply_patch(plain, list(verdict.patch))["spec"]
            secrets = {
                SETTINGS["key_secret"]: {"key": central.key_file},
                SETTINGS["store_ca_secret"]: {"ca.crt": pair.ca},
            }
            yield Pod(spec, {volume["name"]: made(folder, volume, secrets) for volume in spec["volumes"]})


def made(folder: Path, volume: dict[str, Any], secrets: dict[str, dict[str, Path]]) -> Path:
    """A volume as a kubelet makes it: an emptyDir that all may write to, a Secret's files of root with their mode."""
    path = folder / volume["name"]
    path.mkdir()
    if "emptyDir" in volume:
        path.chmod(0o777)
        return path
    for item in volume["secret"]["items"]:
        copy = path / item["path"]
        copy.write_bytes(secrets[volume["secret"]["secretName"]][item["key"]].read_bytes())
        copy.chmod(volume["secret"]["defaultMode"])
    return path


@asynccontextmanager
async def running(
    container: dict[str, Any], volumes: dict[str, Path], user: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A container that runs until the block is left, when it is killed if it still does."""
    process = await asyncio.create_subprocess_exec(
        *pods.command_line(container, volumes, user), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def finished(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """What it printed, once it has ended."""
    async with asyncio.timeout(BOUND_SECONDS):
        return await process.communicate()


async def until_probed(probe: dict[str, Any]) -> None:
    """Returns once a probe succeeds, asked as a kubelet asks."""
    http = Http(f"127.0.0.1:{probe['httpGet']['port']}")

    async def status() -> int:
        try:
            return (await http.call("GET", probe["httpGet"]["path"])).status
        except Exception:  # it does not listen yet
            return 0

    try:
        await eventually_gives(status, lambda found: found == 200)
    finally:
        http.close()
