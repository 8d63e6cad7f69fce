"""What the pages show is what the programs print."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import console

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/how-to/policies.md", "docs/reference/decision-log.md", "docs/reference/sidecar.md"]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_prints_what_it_shows(name: str) -> None:
    """Run in the order of the page, as printed, against a fresh registry and sidecar."""
    with console.dev() as dev:
        for command in filter(console.runs, console.commands((ROOT / name).read_text())):
            assert console.steady(console.printed(command, dev)) == console.steady(command.shown), command.text


def test_the_readmes_python_prints_what_it_shows() -> None:
    """The program and its output stand one after the other."""
    page = (ROOT / "README.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    shown = page.split("```python\n")[1].split("```\n")[2].split("```")[0]
    setup = [command for command in console.commands(page) if "127.0.0.1:8080" in command.text]
    with console.dev() as dev:
        for command in setup:
            console.printed(command, dev)
        run = [sys.executable, "-c", program]
        ended = subprocess.run(run, env={"PDP_ADDRESS": dev.sidecar_grpc}, capture_output=True, text=True, check=True)
    assert ended.stdout == shown
