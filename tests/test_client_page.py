"""The programs of docs/client.md print what stands below them.

`python -m tests.test_client_page` writes what they print into the page.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests import console

PAGE = Path(__file__).parent.parent / "docs" / "client.md"
PROGRAM = re.compile(r"```python\n(.*?)```\n\n```\n(.*?)```\n", re.DOTALL)
MARK = "=== the next program ==="
VARYING = (re.compile(r'its ETag is "\d+"'), 'its ETag is "<revision>"')


def printed(page: str) -> list[str]:
    """What each program of the page prints, run one after the other in one interpreter."""
    with console.dev() as dev:
        program = f"\nprint({MARK!r})\n".join(text for text, _ in PROGRAM.findall(page))
        ended = subprocess.run(
            [sys.executable, "-c", program.replace("127.0.0.1:8080", dev.registry)],
            env=os.environ | {"KEY": dev.key, "PDP_ADDRESS": dev.sidecar_grpc},
            capture_output=True,
            text=True,
            timeout=console.START_SECONDS,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split(f"{MARK}\n")


def test_every_program_of_the_page_prints_what_it_shows() -> None:
    """In their order, against a fresh registry and sidecar."""
    page = PAGE.read_text()
    assert page.count("```python") == len(PROGRAM.findall(page))
    assert [VARYING[0].sub(VARYING[1], text) for text in printed(page)] == [
        VARYING[0].sub(VARYING[1], shown) for _, shown in PROGRAM.findall(page)
    ]


if __name__ == "__main__":
    outputs = iter(printed(PAGE.read_text()))
    text = PROGRAM.sub(lambda found: f"```python\n{found[1]}```\n\n```\n{next(outputs)}```\n", PAGE.read_text())
    PAGE.write_text(text)
