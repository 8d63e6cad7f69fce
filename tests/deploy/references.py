"""What objects refer to: it exists in the same build, or the documentation says to make it."""

import re
from collections.abc import Iterator
from functools import cache

from pdp.injector.container import PORT_NAME
from tests.deploy.building import ROOT, Object, containers, pod_template, title

PAGE = ROOT / "docs" / "kubernetes.md"
# A row of the page's table of Secrets: | `namespace` | `name` | `item`, `item` | … |
ROW = re.compile(r"\| `?([^|`]+)`? \| `([a-z0-9-]+)` \| ([^|]+) \|")
CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingWebhookConfiguration",
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
Key = tuple[str, str, str]


@cache
def documented_secrets() -> dict[str, set[str]]:
    """The Secrets that the page says to make, with their items."""
    section = PAGE.read_text().split("## Secrets\n")[1].split("\n## ")[0]
    return {name: set(re.findall(r"`([^`]+)`", items)) for _, name, items in ROW.findall(section)}


class World:
    """The objects of a build, and those that were installed before it."""

    def __init__(self, objects: list[Object], beside: list[Object]) -> None:
        self.all = [*objects, *beside]
        self.keys = {key(each) for each in self.all}
        self.secrets = {
            (each["metadata"]["namespace"], each["spec"]["secretName"])
            for each in self.all
            if each["kind"] == "Certificate"
        }

    def has(self, kind: str, namespace: str, name: str) -> bool:
        """Whether an object is there."""
        return (kind, "" if kind in CLUSTER_WIDE else namespace, name) in self.keys

    def pods(self, namespace: str, selector: Object) -> list[Object]:
        """The pod templates in a namespace that a label selector selects."""
        return [
            template
            for each in self.all
            if (template := pod_template(each)) is not None
            and each["metadata"].get("namespace") == namespace
            and selects(selector, template["metadata"]["labels"])
        ]


def problems(objects: list[Object], beside: list[Object]) -> Iterator[str]:
    """Every reference of `objects` that leads nowhere; `beside` are objects that were installed before."""
    world = World(objects, beside)
    seen: set[Key] = set()
    for each in objects:
        if key(each) in seen:
            yield f"{title(each)}: is there twice"
        seen.add(key(each))
        yield from (f"{title(each)}: {problem}" for problem in _problems(each, world))


def key(each: Object) -> Key:
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


def selects(selector: Object, labels: Object) -> bool:
    """Whether a label selector selects an object with these labels."""
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        _holds(term, labels) for term in selector.get("matchExpressions", [])
    )


def _holds(term: Object, labels: Object) -> bool:
    value, values = labels.get(term["key"]), term.get("values", [])
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[term["operator"]]


def _problems(each: Object, world: World) -> Iterator[str]:
    namespace = each["metadata"].get("namespace", "")
    if (each["kind"] in CLUSTER_WIDE) == bool(namespace):
        yield "its namespace is missing, or it has one and is cluster-wide"
        return
    if namespace and not world.has("Namespace", "", namespace):
        yield f"namespace `{namespace}` does not exist"
    if pod_template(each) is not None:
        yield from _of_pods(each, world)
    yield from OF_KIND.get(each["kind"], lambda _each, _world: iter(()))(each, world)


def _of_pods(each: Object, world: World) -> Iterator[str]:
    namespace, template = each["metadata"]["namespace"], each["spec"]["template"]
    spec, labels = template["spec"], template["metadata"]["labels"]
    account = spec.get("serviceAccountName", "default")
    if account != "default" and not world.has("ServiceAccount", namespace, account):
        yield f"service account `{account}` does not exist"
    priority = spec.get("priorityClassName")
    if priority and not world.has("PriorityClass", "", priority):
        yield f"priority class `{priority}` does not exist"
    selectors = [each["spec"].get("selector", {"matchLabels": labels})]
    selectors += [term["labelSelector"] for term in spec.get("topologySpreadConstraints", [])]
    yield from (f"selector {one} does not select its own pods" for one in selectors if not selects(one, labels))
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounted = {mount["name"] for one in containers(template) for mount in one.get("volumeMounts", [])}
    yield from (f"volume `{name}` does not exist" for name in sorted(mounted - volumes.keys()))
    yield from (f"volume `{name}` is mounted nowhere" for name in sorted(volumes.keys() - mounted))
    for volume in volumes.values():
        yield from _of_volume(volume, namespace, world)
    for container in containers(template):
        yield from _of_container(container, namespace, world)


def _of_volume(volume: Object, namespace: str, world: World) -> Iterator[str]:
    if "secret" in volume:
        items = {item["key"] for item in volume["secret"].get("items", [])}
        yield from _of_secret(volume["secret"]["secretName"], items, namespace, world)
    if "configMap" in volume and not world.has("ConfigMap", namespace, volume["configMap"]["name"]):
        yield f"config map `{volume['configMap']['name']}` does not exist"
    claim = volume.get("persistentVolumeClaim", {}).get("claimName")
    if claim and not world.has("PersistentVolumeClaim", namespace, claim):
        yield f"claim `{claim}` does not exist"


def _of_secret(name: str, items: set[str], namespace: str, world: World) -> Iterator[str]:
    if (namespace, name) in world.secrets:
        return
    documented = documented_secrets()
    if name not in documented:
        yield f"secret `{name}` is neither made by a certificate nor documented"
    else:
        yield from (f"item `{item}` of secret `{name}` is not documented" for item in sorted(items - documented[name]))


def _of_container(container: Object, namespace: str, world: World) -> Iterator[str]:
    for source in container.get("envFrom", []):
        name = source["configMapRef"]["name"]
        if not world.has("ConfigMap", namespace, name):
            yield f"config map `{name}` does not exist"
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            yield from _of_secret(reference["name"], {reference["key"]}, namespace, world)
    names = {port["name"] for port in container.get("ports", [])} | {
        port["containerPort"] for port in container.get("ports", [])
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container and container[probe]["httpGet"]["port"] not in names:
            yield f"{probe}: port `{container[probe]['httpGet']['port']}` does not exist"


def _port_names(templates: list[Object]) -> set[str | int]:
    found = [port for one in templates for container in containers(one) for port in container.get("ports", [])]
    return {port["name"] for port in found} | {port["containerPort"] for port in found}


def _of_service(each: Object, world: World) -> Iterator[str]:
    templates = world.pods(each["metadata"]["namespace"], {"matchLabels": each["spec"]["selector"]})
    if not templates:
        yield "its selector selects no pod"
        return
    if len(templates) > 1:
        yield "its selector selects the pods of several workloads"
    names = _port_names(templates)
    for port in each["spec"]["ports"]:
        if port["targetPort"] not in names:
            yield f"target port `{port['targetPort']}` does not exist"


def _of_budget(each: Object, world: World) -> Iterator[str]:
    if len(world.pods(each["metadata"]["namespace"], each["spec"]["selector"])) != 1:
        yield "its selector does not select the pods of one workload"


def _of_network_policy(each: Object, world: World) -> Iterator[str]:
    namespace, spec = each["metadata"]["namespace"], each["spec"]
    templates = world.pods(namespace, spec["podSelector"])
    if not templates:
        yield "its selector selects no pod"
    for rule in spec.get("ingress", []):
        for port in rule.get("ports", []):
            if isinstance(port["port"], str) and port["port"] not in _port_names(templates):
                yield f"port `{port['port']}` does not exist"
    for rule in spec.get("egress", []):
        for peer in rule.get("to", []):
            yield from _of_peer(peer, rule, world)


def _of_peer(peer: Object, rule: Object, world: World) -> Iterator[str]:
    """The store or the injector, which are here; the cluster's own name service is not."""
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    if namespace == "kube-system":
        return
    names = _port_names(world.pods(namespace, peer["podSelector"]))
    yield from (
        f"egress: nothing in `{namespace}` has port {one['port']}" for one in rule["ports"] if one["port"] not in names
    )


def _of_webhook(each: Object, world: World) -> Iterator[str]:
    for webhook in each["webhooks"]:
        target = webhook["clientConfig"]["service"]
        found = [one for one in world.all if key(one) == ("Service", target["namespace"], target["name"])]
        ports = {port["port"] for one in found for port in one["spec"]["ports"]}
        if target["port"] not in ports:
            yield f"service `{target['name']}` with port {target['port']} does not exist"
    authority = each["metadata"].get("annotations", {}).get("cert-manager.io/inject-ca-from")
    if authority and not world.has("Certificate", *authority.split("/")):
        yield f"certificate `{authority}` does not exist"


def _of_binding(each: Object, world: World) -> Iterator[str]:
    if not world.has(each["roleRef"]["kind"], "", each["roleRef"]["name"]):
        yield f"{each['roleRef']['kind']} `{each['roleRef']['name']}` does not exist"
    for subject in each["subjects"]:
        if not world.has(subject["kind"], subject["namespace"], subject["name"]):
            yield f"service account `{subject['name']}` does not exist"


def _of_policy(each: Object, world: World) -> Iterator[str]:
    bound = [
        one
        for one in world.all
        if one["kind"] == "ValidatingAdmissionPolicyBinding" and one["spec"]["policyName"] == each["metadata"]["name"]
    ]
    if len(bound) != 1:
        yield "no binding makes it act"
    if any(("paramRef" in one["spec"]) != ("paramKind" in each["spec"]) for one in bound):
        yield "it has parameters and its binding has none, or the other way round"


def _of_policy_binding(each: Object, world: World) -> Iterator[str]:
    spec = each["spec"]
    if not world.has("ValidatingAdmissionPolicy", "", spec["policyName"]):
        yield f"policy `{spec['policyName']}` does not exist"
    reference = spec.get("paramRef")
    if reference and not world.has("ConfigMap", reference["namespace"], reference["name"]):
        yield f"config map `{reference['name']}` does not exist"


def _of_certificate(each: Object, world: World) -> Iterator[str]:
    namespace, spec = each["metadata"]["namespace"], each["spec"]
    if not world.has("Issuer", namespace, spec["issuerRef"]["name"]):
        yield f"issuer `{spec['issuerRef']['name']}` does not exist"
    for name in spec.get("dnsNames", []):
        service, space = name.split(".")[:2]
        if not world.has("Service", space, service):
            yield f"no service has the name `{name}`"


def _of_issuer(each: Object, world: World) -> Iterator[str]:
    secret = each["spec"].get("ca", {}).get("secretName")
    if secret:
        yield from _of_secret(secret, set(), each["metadata"]["namespace"], world)


def _of_pod_monitor(each: Object, world: World) -> Iterator[str]:
    """Of the pods of this build, or of injected ones, whose port an agent's pod gets from the injector."""
    wanted = {endpoint["port"] for endpoint in each["spec"]["podMetricsEndpoints"]}
    if each["spec"].get("namespaceSelector", {}).get("any"):
        yield from (f"no injected pod has port `{name}`" for name in sorted(wanted - {PORT_NAME}))
        return
    names = _port_names(world.pods(each["metadata"]["namespace"], each["spec"]["selector"]))
    yield from (f"no pod that it selects has port `{name}`" for name in sorted(wanted - names))
    for endpoint in each["spec"]["podMetricsEndpoints"]:
        authority = endpoint.get("tlsConfig", {}).get("ca", {}).get("secret")
        if authority:
            yield from _of_secret(authority["name"], {authority["key"]}, each["metadata"]["namespace"], world)


def _of_service_monitor(each: Object, world: World) -> Iterator[str]:
    found = [
        one
        for one in world.all
        if one["kind"] == "Service"
        and one["metadata"]["namespace"] == each["metadata"]["namespace"]
        and selects(each["spec"]["selector"], one["metadata"].get("labels", {}))
    ]
    names = {port["name"] for one in found for port in one["spec"]["ports"]}
    wanted = {endpoint["port"] for endpoint in each["spec"]["endpoints"]}
    yield from (f"no service that it selects has port `{name}`" for name in sorted(wanted - names))


OF_KIND = {
    "Service": _of_service,
    "PodDisruptionBudget": _of_budget,
    "NetworkPolicy": _of_network_policy,
    "MutatingWebhookConfiguration": _of_webhook,
    "ClusterRoleBinding": _of_binding,
    "ValidatingAdmissionPolicy": _of_policy,
    "ValidatingAdmissionPolicyBinding": _of_policy_binding,
    "Certificate": _of_certificate,
    "Issuer": _of_issuer,
    "PodMonitor": _of_pod_monitor,
    "ServiceMonitor": _of_service_monitor,
}
