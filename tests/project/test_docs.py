"""What the pages show is what the programs print."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import console

ROOT = Path(__file__).parents[2]
FIRST = "docs/start/first-decision.md"
PAGES = [
    "README.md",
    FIRST,
    "docs/how-to/connect.md",
    "docs/how-to/policies.md",
    "docs/how-to/outcomes.md",
    "docs/reference/decision-log.md",
    "docs/reference/sidecar.md",
]
MISSING = "jq is not installed; the tests of pages that use it need: apt-get install --yes jq"


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_prints_what_it_shows(name: str) -> None:
    """Run in the order of the page, as printed, against a fresh registry and sidecar."""
    page = (ROOT / name).read_text()
    if "jq" in page:
        need_jq()
    with console.dev() as dev:
        for command in filter(console.runs, console.commands(page)):
            assert console.steady(console.printed(command, dev)) == console.steady(command.shown), command.text


def test_the_python_of_the_first_page_prints_what_it_shows() -> None:
    """The program and its output stand one after the other."""
    need_jq()
    page = (ROOT / FIRST).read_text()
    program = page.split("```python\n")[1].split("```")[0]
    shown = page.split("```python\n")[1].split("```\n")[2].split("```")[0]
    setup = [command for command in console.commands(page) if "127.0.0.1:8080" in command.text]
    with console.dev() as dev:
        for command in filter(console.runs, setup):
            console.printed(command, dev)
        run = [sys.executable, "-c", program]
        ended = subprocess.run(run, env={"PDP_ADDRESS": dev.sidecar_grpc}, capture_output=True, text=True, check=True)
    assert ended.stdout == shown


def need_jq() -> None:
    """Without it the test is skipped, and in CI, which skips nothing, it fails."""
    if shutil.which("jq") is not None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING)
    pytest.skip(MISSING)
