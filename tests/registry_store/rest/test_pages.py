"""The commands of the store's pages print what stands below them.

`python -m tests.registry_store.rest.test_pages PAGE…` writes what they print into the pages.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import console
from tests.ports import reserved

PAGES = (
    "docs/how-to/gitops.md",
    "docs/how-to/audit.md",
    "docs/how-to/key-rotation.md",
    "docs/how-to/backup-and-restore.md",
)
MARK = "=== the next command ==="
VARYING = (
    (re.compile(r"owkai_[0-9a-f]{16}_[A-Za-z0-9_-]+"), "<key>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "<key id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"), "<time>"),
)


def printed(page: str) -> list[str]:
    """What each command of the page prints, in one shell, in a folder that has the examples."""
    program = "\n".join(f"{command.text}\necho {MARK!r}" for command in console.commands(page))
    with workplace() as (folder, environment, addresses):
        for shown, address in addresses.items():
            program = program.replace(shown, address)
        ended = subprocess.run(
            ["bash", "-c", f"exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n{program}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=console.PAGE_SECONDS,
            check=False,
        )
    return ended.stdout.split(f"{MARK}\n")[:-1]


@contextmanager
def workplace() -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """A folder, the environment of a shell in it, and what stands for the addresses of the page."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        console.dev() as dev,
        TemporaryDirectory() as folder,
        reserved() as http,
        reserved() as grpc,
        reserved() as pdp,
    ):
        (Path(folder) / "examples").symlink_to(console.ROOT / "examples")
        own = {"127.0.0.1:8090": http, "127.0.0.1:50090": grpc, "127.0.0.1:8191": pdp}
        addresses = {"127.0.0.1:8080": dev.registry, **own}
        yield folder, os.environ | {"KEY": dev.key, "PATH": path}, addresses


def steady(text: str) -> str:
    """A text without what differs from run to run."""
    for varying, name in VARYING:
        text = varying.sub(name, text)
    return console.steady(text)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_prints_what_it_shows(name: str) -> None:
    """In the order of the page, as printed, against a fresh registry."""
    page = (console.ROOT / name).read_text()
    found = [(command.text, steady(text)) for command, text in zip(console.commands(page), printed(page), strict=True)]
    assert found == [(command.text, steady(command.shown)) for command in console.commands(page)]


def written(page: str) -> str:
    """The page with what its commands print now."""
    outputs = iter(printed(page))

    def block(found: re.Match[str]) -> str:
        commands = console.commands(f"```console\n{found[1]}```\n")
        return "".join(f"$ {command.text}\n{next(outputs)}" for command in commands)

    return console.BLOCK.sub(block, page)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(written(page.read_text()))
