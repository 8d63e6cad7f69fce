"""What an API server does to a pod between two calls of a webhook: defaults, its own plugins, other webhooks."""

import copy
from typing import Any

TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_VOLUME = "kube-api-access-7xk2p"
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


def defaulted(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod with the defaults of v1, and with the token that the ServiceAccount plugin mounts."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    for name, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("securityContext", {}),
        ("schedulerName", "default-scheduler"),
        ("serviceAccountName", "default"),
        ("enableServiceLinks", True),
        ("priority", 0),
        ("preemptionPolicy", "PreemptLowerPriority"),
    ):
        spec.setdefault(name, value)
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    every = [*(spec.get("initContainers") or []), *spec["containers"]]
    for container in every:
        _default(container, host_network=spec.get("hostNetwork", False))
    if spec.get("automountServiceAccountToken", True):
        _mount_token(spec, every)
    return pod


def _default(container: dict[str, Any], *, host_network: bool) -> None:
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", "IfNotPresent")
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
        if host_network:
            port.setdefault("hostPort", port["containerPort"])
    for probe in (container[name] for name in PROBES if name in container):
        for name, value in PROBE_DEFAULTS.items():
            probe.setdefault(name, value)
        if "httpGet" in probe:
            probe["httpGet"].setdefault("scheme", "HTTP")


def _mount_token(spec: dict[str, Any], every: list[dict[str, Any]]) -> None:
    needy = [one for one in every if TOKEN_FOLDER not in [m["mountPath"] for m in one.get("volumeMounts") or []]]
    for container in needy:
        mounts = container["volumeMounts"] = container.get("volumeMounts") or []
        mounts.append({"name": TOKEN_VOLUME, "readOnly": True, "mountPath": TOKEN_FOLDER})
    volumes = spec["volumes"] = spec.get("volumes") or []
    if needy and TOKEN_VOLUME not in [volume["name"] for volume in volumes]:
        sources = [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]
        volumes.append({"name": TOKEN_VOLUME, "projected": {"defaultMode": 420, "sources": sources}})
