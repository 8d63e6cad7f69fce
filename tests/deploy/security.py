"""What each pod must have: the restricted pod security standard, a read-only root, bounds; no secret in a manifest."""

from collections.abc import Iterator

from tests.deploy.building import Object, containers, pod_template

ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
HOST = ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SECRET_WORDS = ("password", "postgresql://", "owkai_", "PRIVATE KEY")


def problems(each: Object) -> Iterator[str]:
    """What an object lacks."""
    if each["kind"] == "Secret":
        yield "a Secret is in the manifests: name it, and let the administrator make it"
    yield from (f"`{word}` looks like a secret" for word in SECRET_WORDS if word in str(each))
    template = pod_template(each)
    if template is None:
        return
    spec = template["spec"]
    yield from (f"`{name}` is set" for name in HOST if spec.get(name))
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser"):
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if "automountServiceAccountToken" not in spec:
        yield "does not say whether a service account's token is mounted"
    if spec.get("enableServiceLinks") is not False:
        yield "variables of services, such as REGISTRY_STORE_PORT, may be taken for settings"
    for volume in spec.get("volumes", []):
        yield from (f"volume of kind {kind}" for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES)
    for container in containers(template):
        yield from (f"{container['name']}: {problem}" for problem in _of_container(container))
        if each["kind"] == "Deployment" and container.get("ports"):
            yield from (f"{container['name']}: no {probe}" for probe in PROBES if probe not in container)


def _of_container(container: Object) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may escalate privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "its root is not read-only"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("privileged"):
        yield "is privileged"
    resources = container.get("resources", {})
    yield from (f"requests no {name}" for name in ("cpu", "memory") if name not in resources.get("requests", {}))
    if "memory" not in resources.get("limits", {}):
        yield "has no limit of memory"
