"""Whether a sidecar that is in a pod already is the one that the injector makes.

The API server fills in defaults between two calls, and LimitRanger adds limits, so what the injector sets is compared,
and not bytes. Where a member more could weaken the sidecar, there may be none.
"""

from typing import Any

from pdp.injector.pods import Object

EXACT = frozenset(("name", "image", "command", "args", "restartPolicy", "securityContext", "volumeMounts", "ports"))
DEFAULTED = frozenset(("terminationMessagePath", "terminationMessagePolicy", "resizePolicy"))
"""Members that the API server adds, and that the injector does not set."""


def is_ours(found: Object, expected: Object) -> bool:
    """Whether it is the injector's container by what it runs, whatever was added to it."""
    return all(found.get(name) == expected[name] for name in ("image", "command", "args"))


def is_intact(found: Object, expected: Object) -> bool:
    """Whether it has all that the injector sets, and nothing more that matters."""
    extra = {name for name, value in found.items() if name not in expected and value not in (None, [], {})}
    return extra <= DEFAULTED and all(
        _is_same(name, found.get(name), value) if name in EXACT else _has(found.get(name), value)
        for name, value in expected.items()
    )


def _is_same(name: str, found: Any, expected: Any) -> bool:
    return bool((_without_host_ports(found) if name == "ports" else found) == expected)


def _without_host_ports(ports: Any) -> Any:
    """Of a pod on its node's network, the API server gives each port its own number as host port."""
    if not isinstance(ports, list) or not all(isinstance(port, dict) for port in ports):
        return ports
    return [
        {name: value for name, value in port.items() if name != "hostPort" or value != port.get("containerPort")}
        for port in ports
    ]


def _has(found: Any, expected: Any) -> bool:
    """Whether each member of `expected` is in `found`; `found` may have more."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(_has(found.get(name), value) for name, value in expected.items())
    return bool(found == expected)
