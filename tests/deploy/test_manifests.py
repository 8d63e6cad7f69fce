"""Every build of `deploy/k8s`: the schemas of every version, values, references, security."""

import json
from collections.abc import Iterable

import pytest

from tests.deploy import references, schemas, security, values
from tests.deploy.building import BUILDS, Object, build, title

OLD = [name for name in BUILDS if name.endswith("before-1.30")]
CURRENT = [name for name in BUILDS if name not in OLD]


def distinct(names: Iterable[str]) -> list[Object]:
    """The objects of these builds, each once: the most are the same in several."""
    return list({json.dumps(each): each for name in names for each in build(name)}.values())


@pytest.mark.parametrize("version", schemas.versions("1.30"))
def test_each_object_fits_the_strict_schema(version: str) -> None:
    """Of each version from 1.30 on; a member that a version does not know is a problem."""
    assert [
        f"{title(each)}: {problem}" for each in distinct(BUILDS) for problem in schemas.problems(each, version)
    ] == []


@pytest.mark.parametrize("version", schemas.versions("1.25", "1.29"))
def test_with_the_component_each_object_fits_older_schemas(version: str) -> None:
    """Before 1.30, where the component takes out what those versions do not have."""
    assert [
        f"{title(each)}: {problem}"
        for each in distinct((*OLD, "example"))
        for problem in schemas.problems(each, version)
    ] == []


@pytest.mark.parametrize("name", BUILDS)
def test_each_value_is_one_that_kubernetes_takes(name: str) -> None:
    """Enums, quantities, durations, numbers and names, of which the schemas know nothing."""
    assert [f"{title(each)}: {problem}" for each in build(name) for problem in values.problems(each)] == []


@pytest.mark.parametrize("name", BUILDS)
def test_each_reference_leads_somewhere(name: str) -> None:
    """To an object of the same build, or to a Secret that the documentation says to make."""
    beside = build("production") if name in ("revision", "example") else []
    assert list(references.problems(build(name), beside)) == []


@pytest.mark.parametrize("name", BUILDS)
def test_each_pod_is_restricted(name: str) -> None:
    """By the restricted pod security standard and more; and no secret is in a manifest."""
    assert [f"{title(each)}: {problem}" for each in build(name) for problem in security.problems(each)] == []
