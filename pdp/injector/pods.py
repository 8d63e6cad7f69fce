"""Reading pods that may have any shape: a member of a wrong type is a refusal, never a crash."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pdp.core.fields import quote
from pdp.injector.verdicts import Refusal, RefusedError

Object = dict[str, Any]

CONTAINERS = ("initContainers", "containers")
MAX_CONTAINERS = 1000
"""Of each list; the API server's own limit of 1.5 MiB a pod allows few more."""


class Container(NamedTuple):
    """A container of a pod, and the list and position at which it stands."""

    group: str
    position: int
    value: Object

    @property
    def name(self) -> str:
        """Its name; empty where the pod is to be refused by the API server."""
        return text(self.value, "name")

    @property
    def path(self) -> tuple[str, str, int]:
        """Where it stands in the pod."""
        return ("spec", self.group, self.position)


def member(value: Object, name: str) -> Object:
    """An object in `value`; empty where there is none."""
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RefusedError(Refusal.MALFORMED_POD, f"`{name}`: {quote(found)} is not an object")
    return found


def members(value: Object, name: str) -> list[Object]:
    """A list of objects in `value`; empty where there is none."""
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > MAX_CONTAINERS or not all(isinstance(one, dict) for one in found):
        raise RefusedError(Refusal.MALFORMED_POD, f"`{name}` is not a list of at most {MAX_CONTAINERS} objects")
    return found


def text(value: Object, name: str) -> str:
    """A text in `value`; empty where there is none."""
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise RefusedError(Refusal.MALFORMED_POD, f"`{name}`: {quote(found)} is not a string")
    return found


def texts(value: Object, name: str) -> dict[str, str]:
    """An object of texts in `value`, such as labels."""
    found = member(value, name)
    return {each: text(found, each) for each in found}


def containers(pod: Object) -> Iterator[Container]:
    """Every init container and container, in their order."""
    spec = member(pod, "spec")
    for group in CONTAINERS:
        for index, value in enumerate(members(spec, group)):
            yield Container(group, index, value)


def service_account(pod: Object) -> str:
    """The service account that the pod runs as."""
    spec = member(pod, "spec")
    return text(spec, "serviceAccountName") or text(spec, "serviceAccount") or "default"
