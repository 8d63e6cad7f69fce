"""The commands of the manifests, run as processes: they start, their probes answer, and the example's pods pass."""

import asyncio
import base64
import json
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import jsonpatch
import trustme

from ascend import Registry
from tests import console, programs
from tests.deploy.building import FOLDER, Object, build, one, pod_template
from tests.deploy.policies import Request, refusals
from tests.pdp.injector.calling import Caller
from tests.pdp.injector.cases import admission_review
from tests.ports import reserved
from tests.tls.certificates import write_pair
from tests.waiting import eventually_gives

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SECONDS = 10


class Started(NamedTuple):
    """A container that runs as a process here: its manifest, its addresses by the names of their ports, its trust."""

    container: Object
    process: programs.Running
    addresses: dict[str, str]
    trust: ssl.SSLContext

    async def probe(self, name: str) -> int:
        """What the kubelet gets from a probe: a status, or 0 where nothing answers."""
        asked = self.container[name]["httpGet"]
        url = f"{asked.get('scheme', 'HTTP').lower()}://{self.addresses[asked['port']]}{asked['path']}"
        return await asyncio.to_thread(self._status, url)

    def _status(self, url: str) -> int:
        try:
            with urlopen(url, context=self.trust, timeout=SECONDS) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except URLError:
            return 0


@asynccontextmanager
async def started(objects: list[Object], name: str, folder: Path) -> AsyncIterator[Started]:
    """The container of a Deployment, with its volumes in `folder` and its ports on this host alone."""
    spec = one(objects, "Deployment", name)["spec"]["template"]["spec"]
    container = spec["containers"][0]
    authority = trustme.CA()
    folders = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
    for path in folders.values():
        path.mkdir()
    write_pair(folder / "tls", authority)
    if (folder / "agents").exists():
        (folder / "agents" / "agents.yaml").write_text(one(objects, "ConfigMap", "pdp-agents")["data"]["agents.yaml"])
    with ExitStack() as stack:
        addresses = {port["name"]: stack.enter_context(reserved()) for port in container["ports"]}
        here = {f"[::]:{port['containerPort']}": addresses[port["name"]] for port in container["ports"]}
        here |= {path: str(found) for path, found in folders.items()}
        program, *arguments = (_replaced(each, here) for each in [*container["command"], *container["args"]])
        environment = {each["name"]: each["value"] for each in container.get("env", [])}
        for source in container.get("envFrom", []):
            environment |= one(objects, "ConfigMap", source["configMapRef"]["name"].rpartition("-")[0])["data"]
        environment = {key: _replaced(value, here) for key, value in environment.items()}
        trust = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        async with programs.started(program, *arguments, **environment) as process:
            yield Started(container, process, addresses, trust)


def _replaced(text: str, here: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], text)


async def test_the_store_of_development_runs(tmp_path: Path) -> None:
    """Its probes answer on the port for metrics, REST and gRPC speak TLS 1.3, and SIGTERM ends it."""
    async with started(build("development"), "registry-store", tmp_path) as store:
        for name in PROBES:
            await eventually_gives(lambda name=name: store.probe(name), lambda status: status == 200)
        for name in ("https", "grpc"):
            caller = await Caller.connect(store.addresses[name], store.trust)
            assert caller.tls_version == "TLSv1.3"
            caller.close()
        assert await store.process.stopped() == 0
    assert (tmp_path / "data" / "registry.db").exists()


async def test_the_injector_of_production_injects_the_example(tmp_path: Path) -> None:
    """The policies, with the parameters of production, admit what its settings make, and nothing else."""
    namespace = one(build("example"), "Namespace", "agents-example")
    labels = namespace["metadata"]["labels"] | {"kubernetes.io/metadata.name": "agents-example"}
    enrolled: Object = {"metadata": namespace["metadata"] | {"labels": labels}}
    async with started(build("production"), "pdp-injector", tmp_path) as injector:
        for name in PROBES:
            await eventually_gives(lambda name=name: injector.probe(name), lambda status: status == 200)
        caller = await Caller.connect(injector.addresses["https"], injector.trust)
        pods = [example_pod(each) for each in build("example") if pod_template(each)]
        assert len(pods) == 2
        for pod in pods:
            answer = (await caller.review(admission_review(pod, namespace="agents-example"))).body["response"]
            assert answer["allowed"], answer
            patched = jsonpatch.apply_patch(pod, json.loads(base64.b64decode(answer["patch"])))
            assert refusals(Request("CREATE", "pods", patched, namespace=enrolled)) == []
            assert refusals(Request("CREATE", "pods", pod, namespace=enrolled))
        stranger = example_pod(one(build("example"), "Deployment", "example-agent"))
        stranger["spec"]["serviceAccountName"] = "default"
        answer = (await caller.review(admission_review(stranger, namespace="agents-example"))).body["response"]
        assert not answer["allowed"]
        assert "example-agent" in answer["status"]["message"]
        caller.close()
        assert await injector.process.stopped() == 0


def example_pod(each: Object) -> Any:
    """A pod of a workload, as its controller creates it."""
    template = json.loads(json.dumps(each["spec"]["template"]))
    metadata = template["metadata"] | {"generateName": f"{each['metadata']['name']}-", "namespace": "agents-example"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


async def test_the_agents_of_the_example_get_their_decisions() -> None:
    """The one that runs on ends at SIGTERM, and that of the Job by itself."""
    job = one(build("example"), "Job", "example-question")["spec"]["template"]["spec"]["containers"][0]
    with console.dev() as dev, Registry(f"http://{dev.registry}", dev.key) as registry:
        registry.register(agent_id="example-agent", display_name="Example agent")

        async def question() -> programs.Ended:
            return await programs.run(
                job["command"][0], *job["command"][1:], *job["args"], PDP_ADDRESS=dev.sidecar_grpc
            )

        answer = await eventually_gives(question, lambda ended: "AGENT_NOT_REGISTERED" not in ended.out)
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["outcome"] == "allow"
        agent = await asyncio.create_subprocess_exec(
            sys.executable,
            FOLDER / "example" / "agent.py",
            env=os.environ | {"PDP_ADDRESS": dev.sidecar_grpc},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert agent.stdout is not None
            assert await agent.stdout.readline() == b"answered: how many orders came in today\n"
            agent.terminate()
            assert await agent.wait() == 0
        finally:
            with suppress(ProcessLookupError):
                agent.kill()
