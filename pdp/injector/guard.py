"""Changes of pods that have the sidecar: of its container, and containers that are aimed at it."""

from pdp.core.fields import quote
from pdp.injector import container
from pdp.injector.patch import check_mounts, check_secrets
from pdp.injector.pods import Container, Object, containers, member, members, text
from pdp.injector.settings import SidecarSettings
from pdp.injector.verdicts import Refusal, RefusedError, Result, Verdict, refused


def guard(old: Object, new: Object, settings: SidecarSettings) -> Verdict:
    """The verdict on an update of a pod; one that was never injected may change as it likes."""
    try:
        before = _sidecars(old)
        if before:
            if _sidecars(new) != before:
                raise RefusedError(
                    Refusal.SIDECAR_CHANGED,
                    f"container `{container.NAME}`: only the injector sets it; delete the pod to get a new one",
                )
            _check_ephemeral(old, new, settings)
    except RefusedError as error:
        return refused(error)
    return Verdict(Result.UNCHANGED)


def _sidecars(pod: Object) -> list[Container]:
    return [one for one in containers(pod) if one.name == container.NAME]


def _check_ephemeral(old: Object, new: Object, settings: SidecarSettings) -> None:
    there = members(member(old, "spec"), "ephemeralContainers")
    for index, value in enumerate(members(member(new, "spec"), "ephemeralContainers")):
        if value in there:
            continue
        one = Container("ephemeralContainers", index, value)
        if text(value, "targetContainerName") == container.NAME:
            raise RefusedError(
                Refusal.SIDECAR_TARGETED, f"ephemeral container {quote(one.name)}: `{container.NAME}` is not a target"
            )
        check_mounts(one)
        check_secrets(one, settings)
