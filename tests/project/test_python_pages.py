"""The Python programs of a page print what stands below them.

`python -m tests.project.test_python_pages` writes what they print into the pages.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import console

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = ["agent-code.md", "client.md", "approvals.md"]
PROGRAM = re.compile(r"```python\n(.*?)```\n\n```\n(.*?)```\n", re.DOTALL)
MARK = "=== the next program ==="
VARYING = re.compile(r'(?<=its ETag is )"\d+"')


def printed(page: str) -> list[str]:
    """What each program of the page prints, run one after the other in one interpreter."""
    with console.dev() as dev:
        program = f"\nprint({MARK!r})\n".join(text for text, _ in PROGRAM.findall(page))
        ended = subprocess.run(
            [sys.executable, "-c", program.replace("127.0.0.1:8080", dev.registry)],
            env=os.environ | {"KEY": dev.key, "PDP_ADDRESS": dev.sidecar_grpc},
            capture_output=True,
            text=True,
            timeout=console.PAGE_SECONDS,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split(f"{MARK}\n")


@pytest.mark.parametrize("name", PAGES)
def test_every_program_of_a_page_prints_what_it_shows(name: str) -> None:
    """In their order, against a fresh registry and sidecar."""
    page = (DOCS / name).read_text()
    assert page.count("```python") == len(PROGRAM.findall(page))
    assert [steady(text) for text in printed(page)] == [steady(shown) for _, shown in PROGRAM.findall(page)]


def steady(text: str) -> str:
    """A text without what differs from run to run."""
    return console.steady(VARYING.sub('"<revision>"', text))


def rewritten(page: str) -> str:
    """The page with what its programs print now."""
    outputs = iter(printed(page))
    return PROGRAM.sub(lambda found: f"```python\n{found[1]}```\n\n```\n{next(outputs)}```\n", page)


if __name__ == "__main__":
    for path in (DOCS / name for name in PAGES):
        path.write_text(rewritten(path.read_text()))
