"""What `deploy/Dockerfile` says agrees with the project. `make image-test` builds it."""

import re
import tomllib
from pathlib import Path

from pdp.serving.version import VERSION

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
DISTROLESS = {("debian12", "bookworm", "3.11"), ("debian13", "trixie", "3.13")}
"""The releases of Debian and of Python in it."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def copied() -> set[str]:
    """What is copied from the sources."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {path for line in lines for path in line.split()}


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    """The list of what is let through is that of the copies: no key, database or history can get into a layer."""
    first, *rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied()
    assert all((ROOT / path).exists() for path in copied())


def test_every_package_of_the_wheel_is_in_the_image() -> None:
    """With what the build backend reads."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    project = PROJECT["project"]
    assert {*wheel, project["readme"], *project["license-files"], "pyproject.toml"} <= copied()


def test_the_version_is_the_projects() -> None:
    """As the label of the image has it, and as programs tell it."""
    assert f"\nARG VERSION={PROJECT['project']['version']}\n" in DOCKERFILE
    assert PROJECT["project"]["version"] == VERSION


def test_only_locks_are_installed() -> None:
    """Each command of pip checks hashes, or can reach no index."""
    commands = re.findall(r"pip/bin/pip .*", DOCKERFILE)
    assert len(commands) == 4
    assert all("--require-hashes" in command or "--no-index" in command for command in commands)


def test_both_bases_have_one_debian_and_one_python() -> None:
    """A wheel that the first installs runs on the second, by the interpreter that the second has."""
    values = dict(re.findall(r"^ARG (\w+)=(.+)$", DOCKERFILE, re.MULTILINE))
    build = re.fullmatch(r"docker\.io/library/python:(3\.\d+)-slim-(\w+)", values["BUILD_BASE"])
    runtime = re.fullmatch(r"gcr\.io/distroless/python3-(debian\d+):nonroot", values["RUNTIME_BASE"])
    assert build and runtime
    assert values["PYTHON"] == f"/usr/bin/python{build[1]}"
    assert (runtime[1], build[2], build[1]) in DISTROLESS
