"""Pods of the injector's golden files, before and after its patch, and their parts."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

from tests.deploy.building import Object
from tests.deploy.policies import Request, enrolled, refusals, settings
from tests.pdp.injector.api_server import defaulted

GOLDEN = Path(__file__).parents[1] / "pdp" / "injector" / "golden"
IMAGE = "registry.example/pdp:1.0.0"
OPT_OUT = {"pdp.dev/allow-opt-out": "true"}
CASES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(GOLDEN.glob("*.yaml"))}
NEW = [name for name, case in CASES.items() if "old" not in case]
ADMITTED = [name for name in NEW if CASES[name]["result"] in ("injected", "unchanged")]


def parameters(case: Object) -> Object:
    """What the policies are told where the injector has the settings of a golden file."""
    given = case.get("settings", {})
    lines = settings()["arguments"].split("\n")
    if given.get("plaintext"):
        lines = [line for line in lines if not line.startswith("--store-ca=")] + ["--plaintext"]
    if "max_staleness" in given:
        lines += [f"--max-staleness={given['max_staleness']:g}", f"--stale-mode={given['stale_mode']}"]
    told = {"images": IMAGE, "arguments": "\n".join(lines), "fail-mode": given.get("fail_mode", "closed")}
    return settings() | told | {"otlp-endpoint": given.get("otlp_endpoint", "")}


def namespace(case: Object) -> Object:
    """The namespace of a golden file."""
    given = case.get("namespace", {})
    return enrolled(given.get("name", "agents"), **(OPT_OUT if given.get("allows_opt_out") else {}))


def patched(name: str) -> Object:
    """The pod of a golden file after the injector's patch."""
    pod: Object = copy.deepcopy(CASES[name]["pod"])
    patch = CASES[name].get("patch")
    return jsonpatch.apply_patch(pod, patch) if patch else pod


def created(pod: Object, name: str = "plain") -> list[str]:
    """What refuses a new pod under the settings of a golden file."""
    case = CASES[name]
    return refusals(Request("CREATE", "pods", pod, namespace=namespace(case)), parameters(case))


Change = Callable[[Any], object]


@cache
def _injected() -> Object:
    return defaulted(patched("init-containers"))


def injected() -> Object:
    """A pod with init containers after injection and defaulting."""
    return copy.deepcopy(_injected())


def sidecar(pod: Object) -> Any:
    """Its sidecar."""
    return pod["spec"]["initContainers"][0]


def agent(pod: Object) -> Any:
    """Its first container."""
    return pod["spec"]["containers"][0]


def mount(container: Object, name: str = "pdp-socket") -> Any:
    """One of the mounts of a container."""
    return next(each for each in container["volumeMounts"] if each["name"] == name)


def volume(pod: Object, name: str) -> Any:
    """One of the volumes of a pod."""
    return next(each for each in pod["spec"]["volumes"] if each["name"] == name)


def variable(container: Object, name: str) -> Any:
    """One of the environment variables of a container."""
    return next(each for each in container["env"] if each["name"] == name)


def replace_argument(pod: Object, start: str, new: str) -> None:
    """Another argument for one of the sidecar's."""
    sidecar(pod)["args"] = [new if each.startswith(start) else each for each in sidecar(pod)["args"]]


def to_container(pod: Object) -> None:
    """The sidecar as the last container, after the agent."""
    found = pod["spec"]["initContainers"].pop(0)
    del found["restartPolicy"]
    pod["spec"]["containers"].append(found)


def second_form(pod: Object) -> None:
    """A sidecar that is there twice."""
    pod["spec"]["containers"].insert(0, copy.deepcopy(sidecar(pod)))


KEY = "pdp-sidecar-key"
