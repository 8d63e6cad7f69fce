"""Strict schemas: of Kubernetes in every version that kubernetes-validate carries, and ours of cert-manager's kinds."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions

SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# Its own `validate` reads all definitions again for each object, which takes a tenth of a second.
REFERENCE, OWN = "/api/_definitions.json#/$defs/", "#/$defs/"


def versions(first: str, last: str = "9.9") -> list[str]:
    """The versions from `first` to `last`, as `1.30`."""
    known = [".".join(version.split(".")[:2]) for version in all_versions() if "-" not in version]
    found = [each for each in dict.fromkeys(known) if _number(first) <= _number(each) <= _number(last)]
    assert found
    return found


def problems(each: dict[str, Any], version: str) -> list[str]:
    """What is wrong with an object, by the strict schema of a version of Kubernetes."""
    checked = validator(each["apiVersion"], each["kind"], version)
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in checked.iter_errors(each)]


@cache
def validator(api_version: str, kind: str, version: str) -> jsonschema_rs.Validator:
    """The schema of a kind; `FileNotFoundError` where this version of Kubernetes does not have it."""
    if api_version in custom():
        return jsonschema_rs.validator_for(custom()[api_version][kind])
    group, _, tail = api_version.rpartition("/")
    prefix = f"{group.split('.')[0]}-{tail}" if group else tail
    path = SCHEMAS / f"v{version}.0-local-strict" / f"{kind.lower()}-{prefix}.json"
    schema = json.loads(path.read_text().replace(REFERENCE, OWN))
    return jsonschema_rs.validator_for(schema | {"$defs": reachable(schema, definitions(version))})


def reachable(schema: Any, all_of_them: dict[str, Any]) -> dict[str, Any]:
    """Those definitions that a schema refers to, and those that they refer to: a twentieth of all."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            name = str(value.get("$ref", "")).removeprefix(OWN)
            if name in all_of_them and name not in found:
                found[name] = all_of_them[name]
                waiting.append(found[name])
    return found


@cache
def definitions(version: str) -> dict[str, Any]:
    """What the schemas of a version refer to."""
    text = (SCHEMAS / f"v{version}.0-local-strict" / "_definitions.json").read_text()
    found: dict[str, Any] = json.loads(text.replace(REFERENCE, OWN))["$defs"]
    return found


@cache
def custom() -> dict[str, dict[str, Any]]:
    """Of kinds that are not Kubernetes' own: the members that we use, by API version and kind."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "custom-schemas.yaml").read_text())
    return found


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
