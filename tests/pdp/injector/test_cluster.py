"""What the injector asks of the API server, over real HTTPS, and what holds when it gets no answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pdp.endpoints.listeners import http_listener
from pdp.injector import app, cluster
from pdp.injector.cluster import Cluster, ClusterError, involved, node_runs_native
from pdp.serving.addresses import Address
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from pdp.serving.tls.certificates import Files
from pdp.serving.tls.reloading import ServerCertificates
from tests.pdp.injector.calling import BOUND_SECONDS, webhook
from tests.pdp.injector.cases import admission_review, load, patch_of
from tests.tls.certificates import write_pair
from tests.waiting import eventually

OPTED_OUT = next(case for case in load() if case.name == "opted-out")


class ApiServer:
    """The part of an API server that the injector asks; `namespaces` are their annotations."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, str]] = {}
        self.nodes: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.answer: Response | None = None
        """Given to every request instead, if there is one."""
        self.answering = asyncio.Event()
        self.answering.set()

    def application(self) -> Starlette:
        """Its routes."""
        return Starlette(
            routes=[
                Route("/api/v1/namespaces/{name}", self._guarded(self._namespace)),
                Route("/api/v1/namespaces/{name}/events", self._guarded(self._event), methods=["POST"]),
                Route("/api/v1/nodes", self._guarded(self._nodes)),
            ]
        )

    def _guarded(self, endpoint: Any) -> Any:
        async def guarded(request: Request) -> Response:
            self.asked.append(request.headers["authorization"])
            await self.answering.wait()
            return self.answer or await endpoint(request)

        return guarded

    async def _namespace(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.namespaces:
            return JSONResponse({"kind": "Status", "code": 404}, 404)
        return JSONResponse({"metadata": {"name": name, "annotations": self.namespaces[name]}})

    async def _event(self, request: Request) -> Response:
        self.events.append(await request.json())
        return JSONResponse(self.events[-1], 201)

    async def _nodes(self, request: Request) -> Response:
        start, limit = int(request.query_params.get("continue", 0)), int(request.query_params["limit"])
        page = {"items": self.nodes[start : start + limit], "metadata": {}}
        if start + limit < len(self.nodes):
            page["metadata"] = {"continue": str(start + limit)}
        return JSONResponse(page)


class Served:
    """An API server that runs, and the folder of a service account for it."""

    def __init__(self, api: ApiServer, address: Address, folder: Path) -> None:
        self.api = api
        self.address = address
        self.folder = folder

    def cluster(self) -> Cluster:
        """The cluster, as a pod sees it."""
        environment = {"KUBERNETES_SERVICE_HOST": self.address.host, "KUBERNETES_SERVICE_PORT": str(self.address.port)}
        found = Cluster.of_this_pod(environment, self.folder)
        assert found is not None
        return found


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[Served]:
    authority = trustme.CA()
    pair = write_pair(folder / "api", authority)
    account = folder / "account"
    account.mkdir()
    (account / "token").write_text("token-1\n")
    (account / "namespace").write_text("pdp-system")
    (account / "ca.crt").write_bytes(authority.cert_pem.bytes())
    api = ApiServer()
    listener = http_listener("--listen", Address("127.0.0.1", 0))
    certificates = ServerCertificates(Files(pair.cert, pair.key))
    address = Address(*listener.getsockname()[:2])
    async with serving(api.application(), listener, Limits(stop_seconds=0.0), tls=certificates.context):
        yield Served(api, address, account)
        api.answering.set()


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "END_SECONDS", 0.0)


async def test_a_pod_opts_out_where_its_namespace_lets_it(tmp_path: Path) -> None:
    """The namespace is read for a pod that asks, and for no other; the skip is told as an Event, but of no dry run."""
    async with api_server(tmp_path) as served, webhook(tmp_path, served.cluster(), native="always") as hook:
        asked = OPTED_OUT.request()
        assert await injected(hook, asked)
        assert served.api.asked == ["Bearer token-1"]
        served.api.namespaces["agents"] = {"pdp.dev/allow-opt-out": "yes"}
        assert await injected(hook, asked)
        served.api.namespaces["agents"] = {"pdp.dev/allow-opt-out": "true"}
        (served.folder / "token").write_text("token-2")
        assert not await injected(hook, admission_review(OPTED_OUT.pod, dry_run=True))
        assert served.api.asked[-1] == "Bearer token-2"
        assert not await injected(hook, asked)
        await eventually(lambda: served.api.events)
        (event,) = served.api.events
        assert event["reason"] == "SidecarSkipped"
        assert event["message"] == "a pod is admitted without the sidecar: opted_out"
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "name": "agent-0", "namespace": "agents"}
        await eventually(lambda: hook.metrics()['pdp_injector_events_total{result="sent"}'] == 1)
        plain = next(case for case in load() if case.name == "plain")
        before = len(served.api.asked)
        assert await injected(hook, plain.request())
        assert len(served.api.asked) == before


@pytest.mark.parametrize(
    "answer",
    [
        Response("no JSON"),
        Response("[]"),
        Response("x" * (cluster.MAX_ANSWER_BYTES + 1)),
        JSONResponse({"metadata": {"annotations": "true"}}),
        JSONResponse({"metadata": {"annotations": {"pdp.dev/allow-opt-out": "true"}}}, 403),
        Response(status_code=307, headers={"location": "/api/v1/namespaces/allowed"}),
    ],
    ids=["text", "list", "too large", "malformed", "forbidden", "elsewhere"],
)
async def test_without_a_usable_answer_nobody_opts_out(tmp_path: Path, answer: Response) -> None:
    """The pod gets the sidecar."""
    async with api_server(tmp_path) as served:
        served.api.namespaces["allowed"] = {"pdp.dev/allow-opt-out": "true"}
        served.api.answer = answer
        of_this_pod = served.cluster()
        assert await of_this_pod.allows_opt_out("agents") is False
        of_this_pod.close()


async def test_an_api_server_that_hangs_holds_up_no_other_review(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reviews that ask it nothing are answered meanwhile, and those that do when it answers."""
    monkeypatch.setattr(cluster, "ASK_SECONDS", BOUND_SECONDS)
    monkeypatch.setattr(cluster, "TIMEOUT", BOUND_SECONDS)
    async with api_server(tmp_path) as served, webhook(tmp_path, served.cluster(), native="always") as hook:
        served.api.namespaces["agents"] = {"pdp.dev/allow-opt-out": "true"}
        served.api.answering.clear()
        asking = []
        for number in range(cluster.THREADS + 2):
            asking.append(asyncio.create_task(injected(hook, OPTED_OUT.request())))
            await eventually(lambda count=number + 1: len(served.api.asked) >= min(count, cluster.THREADS))
        plain = next(case for case in load() if case.name == "plain")
        assert await injected(hook, plain.request())
        assert not any(task.done() for task in asking)
        served.api.answering.set()
        assert await asyncio.gather(*asking) == [False] * len(asking)


async def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pod gets the sidecar."""
    monkeypatch.setattr(cluster, "ASK_SECONDS", 0.05)
    async with api_server(tmp_path) as served, webhook(tmp_path, served.cluster(), native="always") as hook:
        served.api.namespaces["agents"] = {"pdp.dev/allow-opt-out": "true"}
        served.api.answering.clear()
        assert await injected(hook, OPTED_OUT.request())


async def test_events_beyond_the_bound_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted, and what fails is counted too."""
    monkeypatch.setattr(cluster, "WAITING_EVENTS", 2)
    asked = admission_review({"metadata": {"name": "x"}, "spec": {}}, namespace="kube-system")
    async with api_server(tmp_path) as served, webhook(tmp_path, served.cluster(), native="always") as hook:
        served.api.answering.clear()
        for _ in range(5):
            await hook.review(asked)
        await eventually(lambda: hook.metrics()['pdp_injector_events_total{result="dropped"}'] >= 2)
        served.api.answer = Response(status_code=403)
        served.api.answering.set()
        await eventually(lambda: hook.metrics()['pdp_injector_events_total{result="failed"}'] >= 2)
        assert not served.api.events


async def test_the_own_namespace_is_excluded(tmp_path: Path) -> None:
    """The injector's own pods need no injector."""
    async with api_server(tmp_path) as served, webhook(tmp_path, served.cluster(), native="always") as hook:
        answer = await hook.review(admission_review({"metadata": {}, "spec": {}}, namespace="pdp-system"))
        assert answer.body["response"]["auditAnnotations"]["reason"] == "excluded_namespace"


async def test_the_form_follows_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--native auto`: all pages of the nodes are read, at the start and again."""
    monkeypatch.setattr(app, "NODES_SECONDS", 0.02)
    new, old = (node(version) for version in ("v1.31.2", "v1.28.9-gke.1"))
    plain = next(case for case in load() if case.name == "plain").request()
    async with api_server(tmp_path) as served:
        served.api.nodes = [new] * 45 + [old]
        async with webhook(tmp_path, served.cluster()) as hook:
            assert not await is_native(hook, plain)
            served.api.nodes = [new] * 45
            await eventually(lambda: hook.metrics()["pdp_injector_native"] == 1)
            assert await is_native(hook, plain)
            served.api.answer = Response(status_code=403)
            count = len(served.api.asked)
            await eventually(lambda: len(served.api.asked) > count + 1)
            assert await is_native(hook, plain)


async def test_where_it_may_not_ask_the_form_is_native(tmp_path: Path) -> None:
    """Also outside of a cluster; `never` asks nobody."""
    plain = next(case for case in load() if case.name == "plain").request()
    async with api_server(tmp_path) as served:
        served.api.answer = Response(status_code=403)
        async with webhook(tmp_path, served.cluster()) as hook:
            assert served.api.asked
            assert await is_native(hook, plain)
        before = len(served.api.asked)
        async with webhook(tmp_path, served.cluster(), native="never") as hook:
            assert not await is_native(hook, plain)
        assert len(served.api.asked) == before
    async with webhook(tmp_path) as hook:
        assert await is_native(hook, plain)
    assert Cluster.of_this_pod({}, tmp_path) is None
    assert Cluster.of_this_pod({"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path) is None


async def test_the_authority_of_the_api_server_is_checked(tmp_path: Path) -> None:
    """An unknown one gets no token; a new one in the file is trusted."""
    async with api_server(tmp_path) as served:
        served.api.namespaces["agents"] = {"pdp.dev/allow-opt-out": "true"}
        right = (served.folder / "ca.crt").read_bytes()
        (served.folder / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
        of_this_pod = served.cluster()
        assert not await of_this_pod.allows_opt_out("agents")
        assert not served.api.asked
        (served.folder / "ca.crt").write_bytes(right)
        assert await of_this_pod.allows_opt_out("agents")
        served.api.answer = JSONResponse({"items": None})
        with pytest.raises(ClusterError, match="not a list of nodes"):
            await of_this_pod.runs_native()
        of_this_pod.close()


@pytest.mark.parametrize(
    ("version", "label", "native"),
    [
        ("v1.29.0", None, True),
        ("v1.28.15", None, False),
        ("v1.36.1+k3s1", None, True),
        ("v2.0.0", None, True),
        ("v1.29.0", "false", False),
        ("v1.28.0", "true", True),
        ("v1.30.0", "perhaps", True),
        ("unknown", None, False),
        (None, None, False),
    ],
)
def test_a_node_runs_native_sidecars(version: str | None, label: str | None, native: bool) -> None:
    """By its label, else by its kubelet; one that cannot be told does not."""
    assert node_runs_native(node(version, label)) is native


def test_an_event_is_shown_at_what_made_the_pod() -> None:
    """A pod in admission has no uid, and often no name, so `kubectl describe` would not find its Event."""
    pod: dict[str, Any] = {
        "metadata": {
            "generateName": "agent-7d9-",
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "controller": True}
            ],
        }
    }
    shown = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "namespace": "n"}
    assert involved(pod, "n") == shown
    for owners in (None, "x", [1], [{"controller": True}], [{"controller": True, "kind": 1}]):
        pod["metadata"]["ownerReferences"] = owners
        assert involved(pod, "n") == {"apiVersion": "v1", "kind": "Pod", "name": "agent-7d9-", "namespace": "n"}


def node(version: str | None, label: str | None = None) -> dict[str, Any]:
    labels = {} if label is None else {"labels": {"pdp.dev/native": label}}
    info = {} if version is None else {"kubeletVersion": version}
    return {"metadata": labels, "status": {"nodeInfo": info, "images": [{"sizeBytes": 1}]}}


async def injected(hook: Any, asked: dict[str, Any]) -> bool:
    """Whether the pod gets the sidecar; it is admitted in any case."""
    answer = await hook.review(asked)
    assert answer.body["response"]["allowed"] is True
    return "pdp-sidecar" in json.dumps(patch_of(answer.body))


async def is_native(hook: Any, asked: dict[str, Any]) -> bool:
    answer = await hook.review(asked)
    return any(operation["path"].startswith("/spec/initContainers") for operation in patch_of(answer.body))
