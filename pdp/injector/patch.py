"""The injection: pure functions of (pod, namespace, settings) to a JSON patch, a skip or a refusal."""

import posixpath
from collections.abc import Iterable
from typing import NamedTuple

from pdp.core.fields import quote
from pdp.injector import claims as agent_claims
from pdp.injector import container
from pdp.injector.annotations import STATUS, Wishes, asks_to_opt_out, read_wishes
from pdp.injector.claims import Claims
from pdp.injector.draft import Draft
from pdp.injector.intact import is_intact, is_ours
from pdp.injector.pods import Container, Object, containers, member, members, service_account, text, texts
from pdp.injector.settings import SidecarSettings
from pdp.injector.verdicts import Refusal, RefusedError, Result, Skip, Verdict, refused

MIRROR = "kubernetes.io/config.mirror"
SCRAPING = "prometheus.io/"


class Namespace(NamedTuple):
    """What the verdict depends on beside the pod: its namespace's name, and what the administrator allows there."""

    name: str
    allows_opt_out: bool = False
    excluded: bool = False


def inject(
    pod: Object, namespace: Namespace, settings: SidecarSettings, claims: Claims | None = None, *, native: bool = True
) -> Verdict:
    """The verdict on a new pod."""
    try:
        reason = _skip(pod, namespace)
        if reason is not None:
            return _skipped(pod, reason, settings)
        return _injected(pod, namespace, settings, claims, native=native)
    except RefusedError as error:
        return refused(error)


def _skip(pod: Object, namespace: Namespace) -> Skip | None:
    if namespace.excluded:
        return Skip.EXCLUDED_NAMESPACE
    return Skip.OPTED_OUT if asks_to_opt_out(pod) and namespace.allows_opt_out else None


def _skipped(pod: Object, reason: Skip, settings: SidecarSettings) -> Verdict:
    member(member(pod, "metadata"), "annotations")  # where the status goes
    if reason is Skip.OPTED_OUT:
        for volume in members(member(pod, "spec"), "volumes"):
            _check_volume_secrets(volume, settings)
        for one in containers(pod):
            check_secrets(one, settings)
    draft = Draft(pod)
    if pod.get("metadata") is None:
        draft.put(("metadata",), {})
    draft.set_member(("metadata", "annotations"), STATUS, f"skipped: {reason.value}")
    return Verdict(Result.SKIPPED, tuple(draft.operations), reason.value)


def _injected(
    pod: Object, namespace: Namespace, settings: SidecarSettings, claims: Claims | None, *, native: bool
) -> Verdict:
    _check_kind(pod)
    wishes = read_wishes(pod, settings)
    agent_claims.check(claims, namespace.name, service_account(pod), wishes.agent_id)
    everything = list(containers(pod))
    if not members(member(pod, "spec"), "containers"):
        raise RefusedError(Refusal.MALFORMED_POD, "`containers`: the pod has none")
    ours = _our_container(everything, container.sidecar(settings, wishes, native=native), native=native)
    others = [one for one in everything if one is not ours]
    environment = container.agent_environment(settings)
    _check_volumes(pod, settings)
    for one in others:
        check_mounts(one)
        _check_environment(one, environment)
        check_secrets(one, settings)
        _check_ports(one, wishes)
    draft = Draft(pod)
    _add_volumes(draft, settings)
    for one in others:
        _add_to_agent(draft, one, environment)
    _add_sidecar(draft, ours, container.sidecar(settings, wishes, native=native), native=native)
    _annotate(draft, settings, wishes)
    return Verdict(Result.INJECTED if draft.operations else Result.UNCHANGED, tuple(draft.operations))


def _check_kind(pod: Object) -> None:
    spec = member(pod, "spec")
    if MIRROR in member(member(pod, "metadata"), "annotations"):
        raise RefusedError(Refusal.STATIC_POD, "a static pod is started by its node and cannot get the sidecar")
    system = text(member(spec, "os"), "name") or texts(spec, "nodeSelector").get("kubernetes.io/os", "")
    if system.lower() == "windows":
        raise RefusedError(Refusal.WINDOWS, "the sidecar does not run on Windows")
    for name in ("shareProcessNamespace", "hostPID"):
        if spec.get(name) not in (None, False):
            raise RefusedError(
                Refusal.PROCESS_NAMESPACE, f"`{name}`: the sidecar's processes must be out of the agent's reach"
            )


def _our_container(everything: Iterable[Container], expected: Object, *, native: bool) -> Container | None:
    """The sidecar where it is there already; `RefusedError` where its name is taken."""
    found = [one for one in everything if one.name == container.NAME]
    if not found:
        return None
    if len(found) == 1 and found[0].group == _group(native) and is_ours(found[0].value, expected):
        return found[0]
    raise RefusedError(
        Refusal.NAME_TAKEN, f"container `{container.NAME}`: the name is reserved for the injected sidecar; remove it"
    )


def _check_volumes(pod: Object, settings: SidecarSettings) -> None:
    expected = {volume["name"]: volume for volume in container.volumes(settings)}
    for volume in members(member(pod, "spec"), "volumes"):
        name = text(volume, "name")
        if name in container.VOLUMES:
            if volume != expected.get(name):
                raise RefusedError(Refusal.NAME_TAKEN, f"volume {quote(name)}: the name is reserved for the sidecar")
        else:
            _check_volume_secrets(volume, settings)


def _check_volume_secrets(volume: Object, settings: SidecarSettings) -> None:
    sources = members(member(volume, "projected"), "sources")
    found = [text(member(volume, "secret"), "secretName"), *(text(member(one, "secret"), "name") for one in sources)]
    if settings.key_secret in found:
        raise _secret_used(f"volume {quote(text(volume, 'name'))}", settings)


def check_mounts(one: Container) -> None:
    """Refuse mounts of the sidecar's volumes, other than the socket's read-only one, and mounts over its socket."""
    for mount in members(one.value, "volumeMounts"):
        if container.is_agent_mount(mount):
            continue
        if text(mount, "name") in container.VOLUMES:
            raise RefusedError(
                Refusal.NAME_TAKEN,
                f"container {quote(one.name)}: volume {quote(mount['name'])} is reserved for the sidecar",
            )
        path = text(mount, "mountPath")
        if _is_inside(path, container.SOCKET_FOLDER):
            raise RefusedError(
                Refusal.PATH_TAKEN,
                f"container {quote(one.name)}: mount path {quote(path)} is reserved for the sidecar's socket",
            )


def _is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or below it; in most images `/var/run` is a link to `/run`."""
    # A path with two slashes in front is another one to `normpath`.
    found, inside = (f"{_real(each)}/" for each in (f"/{path.lstrip('/')}", folder))
    return found.startswith(inside)


def _real(path: str) -> str:
    normal = posixpath.normpath(path)
    return normal.removeprefix("/var") if f"{normal}/".startswith("/var/run/") else normal


def _check_environment(one: Container, environment: dict[str, str]) -> None:
    for entry in members(one.value, "env"):
        name = text(entry, "name")
        if name in environment and entry != {"name": name, "value": environment[name]}:
            raise RefusedError(
                Refusal.ENVIRONMENT_TAKEN, f"container {quote(one.name)}: the injector alone sets {quote(name)}"
            )


def check_secrets(one: Container, settings: SidecarSettings) -> None:
    """Refuse a container whose environment takes the sidecar's key."""
    for entry in members(one.value, "env"):
        if text(member(member(entry, "valueFrom"), "secretKeyRef"), "name") == settings.key_secret:
            raise _secret_used(f"container {quote(one.name)}", settings)
    for source in members(one.value, "envFrom"):
        if text(member(source, "secretRef"), "name") == settings.key_secret:
            raise _secret_used(f"container {quote(one.name)}", settings)


def _check_ports(one: Container, wishes: Wishes) -> None:
    for port in members(one.value, "ports"):
        if port.get("containerPort") == wishes.metrics_port and port.get("protocol") in (None, "TCP"):
            raise RefusedError(
                Refusal.PORT_TAKEN,
                f"container {quote(one.name)}: port {wishes.metrics_port} is the sidecar's;"
                " choose another for it by annotation `pdp.dev/metrics-port`",
            )


def _add_volumes(draft: Draft, settings: SidecarSettings) -> None:
    there = {volume.get("name") for volume in members(draft.pod["spec"], "volumes")}
    for volume in container.volumes(settings):
        if volume["name"] not in there:
            draft.append(("spec", "volumes"), volume)


def _add_to_agent(draft: Draft, one: Container, environment: dict[str, str]) -> None:
    if not any(map(container.is_agent_mount, members(one.value, "volumeMounts"))):
        draft.append((*one.path, "volumeMounts"), container.agent_mount())
    there = {entry.get("name") for entry in members(one.value, "env")}
    for name, value in environment.items():
        if name not in there:
            draft.append((*one.path, "env"), {"name": name, "value": value})


def _add_sidecar(draft: Draft, ours: Container | None, expected: Object, *, native: bool) -> None:
    """The sidecar stands first: it starts before the others, also before those of later webhooks."""
    path = ("spec", _group(native))
    if ours is None:
        draft.insert(path, 0, expected)
        return
    if not is_intact(ours.value, expected):
        draft.put(ours.path, expected)
    draft.move_to_front(path, ours.position)


def _annotate(draft: Draft, settings: SidecarSettings, wishes: Wishes) -> None:
    path = ("metadata", "annotations")
    if not any(name.startswith(SCRAPING) for name in member(draft.pod["metadata"], "annotations")):
        for name, value in container.scrape_annotations(wishes).items():
            draft.set_member(path, name, value)
    draft.set_member(path, STATUS, f"injected: {settings.revision}")


def _group(native: bool) -> str:
    return "initContainers" if native else "containers"


def _secret_used(where: str, settings: SidecarSettings) -> RefusedError:
    return RefusedError(Refusal.SECRET_USED, f"{where}: only the sidecar may use Secret {quote(settings.key_secret)}")
