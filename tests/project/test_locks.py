"""The locks under requirements/: what pyproject.toml asks for, each pinned by version and hash."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([a-z0-9-]+)==([^ ]+)( ; .+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def of_extra(extra: str) -> list[Requirement]:
    """What the project needs with an extra, the extras that it includes among them."""
    found = [Requirement(text) for text in project()["project"]["optional-dependencies"][extra]]
    own = {name for requirement in found if requirement.name == "agent-pdp" for name in requirement.extras}
    return [requirement for requirement in found if requirement.name != "agent-pdp"] + [
        requirement for name in own for requirement in of_extra(name)
    ]


def of_group(group: str) -> list[Requirement]:
    return [Requirement(text) for text in project()["dependency-groups"][group]]


def always() -> list[Requirement]:
    return [Requirement(text) for text in project()["project"]["dependencies"]]


REQUIRED = {
    "sidecar": always(),
    "store": always() + of_extra("store") + of_extra("otel"),
    "dev": always() + of_extra("dev"),
    "mutation": always() + of_extra("mutation"),
    "bench": always() + of_extra("bench"),
    "build": of_group("build"),
    "lock": of_group("lock"),
}


def entries(lock: str) -> Iterator[list[str]]:
    """Each entry of a lock as its words: the pin, then its hashes."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for entry in "\n".join(lines).replace("\\\n", "").splitlines():
        yield re.split(r"\s{2,}", entry.strip())


def pins(lock: str) -> dict[str, str]:
    found = {}
    for entry in entries(lock):
        pin = PIN.fullmatch(entry[0])
        assert pin, f"requirements/{lock}.txt holds more than pins: {entry[0]}"
        found[pin[1]] = pin[2]
    return found


def test_there_is_a_lock_for_each_set_of_requirements() -> None:
    """And for nothing else."""
    assert {path.stem for path in (ROOT / "requirements").iterdir()} == set(REQUIRED)


@pytest.mark.parametrize("lock", REQUIRED)
def test_a_lock_holds_pins_with_hashes_alone(lock: str) -> None:
    """No index, no option, no file and no path of the machine that made it."""
    assert pins(lock)
    for entry in entries(lock):
        assert len(entry) > 1, f"{entry[0]} has no hash"
        assert all(HASH.fullmatch(word) for word in entry[1:]), entry


@pytest.mark.parametrize("lock", REQUIRED)
def test_a_lock_has_what_pyproject_asks_for(lock: str) -> None:
    """Where not: `make lock` was forgotten."""
    pinned = pins(lock)
    for requirement in REQUIRED[lock]:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in requirements/{lock}.txt: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} is {version} in requirements/{lock}.txt"


@pytest.mark.parametrize("lock", [lock for lock in REQUIRED if lock != "mutation"])
def test_locks_agree(lock: str) -> None:
    """What is installed together, or tested and then shipped, has one version."""
    everything = pins("mutation")
    both = pins(lock).keys() & everything.keys()
    assert {name: pins(lock)[name] for name in both} == {name: everything[name] for name in both}


def test_what_builds_the_project_is_locked() -> None:
    """The build runs without isolation: what pyproject.toml names as its backend comes from the lock."""
    locked = pins("build")
    for text in project()["build-system"]["requires"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])
