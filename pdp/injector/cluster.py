"""What the injector asks of the API server of Kubernetes: namespaces, nodes, and Events about skipped pods."""

import asyncio
import json
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import urllib3

from pdp.core.json import strict_json
from pdp.injector.annotations import ALLOW_OPT_OUT
from pdp.injector.verdicts import Skip
from pdp.serving.addresses import Address
from pdp.serving.requests import CrowdedError, Places

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = urllib3.Timeout(connect=1.0, read=2.0)
ASK_SECONDS = 3.0
"""For one question; the API server gives a webhook ten seconds by default."""
MAX_ANSWER_BYTES = 8 << 20
MAX_FILE_BYTES = 1 << 20
MAX_ASKING = 50
THREADS = 4
NODES_A_PAGE = 20
MAX_PAGES = 1000
WAITING_EVENTS = 100
NATIVE_LABEL = "pdp.dev/native"
NATIVE_SINCE = (1, 29)
"""The kubelet that runs init containers which restart always without a feature gate."""
_KUBELET = re.compile(r"v?(\d{1,3})\.(\d{1,3})\b")

logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """The API server gave no usable answer; the text says why."""


class SkippedPod(NamedTuple):
    """A pod that an Event is about."""

    namespace: str
    reason: Skip
    involved: dict[str, str]


class Cluster:
    """The API server, asked in threads of its own, so that one that hangs holds up no review."""

    def __init__(self, address: Address, folder: Path = ACCOUNT_FOLDER) -> None:
        self._address = address
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS, "cluster")
        self._places = Places(MAX_ASKING, "questions wait for the API server already")
        self._pool: tuple[str, urllib3.HTTPSConnectionPool] | None = None
        self._events: asyncio.Queue[SkippedPod] = asyncio.Queue(WAITING_EVENTS)

    @classmethod
    def of_this_pod(
        cls, environment: Mapping[str, str] = os.environ, folder: Path = ACCOUNT_FOLDER
    ) -> "Cluster | None":
        """The cluster that this process runs in; None outside of one, or without a service account's token."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port.isdecimal() or not (folder / "token").is_file():
            return None
        return cls(Address(host, int(port)), folder)

    def own_namespace(self) -> str | None:
        """The namespace of this process."""
        try:
            return self._read("namespace")
        except ClusterError:
            return None

    async def allows_opt_out(self, namespace: str) -> bool:
        """Whether the namespace's annotation lets its pods go without the sidecar; no, where the answer is not had."""
        try:
            with self._places.one():
                found = await self._ask("GET", f"/api/v1/namespaces/{quote(namespace, safe='')}")
        except (ClusterError, CrowdedError) as error:
            logger.warning("cannot read namespace `%s`, so its pod does not opt out: %s", namespace, error)
            return False
        return _member(_member(found, "metadata"), "annotations").get(ALLOW_OPT_OUT) == "true"

    async def runs_native(self) -> bool:
        """Whether every node runs native sidecars, by its label or its kubelet; `ClusterError` if that is not known."""
        token = ""
        for _ in range(MAX_PAGES):
            query = urlencode({"limit": NODES_A_PAGE} | ({"continue": token} if token else {}))
            found = await self._ask("GET", f"/api/v1/nodes?{query}")
            items = found.get("items")
            if not isinstance(items, list):
                raise ClusterError("the answer is not a list of nodes")
            if not all(map(node_runs_native, items)):
                return False
            token = _member(found, "metadata").get("continue") or ""
            if not token:
                return True
        raise ClusterError(f"more than {MAX_PAGES * NODES_A_PAGE} nodes")

    def report(self, pod: SkippedPod) -> bool:
        """Have an Event made, in the background; False if too many wait already."""
        try:
            self._events.put_nowait(pod)
        except asyncio.QueueFull:
            return False
        return True

    async def send_events(self, count: Callable[[str], None]) -> None:
        """Make the Events that are reported, one after the other, until cancelled; each once."""
        while True:
            pod = await self._events.get()
            try:
                await self._ask("POST", f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/events", event(pod))
            except ClusterError as error:
                logger.warning("cannot create an Event in namespace `%s`: %s", pod.namespace, error)
                count("failed")
            else:
                count("sent")

    def close(self) -> None:
        """Ask nothing more; a question that hangs ends by its own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._call, method, path, body)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await asked
        except TimeoutError:
            raise ClusterError(f"no answer from {self._address} within {ASK_SECONDS:g} s") from None

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._read('token')}", "accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            response = self._connections().request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers=headers,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            with response:  # closes a connection that still has unread bytes; others go back to the pool
                content = response.read(MAX_ANSWER_BYTES + 1)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"no answer from {self._address} ({type(error).__name__})") from error
        if not 200 <= response.status < 300:
            raise ClusterError(f"{self._address} answered {response.status}")
        return _document(content)

    def _connections(self) -> urllib3.HTTPSConnectionPool:
        """Connections that trust the authority that the file holds now."""
        authority = self._read("ca.crt")
        pool = self._pool
        if pool is None or pool[0] != authority:
            made = urllib3.HTTPSConnectionPool(
                self._address.host,
                self._address.port,
                maxsize=THREADS,
                timeout=TIMEOUT,
                ssl_context=ssl.create_default_context(cadata=authority),
            )
            self._pool = pool = (authority, made)
        return pool[1]

    def _read(self, name: str) -> str:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                return file.read(MAX_FILE_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise ClusterError(f"cannot read `{path}`") from error


def node_runs_native(node: Any) -> bool:
    """Whether a node runs native sidecars: its label says so or not, else its kubelet is new enough."""
    label = _member(_member(node, "metadata"), "labels").get(NATIVE_LABEL)
    if label in ("true", "false"):
        return bool(label == "true")
    version = _member(_member(node, "status"), "nodeInfo").get("kubeletVersion")
    match = _KUBELET.match(version) if isinstance(version, str) else None
    return match is not None and (int(match[1]), int(match[2])) >= NATIVE_SINCE


def involved(pod: dict[str, Any], namespace: str) -> dict[str, str]:
    """What an Event about a pod that has no uid yet is shown at: what made it, else the pod by its name."""
    metadata = _member(pod, "metadata")
    owners = metadata.get("ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        if not isinstance(owner, dict):
            continue
        found = {name: owner.get(name) for name in ("apiVersion", "kind", "name", "uid")}
        if owner.get("controller") is True and all(isinstance(value, str) for value in found.values()):
            return {name: str(value) for name, value in found.items()} | {"namespace": namespace}
    name = metadata.get("name") or metadata.get("generateName") or ""
    return {"apiVersion": "v1", "kind": "Pod", "name": str(name), "namespace": namespace}


def event(pod: SkippedPod) -> dict[str, Any]:
    """The Event about a pod that was admitted without a sidecar."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "pdp-injector-", "namespace": pod.namespace},
        "involvedObject": pod.involved,
        "type": "Normal",
        "reason": "SidecarSkipped",
        "message": f"a pod is admitted without the sidecar: {pod.reason.value}",
        "source": {"component": "pdp-injector", "host": socket.gethostname()},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _document(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_ANSWER_BYTES:
        raise ClusterError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    try:
        found = strict_json.loads(content)
    except ValueError as error:
        raise ClusterError("the answer is not JSON") from error
    if not isinstance(found, dict):
        raise ClusterError("the answer is not an object")
    return found


def _member(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}
