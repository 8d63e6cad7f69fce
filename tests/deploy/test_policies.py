"""The policy on new pods: what the injector makes is admitted, and what dodges it is refused."""

import copy

import pytest

from tests.deploy.building import BUILDS, build, one
from tests.deploy.pods import (
    ADMITTED,
    CASES,
    IMAGE,
    KEY,
    NEW,
    Change,
    agent,
    created,
    injected,
    mount,
    parameters,
    patched,
    replace_argument,
    second_form,
    sidecar,
    to_container,
    variable,
    volume,
)
from tests.deploy.policies import POLICIES, Request, enrolled, refusals, settings
from tests.pdp.injector.api_server import defaulted


def test_there_are_golden_pods() -> None:
    """So that the tests over them say something."""
    assert len(CASES) >= 30
    assert len(ADMITTED) >= 15


@pytest.mark.parametrize("name", ADMITTED)
def test_an_injected_pod_is_admitted(name: str) -> None:
    """As it is, and with the API server's defaults and its token."""
    assert created(patched(name), name) == []
    assert created(defaulted(patched(name)), name) == []


@pytest.mark.parametrize("name", [name for name in NEW if CASES[name]["result"] == "refused"])
def test_a_pod_that_the_injector_refuses_is_refused_without_it_too(name: str) -> None:
    """As when somebody has deleted the webhook."""
    assert created(CASES[name]["pod"], name)


@pytest.mark.parametrize("name", ADMITTED)
def test_a_pod_that_no_injector_saw_is_refused(name: str) -> None:
    """Whatever its annotations say."""
    pod = copy.deepcopy(CASES[name]["pod"])
    if CASES[name]["result"] == "injected" and not name.startswith("sidecar-"):
        assert created(pod, name)


@pytest.mark.parametrize("name", [name for name in NEW if CASES[name]["result"] == "skipped"])
def test_a_skipped_pod_is_admitted(name: str) -> None:
    """The namespace lets it opt out, or is excluded."""
    assert created(patched(name), name) == []


NOT_THERE = "has no container pdp-sidecar"
PLACE = "is not the first init container"
RUN = "does not run as the injector sets it"
CONTEXT = "security context of the injector"
MOUNTS = "does not have the volume mounts"
VOLUMES = "the volumes of pdp-sidecar"
AGENT_MOUNT = "a container does not mount"
ENVIRONMENT = "a container has not the PDP_ADDRESS"
SECRET = "only the sidecar may use the Secret"
PROCESSES = "out of the agent's reach"

DODGES: dict[str, tuple[Change, str]] = {
    "no sidecar": (lambda p: p["spec"]["initContainers"].pop(0), NOT_THERE),
    "another name": (lambda p: sidecar(p).update(name="pdp-sidecar-2"), NOT_THERE),
    "twice": (second_form, NOT_THERE),
    "after another init container": (lambda p: p["spec"]["initContainers"].reverse(), PLACE),
    "ends before the agent starts": (lambda p: sidecar(p).pop("restartPolicy"), PLACE),
    "behind the agent": (to_container, PLACE),
    "image": (lambda p: sidecar(p).update(image="registry.example/anything:1"), "the image"),
    "image by prefix": (lambda p: sidecar(p).update(image=f"{IMAGE}-evil"), "the image"),
    "command": (lambda p: sidecar(p).update(command=["sleep"]), RUN),
    "command without end": (lambda p: sidecar(p).update(command=["pdp", "dev"]), RUN),
    "no arguments": (lambda p: sidecar(p).pop("args"), RUN),
    "another store": (lambda p: replace_argument(p, "--store=", "--store=evil:50052"), RUN),
    "another store as well": (lambda p: sidecar(p)["args"].append("--store=evil:50052"), RUN),
    "another agent": (lambda p: replace_argument(p, "--agents=", "--agents=somebody-else"), RUN),
    "every agent": (lambda p: sidecar(p)["args"].append("--all-agents"), RUN),
    "another agent by annotation": (
        lambda p: p["metadata"]["annotations"].update({"pdp.dev/agent-id": "somebody-else"}),
        RUN,
    ),
    "no agent": (lambda p: p["metadata"].pop("annotations"), RUN),
    "no metrics": (lambda p: replace_argument(p, "--metrics=", "--metrics=127.0.0.1:9181"), RUN),
    "a level twice": (lambda p: replace_argument(p, "--drain-seconds=", "--log-level=error"), RUN),
    "environment of the sidecar": (
        lambda p: sidecar(p).update(env=[{"name": "PDP_STALE_MODE", "value": "serve"}]),
        RUN,
    ),
    "environment of the sidecar from elsewhere": (
        lambda p: sidecar(p).update(envFrom=[{"configMapRef": {"name": "x"}}]),
        RUN,
    ),
    "working folder": (lambda p: sidecar(p).update(workingDir="/var/run/pdp"), RUN),
    "root": (lambda p: sidecar(p)["securityContext"].update(runAsUser=0, runAsNonRoot=False), CONTEXT),
    "the agent's user": (lambda p: sidecar(p)["securityContext"].update(runAsUser=10001), CONTEXT),
    "escalation": (lambda p: sidecar(p)["securityContext"].pop("allowPrivilegeEscalation"), CONTEXT),
    "writable root": (lambda p: sidecar(p)["securityContext"].update(readOnlyRootFilesystem=False), CONTEXT),
    "capability": (lambda p: sidecar(p)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]), CONTEXT),
    "capabilities kept": (lambda p: sidecar(p)["securityContext"].pop("capabilities"), CONTEXT),
    "privileged": (lambda p: sidecar(p)["securityContext"].update(privileged=True), CONTEXT),
    "no seccomp": (
        lambda p: sidecar(p)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        CONTEXT,
    ),
    "no security context": (lambda p: sidecar(p).pop("securityContext"), CONTEXT),
    "preStop": (
        lambda p: sidecar(p).update(lifecycle={"preStop": {"exec": {"command": ["pdp", "--version"]}}}),
        CONTEXT,
    ),
    "no probe": (lambda p: sidecar(p).pop("startupProbe"), "three probes"),
    "a probe that runs a command": (
        lambda p: sidecar(p).update(livenessProbe={"exec": {"command": ["pdp"]}}),
        "three probes",
    ),
    "socket elsewhere": (lambda p: mount(sidecar(p)).update(mountPath="/tmp"), MOUNTS),
    "part of the socket's volume": (lambda p: mount(sidecar(p)).update(subPath="x"), MOUNTS),
    "service account's token": (
        lambda p: mount(sidecar(p), "pdp-no-token").update(name="kube-api-access-7xk2p"),
        MOUNTS,
    ),
    "one mount more": (
        lambda p: sidecar(p)["volumeMounts"].append({"name": "work", "mountPath": "/usr/lib/python3"}),
        MOUNTS,
    ),
    "the agent's key": (lambda p: volume(p, "pdp-key")["secret"].update(secretName="mine"), VOLUMES),
    "the agent's authority": (lambda p: volume(p, "pdp-store-ca")["secret"].update(secretName="mine"), VOLUMES),
    "data on a disk that others share": (
        lambda p: (volume(p, "pdp-data").clear(), p["spec"]["volumes"][1].update(name="pdp-data", nfs={})),
        VOLUMES,
    ),
    "a token as emptyDir": (
        lambda p: (volume(p, "pdp-no-token").pop("emptyDir"), volume(p, "pdp-no-token").update(projected={})),
        VOLUMES,
    ),
    "agent without the socket": (lambda p: agent(p)["volumeMounts"].remove(mount(agent(p))), AGENT_MOUNT),
    "agent without mounts": (lambda p: agent(p).pop("volumeMounts"), AGENT_MOUNT),
    "init container without the socket": (
        lambda p: p["spec"]["initContainers"][1].pop("volumeMounts"),
        AGENT_MOUNT,
    ),
    "agent may replace the socket": (lambda p: mount(agent(p)).pop("readOnly"), AGENT_MOUNT),
    "agent may replace it elsewhere": (
        lambda p: agent(p)["volumeMounts"].append({"name": "pdp-socket", "mountPath": "/mine"}),
        AGENT_MOUNT,
    ),
    "agent has part of the volume": (lambda p: mount(agent(p)).update(subPath="x"), AGENT_MOUNT),
    "agent reads the key's volume": (
        lambda p: agent(p)["volumeMounts"].append({"name": "pdp-key", "mountPath": "/key", "readOnly": True}),
        AGENT_MOUNT,
    ),
    "agent writes the counters": (
        lambda p: agent(p)["volumeMounts"].append({"name": "pdp-data", "mountPath": "/data"}),
        AGENT_MOUNT,
    ),
    "another socket over it": (
        lambda p: agent(p)["volumeMounts"].append({"name": "work", "mountPath": "/run/pdp/"}),
        AGENT_MOUNT,
    ),
    "another socket in it": (
        lambda p: agent(p)["volumeMounts"].append({"name": "work", "mountPath": "//var//run/pdp/pdp.sock"}),
        AGENT_MOUNT,
    ),
    "another address": (lambda p: variable(agent(p), "PDP_ADDRESS").update(value="evil:50051"), ENVIRONMENT),
    "another address as well": (
        lambda p: agent(p)["env"].append({"name": "PDP_ADDRESS", "value": "evil:50051"}),
        ENVIRONMENT,
    ),
    "an address from elsewhere": (
        lambda p: variable(agent(p), "PDP_ADDRESS").update(
            value=None, valueFrom={"configMapKeyRef": {"name": "x", "key": "y"}}
        ),
        ENVIRONMENT,
    ),
    "another address of HTTP": (
        lambda p: variable(agent(p), "PDP_HTTP_ADDRESS").update(value="http://evil"),
        ENVIRONMENT,
    ),
    "open": (lambda p: variable(agent(p), "PDP_FAIL_MODE").update(value="open"), ENVIRONMENT),
    "no environment": (lambda p: agent(p).pop("env"), ENVIRONMENT),
    "the key as a volume": (
        lambda p: p["spec"]["volumes"].append({"name": "k", "secret": {"secretName": KEY}}),
        SECRET,
    ),
    "the key among others": (
        lambda p: p["spec"]["volumes"].append({"name": "k", "projected": {"sources": [{"secret": {"name": KEY}}]}}),
        SECRET,
    ),
    "the key as a variable": (
        lambda p: agent(p)["env"].append(
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": KEY, "key": "key"}}},
        ),
        SECRET,
    ),
    "the key as variables": (lambda p: agent(p).update(envFrom=[{"secretRef": {"name": KEY}}]), SECRET),
    "shared processes": (lambda p: p["spec"].update(shareProcessNamespace=True), PROCESSES),
    "the node's processes": (lambda p: p["spec"].update(hostPID=True), PROCESSES),
    "opted out by itself": (
        lambda p: (p["metadata"].update(labels={"pdp.dev/inject": "disabled"}), p["spec"]["initContainers"].pop(0)),
        NOT_THERE,
    ),
}


@pytest.mark.parametrize(("change", "message"), DODGES.values(), ids=DODGES)
def test_a_dodging_pod_is_refused(change: Change, message: str) -> None:
    """An intact pod with one change, as another webhook or a pod's author would make it."""
    pod = injected()
    assert created(pod) == []
    change(pod)
    found = created(pod)
    assert any(message in each for each in found), found


ELSEWHERE = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://evil:4317"}
TRACE_DODGES: dict[str, Change] = {
    "no traces": lambda p: sidecar(p)["args"].remove("--traces"),
    "no collector": lambda p: sidecar(p).pop("env"),
    "another collector": lambda p: sidecar(p).update(env=[ELSEWHERE]),
    "another collector as well": lambda p: sidecar(p)["env"].append(ELSEWHERE),
    "headers": lambda p: sidecar(p)["env"].append({"name": "OTEL_EXPORTER_OTLP_HEADERS", "value": "a=b"}),
    "the collector under another name": lambda p: sidecar(p)["env"][0].update(name="PDP_STORE"),
    "a collector from elsewhere": lambda p: sidecar(p).update(
        env=[{"name": ELSEWHERE["name"], "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}]
    ),
}


@pytest.mark.parametrize("change", TRACE_DODGES.values(), ids=TRACE_DODGES)
def test_the_traces_of_a_sidecar_are_the_administrators(change: Change) -> None:
    """An intact pod with a collector, with one change."""
    pod = patched("traces")
    assert created(pod, "traces") == []
    change(pod)
    (message,) = created(pod, "traces")
    assert RUN in message


def test_without_a_collector_there_are_no_traces() -> None:
    """Neither the argument nor the variable, and both together neither."""
    pod = patched("traces")
    assert RUN in created(pod, "plain")[0]
    for change in (TRACE_DODGES["no traces"], TRACE_DODGES["no collector"]):
        half = copy.deepcopy(pod)
        change(half)
        assert RUN in created(half, "plain")[0]


def test_the_administrator_chooses_the_form() -> None:
    """Where every node runs native sidecars, none that starts beside the init containers is admitted."""
    container, native = patched("container-form"), patched("plain")
    told = parameters(CASES["plain"])
    for pod, form, admitted in (
        (container, "auto", True),
        (container, "never", True),
        (container, "always", False),
        (native, "auto", True),
        (native, "never", False),
        (native, "always", True),
    ):
        found = refusals(Request("CREATE", "pods", pod), told | {"native": form})
        assert (found == []) == admitted, (form, found)


def test_no_parameter_is_no_pass() -> None:
    """A ConfigMap without its items refuses, for an error is a refusal."""
    for name in settings().keys() - {"native"}:
        told = {key: value for key, value in parameters(CASES["plain"]).items() if key != name}
        assert refusals(Request("CREATE", "pods", injected()), told), name


def test_a_namespace_that_is_not_enrolled_is_left_alone() -> None:
    """And so are the namespaces in which the cluster and the injector start, also with the label."""
    bare = CASES["plain"]["pod"]
    elsewhere = {"metadata": {"name": "other", "labels": {"kubernetes.io/metadata.name": "other"}}}
    for one_namespace in (elsewhere, enrolled("kube-system"), enrolled("pdp-system")):
        assert refusals(Request("CREATE", "pods", bare, namespace=one_namespace)) == []
    assert refusals(Request("CREATE", "pods", bare))


OPTED_OUT: dict[str, tuple[Change, bool]] = {
    "plain": (lambda p: None, True),
    "with processes of its own": (lambda p: p["spec"].update(shareProcessNamespace=True), True),
    "with the key as a volume": (
        lambda p: p["spec"].update(volumes=[{"name": "pdp-key", "secret": {"secretName": KEY}}]),
        False,
    ),
    "with the key as variables": (
        lambda p: agent(p).update(name="pdp-sidecar", envFrom=[{"secretRef": {"name": KEY}}]),
        False,
    ),
}


@pytest.mark.parametrize(("change", "admitted"), OPTED_OUT.values(), ids=OPTED_OUT)
def test_a_pod_that_may_opt_out_still_gets_no_key(change: Change, *, admitted: bool) -> None:
    """With it, it could report decisions that nobody made."""
    pod = patched("opted-out")
    change(pod)
    assert (created(pod, "opted-out") == []) == admitted


def test_every_validation_is_needed() -> None:
    """Each one alone refuses some dodging pod: without it that pod would be admitted."""
    policy = one(build("production"), "ValidatingAdmissionPolicy", "pdp-new-pods")
    alone = set()
    for change, _ in DODGES.values():
        pod = injected()
        change(pod)
        found = created(pod)
        if len(found) == 1:
            alone.add(found[0])
    # Without a sidecar nothing can be said of it, so the first never refuses alone.
    assert {each["message"] for each in policy["spec"]["validations"][1:]} - alone == set()


@pytest.mark.parametrize(
    "name", [name for name in BUILDS if "before" not in name and name not in ("revision", "example", "monitoring")]
)
def test_policies_webhook_and_injector_agree(name: str) -> None:
    """On the namespaces, and on what an intact sidecar is."""
    objects = build(name)
    told = one(objects, "ConfigMap", "pdp-sidecar-policy")["data"]
    given = one(objects, "ConfigMap", "pdp-injector")["data"]
    assert given["PDP_INJECTOR_IMAGE"] in told["images"].split("\n")
    for item, variable_name in (
        ("native", "NATIVE"),
        ("key-secret", "KEY_SECRET"),
        ("store-ca-secret", "STORE_CA_SECRET"),
        ("fail-mode", "FAIL_MODE"),
    ):
        assert told[item] == given[f"PDP_INJECTOR_{variable_name}"]
    assert told["otlp-endpoint"] == given.get("PDP_INJECTOR_OTLP_ENDPOINT", "")
    selector = one(objects, "MutatingWebhookConfiguration", "pdp-injector")["webhooks"][0]["namespaceSelector"]
    for policy_name in POLICIES[:3]:
        guarded = one(objects, "ValidatingAdmissionPolicy", policy_name)["spec"]["matchConstraints"][
            "namespaceSelector"
        ]
        assert guarded["matchLabels"] == selector["matchLabels"]
        # The webhook leaves namespaces of another revision to the injector of that; the policies leave none out.
        assert guarded["matchExpressions"] == selector["matchExpressions"][:1]
