"""The checks of the manifests find what is wrong: each mistake is made in a correct build, and named."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy import references, schemas, security, values
from tests.deploy.building import Object, build, one

Change = Callable[[list[Object]], None]


def broken(name: str, change: Change) -> list[Object]:
    """A build in which a mistake is made."""
    objects = copy.deepcopy(build(name))
    change(objects)
    return objects


def pods(objects: list[Object], name: str = "registry-store") -> Any:
    """The pod of a Deployment."""
    return one(objects, "Deployment", name)["spec"]["template"]["spec"]


def store(objects: list[Object]) -> Any:
    """The container of the store."""
    return pods(objects)["containers"][0]


def webhook(objects: list[Object]) -> Any:
    """The one webhook."""
    return one(objects, "MutatingWebhookConfiguration", "pdp-injector")["webhooks"][0]


def policy(objects: list[Object], number: int) -> Any:
    """An ingress rule of the store's network policy."""
    return one(objects, "NetworkPolicy", "registry-store")["spec"]["ingress"][number]


UNKNOWN: dict[str, Change] = {
    "a member of a container": lambda o: store(o).update(imagePolicy="Always"),
    "a member of a webhook": lambda o: webhook(o).update(onFailure="Fail"),
    "a member of a certificate": lambda o: one(o, "Certificate", "pdp-ca")["spec"].update(secret="x"),
    "a member of a policy": lambda o: one(o, "ValidatingAdmissionPolicy", "pdp-new-pods")["spec"].update(params={}),
    "a wrong type": lambda o: one(o, "Deployment", "registry-store")["spec"].update(replicas="three"),
}


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_a_schema_refuses_what_it_does_not_know(change: Change) -> None:
    """In the newest and in the oldest version."""
    for version in ("1.30", schemas.versions("1.30")[-1]):
        assert [p for each in broken("production", change) for p in schemas.problems(each, version)]


def test_an_older_version_refuses_what_it_does_not_have() -> None:
    """ValidatingAdmissionPolicy v1 came with 1.30; without the component an older cluster cannot take the manifests."""
    with pytest.raises(FileNotFoundError):
        schemas.problems(one(build("production"), "ValidatingAdmissionPolicy", "pdp-new-pods"), "1.29")


VALUES: dict[str, tuple[Change, str]] = {
    "enum": (lambda o: webhook(o).update(failurePolicy="Refuse"), "failurePolicy: `Refuse`"),
    "enum that would let pods in": (lambda o: webhook(o).update(failurePolicy="Ignore"), "failurePolicy: `Ignore`"),
    "operation": (lambda o: webhook(o)["rules"][0].update(operations=["create"]), "operations: `create`"),
    "operator": (
        lambda o: webhook(o)["namespaceSelector"]["matchExpressions"][0].update(operator="Not"),
        "operator: `Not`",
    ),
    "action": (
        lambda o: one(o, "ValidatingAdmissionPolicyBinding", "pdp-new-pods")["spec"].update(
            validationActions=["Refuse"]
        ),
        "validationActions: `Refuse`",
    ),
    "spread": (
        lambda o: pods(o)["topologySpreadConstraints"][0].update(whenUnsatisfiable="Schedule"),
        "whenUnsatisfiable: `Schedule`",
    ),
    "restart": (lambda o: pods(o).update(restartPolicy="Never"), "a Deployment restarts always"),
    "restart of a Job": (
        lambda o: one(o, "Job", "registry-store-migrate")["spec"]["template"]["spec"].update(restartPolicy="Always"),
        "a Job does not restart always",
    ),
    "quantity": (lambda o: store(o)["resources"]["requests"].update(memory="256MB"), "requests.memory: `256MB`"),
    "number as a quantity": (lambda o: store(o)["resources"]["requests"].update(cpu="1e"), "requests.cpu: `1e`"),
    "request above limit": (
        lambda o: store(o)["resources"]["requests"].update(memory="2Gi"),
        "`2Gi` is above the limit `1Gi`",
    ),
    "duration": (
        lambda o: one(o, "Certificate", "registry-store")["spec"].update(duration="90d"),
        "duration: `90d`",
    ),
    "renewal": (
        lambda o: one(o, "Certificate", "registry-store")["spec"].update(renewBefore="2160h"),
        "is not shorter than spec.duration",
    ),
    "time-out": (lambda o: webhook(o).update(timeoutSeconds=60), "timeoutSeconds: `60`"),
    "port": (lambda o: store(o)["ports"][0].update(containerPort=84430), "containerPort: `84430`"),
    "name of a port": (lambda o: store(o)["ports"][0].update(name="the-https-of-the-store"), "ports.name"),
    "mode": (lambda o: pods(o)["volumes"][0]["secret"].update(defaultMode=4400), "defaultMode: `4400`"),
    "root": (lambda o: pods(o)["securityContext"].update(runAsUser=0), "runAsUser: `0`"),
    "image without a tag": (lambda o: store(o).update(image="agent-pdp"), "image: `agent-pdp`"),
    "name": (lambda o: one(o, "Service", "registry-store")["metadata"].update(name="Registry"), "metadata.name"),
    "label": (
        lambda o: one(o, "Service", "registry-store")["metadata"]["labels"].update({"pdp.dev/x": "not a value"}),
        "`not a value` is not a label's value",
    ),
    "label that is no string": (lambda o: webhook(o)["namespaceSelector"]["matchLabels"].update(x=True), "`True`"),
    "annotation that is no string": (
        lambda o: one(o, "Service", "registry-store")["metadata"].update(annotations={"x": 1}),
        "annotations.x: not a string",
    ),
    "level of pod security": (
        lambda o: one(o, "Namespace", "pdp-system")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "strict"}
        ),
        "`strict` is not one of",
    ),
    "a member without a rule": (lambda o: pods(o).update(dnsPolicy="Sometimes"), "no rule says what `Sometimes`"),
}


@pytest.mark.parametrize(("change", "named"), VALUES.values(), ids=VALUES)
def test_a_wrong_value_is_named(change: Change, named: str) -> None:
    """With its path and what it is."""
    found = [problem for each in broken("production", change) for problem in values.problems(each)]
    assert any(named in problem for problem in found), found


def rename(kind: str, name: str) -> Change:
    """Another name for an object that others refer to."""
    return lambda o: one(o, kind, name)["metadata"].update(name="other")


REFERENCES: dict[str, tuple[Change, str]] = {
    "volume": (lambda o: pods(o)["volumes"].pop(0), "volume `pepper` does not exist"),
    "volume that nothing mounts": (lambda o: store(o)["volumeMounts"].pop(), "is mounted nowhere"),
    "secret": (
        lambda o: pods(o)["volumes"][0]["secret"].update(secretName="x"),
        "secret `x` is neither made by a certificate nor documented",
    ),
    "item of a secret": (
        lambda o: store(o)["env"][0]["valueFrom"]["secretKeyRef"].update(key="uri"),
        "item `uri` of secret `registry-store-database` is not documented",
    ),
    "config map": (rename("ConfigMap", "pdp-injector"), "config map `pdp-injector"),
    "config map of a volume": (rename("ConfigMap", "pdp-agents"), "config map `pdp-agents"),
    "parameters": (rename("ConfigMap", "pdp-sidecar-policy"), "config map `pdp-sidecar-policy` does not exist"),
    "service account": (rename("ServiceAccount", "registry-store"), "service account `registry-store` does not exist"),
    "subject": (rename("ServiceAccount", "pdp-injector"), "service account `pdp-injector` does not exist"),
    "role": (rename("ClusterRole", "pdp-injector"), "ClusterRole `pdp-injector` does not exist"),
    "priority": (rename("PriorityClass", "pdp-critical"), "priority class `pdp-critical` does not exist"),
    "namespace": (rename("Namespace", "pdp-system"), "namespace `pdp-system` does not exist"),
    "namespace that is missing": (
        lambda o: one(o, "Service", "registry-store")["metadata"].pop("namespace"),
        "its namespace is missing",
    ),
    "service": (
        lambda o: one(o, "Service", "registry-store")["spec"]["selector"].update({"app.kubernetes.io/name": "x"}),
        "Service registry-store: its selector selects no pod",
    ),
    "service of two workloads": (
        lambda o: one(o, "Service", "registry-store")["spec"].update(
            selector={"app.kubernetes.io/part-of": "agent-pdp"}
        ),
        "the pods of several workloads",
    ),
    "target port": (
        lambda o: one(o, "Service", "registry-store")["spec"]["ports"][0].update(targetPort="http"),
        "target port `http` does not exist",
    ),
    "port of a probe": (
        lambda o: store(o)["livenessProbe"]["httpGet"].update(port="http"),
        "livenessProbe: port `http` does not exist",
    ),
    "budget": (
        lambda o: one(o, "PodDisruptionBudget", "registry-store")["spec"]["selector"].update(matchLabels={"x": "y"}),
        "does not select the pods of one workload",
    ),
    "spread": (
        lambda o: pods(o)["topologySpreadConstraints"][0]["labelSelector"].update(matchLabels={"x": "y"}),
        "does not select its own pods",
    ),
    "network policy": (
        lambda o: one(o, "NetworkPolicy", "registry-store")["spec"]["podSelector"].update(matchLabels={"x": "y"}),
        "NetworkPolicy registry-store: its selector selects no pod",
    ),
    "port of a network policy": (
        lambda o: policy(o, 0)["ports"][0].update(port="sync"),
        "port `sync` does not exist",
    ),
    "webhook": (rename("Service", "pdp-injector"), "service `pdp-injector` with port 443 does not exist"),
    "authority of the webhook": (
        rename("Certificate", "pdp-injector"),
        "certificate `pdp-system/pdp-injector` does not exist",
    ),
    "issuer": (rename("Issuer", "pdp-ca"), "issuer `pdp-ca` does not exist"),
    "name in a certificate": (
        lambda o: one(o, "Certificate", "registry-store")["spec"].update(dnsNames=["store.pdp-system.svc"]),
        "no service has the name `store.pdp-system.svc`",
    ),
    "policy without a binding": (
        lambda o: o.remove(one(o, "ValidatingAdmissionPolicyBinding", "pdp-namespaces")),
        "pdp-namespaces: no binding makes it act",
    ),
    "policy without parameters": (
        lambda o: one(o, "ValidatingAdmissionPolicyBinding", "pdp-new-pods")["spec"].pop("paramRef"),
        "its binding has none",
    ),
    "binding": (
        rename("ValidatingAdmissionPolicy", "pdp-namespaces"),
        "policy `pdp-namespaces` does not exist",
    ),
    "twice": (lambda o: o.append(one(o, "Service", "registry-store")), "Service registry-store: is there twice"),
}


@pytest.mark.parametrize(("change", "named"), REFERENCES.values(), ids=REFERENCES)
def test_a_reference_that_leads_nowhere_is_named(change: Change, named: str) -> None:
    """With the object that has it."""
    found = list(references.problems(broken("production", change), []))
    assert any(named in problem for problem in found), found


def test_the_claim_of_a_volume_is_followed() -> None:
    """Only the development overlay has one."""
    found = list(references.problems(broken("development", rename("PersistentVolumeClaim", "registry-store")), []))
    assert found == ["Deployment registry-store: claim `registry-store` does not exist"]


@pytest.mark.parametrize(
    ("kind", "name", "endpoints", "named"),
    [
        ("PodMonitor", "pdp-sidecar", "podMetricsEndpoints", "no injected pod has port `wrong`"),
        ("PodMonitor", "pdp-injector", "podMetricsEndpoints", "no pod that it selects has port `wrong`"),
        ("ServiceMonitor", "registry-store", "endpoints", "no service that it selects has port `wrong`"),
    ],
)
def test_a_monitor_of_nothing_is_named(kind: str, name: str, endpoints: str, named: str) -> None:
    """Prometheus would find nothing to scrape, and say nothing."""

    def change(objects: list[Object]) -> None:
        one(objects, kind, name)["spec"][endpoints][0]["port"] = "wrong"

    assert list(references.problems(broken("monitoring", change), build("production"))) == [f"{kind} {name}: {named}"]


def test_the_example_speaks_to_a_port_that_the_store_has() -> None:
    """Its network policy names the port of the store's pods, which are of another build."""

    def change(objects: list[Object]) -> None:
        one(objects, "NetworkPolicy", "pdp-sidecar")["spec"]["egress"][0]["ports"][0]["port"] = 50051

    found = list(references.problems(broken("example", change), build("production")))
    assert found == ["NetworkPolicy pdp-sidecar: egress: nothing in `pdp-system` has port 50051"]


SECURITY: dict[str, tuple[Change, str]] = {
    "root": (lambda o: pods(o)["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "seccomp": (lambda o: pods(o)["securityContext"].pop("seccompProfile"), "no seccomp profile"),
    "host": (lambda o: pods(o).update(hostNetwork=True), "`hostNetwork` is set"),
    "host path": (
        lambda o: pods(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "volume of kind hostPath",
    ),
    "escalation": (lambda o: store(o)["securityContext"].pop("allowPrivilegeEscalation"), "may escalate privileges"),
    "root file system": (
        lambda o: store(o)["securityContext"].update(readOnlyRootFilesystem=False),
        "its root is not read-only",
    ),
    "capabilities": (lambda o: store(o)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]), "keeps"),
    "privileged": (lambda o: store(o)["securityContext"].update(privileged=True), "is privileged"),
    "memory": (lambda o: store(o)["resources"]["limits"].pop("memory"), "has no limit of memory"),
    "request": (lambda o: store(o)["resources"]["requests"].pop("cpu"), "requests no cpu"),
    "probe": (lambda o: store(o).pop("livenessProbe"), "no livenessProbe"),
    "token": (lambda o: pods(o).pop("automountServiceAccountToken"), "does not say whether"),
    "service links": (lambda o: pods(o).pop("enableServiceLinks"), "may be taken for settings"),
    "Secret": (
        lambda o: o.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {}}),
        "a Secret is in the manifests",
    ),
    "secret in the environment": (
        lambda o: store(o)["env"].append({"name": "X", "value": "postgresql://registry:secret@db/registry"}),
        "`postgresql://` looks like a secret",
    ),
}


@pytest.mark.parametrize(("change", "named"), SECURITY.values(), ids=SECURITY)
def test_a_weakness_is_named(change: Change, named: str) -> None:
    """Each one that the check is for."""
    found = [problem for each in broken("production", change) for problem in security.problems(each)]
    assert any(named in problem for problem in found), found
