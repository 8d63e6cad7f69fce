"""What `kubectl kustomize` makes of the folders under `deploy/k8s`."""

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "k8s"
MISSING = "kubectl is not installed; the tests of deploy/k8s need it: https://kubernetes.io/docs/tasks/tools/"
BUILDS = {
    "development": ("overlays/development",),
    "development-with-cert-manager": ("overlays/development", "components/cert-manager"),
    "production": ("overlays/production",),
    "production-without-cert-manager": ("overlays/production", "components/without-cert-manager"),
    "development-before-1.30": ("overlays/development", "components/before-1.30"),
    "production-before-1.30": ("overlays/production", "components/before-1.30"),
    "revision": ("revision",),
    "revision-before-1.30": ("revision", "components/before-1.30"),
    "example": ("example",),
    "monitoring": ("monitoring",),
}

Object = dict[str, Any]


@cache
def build(name: str) -> list[Object]:
    """The objects of one of `BUILDS`: a folder, and the components that an administrator adds to it."""
    folder, *components = (FOLDER / part for part in BUILDS[name])
    if not components:
        return kustomize(folder)
    with tempfile.TemporaryDirectory() as made:
        here = Path(made).resolve()
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(folder, here)],
            "components": [os.path.relpath(component, here) for component in components],
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return kustomize(here)


def need_kubectl() -> None:
    """Without it the test is skipped, and in CI, which skips nothing, it fails."""
    if shutil.which("kubectl") is not None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING)
    pytest.skip(MISSING)


def kustomize(folder: Path) -> list[Object]:
    """The objects that `kubectl kustomize` makes of a folder."""
    need_kubectl()
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind whose name is `name`, with or without the hash of a generator."""
    whole = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{10}})?")
    found = [each for each in objects if each["kind"] == kind and whole.fullmatch(each["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def title(each: Object) -> str:
    """How an object is named in messages."""
    return f"{each['kind']} {each['metadata']['name']}"


def pod_template(each: Object) -> Object | None:
    """The pods that an object makes."""
    template: Object | None = each["spec"]["template"] if each["kind"] in ("Deployment", "Job") else None
    return template


def containers(template: Object) -> list[Object]:
    """Every container of a pod."""
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]
