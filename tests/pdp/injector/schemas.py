"""The schemas of Kubernetes for pods, strict: an unknown member fails as a wrong type does."""

from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

OLDEST = (1, 30)
VERSIONS = [version for version in dict.fromkeys(all_versions()) if tuple(map(int, version.split(".")[:2])) >= OLDEST]


def problem(pod: dict[str, Any], version: str = VERSIONS[-1]) -> str | None:
    """What in a pod is not valid in a version of Kubernetes; None if nothing."""
    error = next(_validator(version).iter_errors(pod), None)
    return None if error is None else f"{error.json_path}: {error.message[:200]}"


@cache
def _validator(version: str) -> Any:
    # `kubernetes_validate.validate` reads both files, of a megabyte, at each call.
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    pod, definitions = (schema_contents(f"{folder}/{name}.json", version) for name in ("pod-v1", "_definitions"))
    registry: Registry[Any] = Resource.from_contents(definitions) @ (Resource.from_contents(pod) @ Registry())
    return jsonschema.Draft202012Validator(pod, registry=registry)
