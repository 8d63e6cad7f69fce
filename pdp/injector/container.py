"""The sidecar's container and volumes, and what every other container of the pod gets."""

from typing import Any

from pdp.injector import quantities
from pdp.injector.annotations import Wishes
from pdp.injector.settings import SidecarSettings
from pdp.serving.monitoring.traces import ENDPOINT_VARIABLE

Object = dict[str, Any]

NAME = "pdp-sidecar"
SOCKET_VOLUME, SOCKET_FOLDER = "pdp-socket", "/var/run/pdp"
DATA_VOLUME, DATA_FOLDER = "pdp-data", "/var/lib/pdp"
KEY_VOLUME, KEY_FOLDER = "pdp-key", "/etc/pdp/key"
CA_VOLUME, CA_FOLDER = "pdp-store-ca", "/etc/pdp/store-ca"
NO_TOKEN_VOLUME, TOKEN_FOLDER = "pdp-no-token", "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUMES = (SOCKET_VOLUME, DATA_VOLUME, KEY_VOLUME, CA_VOLUME, NO_TOKEN_VOLUME)
PORT_NAME = "pdp-metrics"
USER = 65532
READABLE = 0o444
"""The sidecar's user neither owns the key's file nor is in its group; no other container mounts the volume."""
SOCKET_MODE = "0666"
"""The agent may run as any user; the pod's mount is the boundary."""
ADDRESS = f"unix:{SOCKET_FOLDER}/pdp.sock"
HTTP_SOCKET = f"unix:{SOCKET_FOLDER}/pdp.http.sock"
STARTUP_SECONDS = 300


def sidecar(settings: SidecarSettings, wishes: Wishes, *, native: bool) -> Object:
    """The container; every member that the API server would fill in with a default that matters is set."""
    return {
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["pdp"],
        "args": arguments(settings, wishes),
        **_environment(settings),
        "ports": [{"name": PORT_NAME, "containerPort": wishes.metrics_port, "protocol": "TCP"}],
        "resources": _resources(settings, wishes),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": USER,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # A mesh's own sidecar may start after this one, and without it there is no way to the store.
        "startupProbe": _probe("/healthz" if settings.plaintext else "/readyz", wishes, 1, STARTUP_SECONDS),
        "readinessProbe": _probe("/readyz", wishes, 5, 3),
        "livenessProbe": _probe("/healthz", wishes, 10, 6),
        "volumeMounts": _mounts(settings),
    } | ({"restartPolicy": "Always"} if native else {})


def volumes(settings: SidecarSettings) -> list[Object]:
    """The volumes that the sidecar mounts."""
    found = [
        {"name": SOCKET_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": DATA_VOLUME, "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": NO_TOKEN_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}},
        _secret(KEY_VOLUME, settings.key_secret, "key"),
    ]
    return found + ([_secret(CA_VOLUME, settings.store_ca_secret, "ca.crt")] if settings.store_ca_secret else [])


def agent_mount() -> Object:
    """The mount of the socket's folder: connecting works, unlinking does not."""
    return {"name": SOCKET_VOLUME, "mountPath": SOCKET_FOLDER, "readOnly": True}


def is_agent_mount(mount: Object) -> bool:
    """Whether it is that mount; the API server may add how mounts below it are treated."""
    return {name: value for name, value in mount.items() if name != "recursiveReadOnly"} == agent_mount()


def agent_environment(settings: SidecarSettings) -> dict[str, str]:
    """The environment of every other container."""
    return {
        "PDP_ADDRESS": ADDRESS,
        "PDP_HTTP_ADDRESS": f"http+{HTTP_SOCKET}",
        "PDP_FAIL_MODE": settings.fail_mode,
    }


def scrape_annotations(wishes: Wishes) -> dict[str, str]:
    """The usual annotations by which Prometheus finds a pod."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(wishes.metrics_port),
        "prometheus.io/path": "/metrics",
    }


def arguments(settings: SidecarSettings, wishes: Wishes) -> list[str]:
    """The arguments of `pdp`."""
    found = [
        "serve",
        f"--store={settings.store}",
        f"--key-file={KEY_FOLDER}/key",
        f"--agents={wishes.agent_id}",
        f"--listen={ADDRESS}",
        f"--http={HTTP_SOCKET}",
        f"--socket-mode={SOCKET_MODE}",
        f"--metrics=[::]:{wishes.metrics_port}",
        f"--data-dir={DATA_FOLDER}",
        f"--drain-seconds={wishes.drain_seconds}",
        f"--log-level={wishes.log_level}",
        "--log-format=json",
    ]
    found.append(f"--store-ca={CA_FOLDER}/ca.crt" if settings.store_ca_secret else "--plaintext")
    if settings.max_staleness is not None:
        found.append(f"--max-staleness={settings.max_staleness:.15g}")
    if settings.stale_mode is not None:
        found.append(f"--stale-mode={settings.stale_mode.value}")
    if settings.otlp_endpoint is not None:
        found.append("--traces")
    return found


def _environment(settings: SidecarSettings) -> Object:
    """The member `env`, if the sidecar needs one: with an empty list a second call would see a change."""
    if settings.otlp_endpoint is None:
        return {}
    return {"env": [{"name": ENDPOINT_VARIABLE, "value": settings.otlp_endpoint}]}


def _resources(settings: SidecarSettings, wishes: Wishes) -> Object:
    """What the pod asks for is reserved; CPU may be used up to the administrator's maximum."""
    memory = quantities.write_memory(wishes.resources.memory)
    return {
        "requests": {"cpu": quantities.write_cpu(wishes.resources.cpu), "memory": memory},
        "limits": {"cpu": quantities.write_cpu(settings.resources_max.cpu), "memory": memory},
    }


def _probe(path: str, wishes: Wishes, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": wishes.metrics_port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _mounts(settings: SidecarSettings) -> list[Object]:
    found: list[Object] = [
        {"name": SOCKET_VOLUME, "mountPath": SOCKET_FOLDER},
        {"name": DATA_VOLUME, "mountPath": DATA_FOLDER},
        {"name": KEY_VOLUME, "mountPath": KEY_FOLDER, "readOnly": True},
        # The ServiceAccount plugin mounts no token where something is mounted already.
        {"name": NO_TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": True},
    ]
    ca = {"name": CA_VOLUME, "mountPath": CA_FOLDER, "readOnly": True}
    return found + ([ca] if settings.store_ca_secret else [])


def _secret(volume: str, name: str, item: str) -> Object:
    return {
        "name": volume,
        "secret": {"secretName": name, "items": [{"key": item, "path": item}], "defaultMode": READABLE},
    }
