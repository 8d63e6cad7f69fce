"""Where the program starts."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["sqlalchemy", "fastapi", "asyncpg"])
def test_without_its_extra_the_program_says_how_to_get_it(library: str) -> None:
    """One line on stderr that names the extra, and exit code 2."""
    program = f"import sys; sys.modules[{library!r}] = None; from registry_store.__main__ import main; main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"registry-store: `{library}` is not installed: pip install 'agent-pdp[store]'\n"


def test_the_program_can_be_run_as_a_module() -> None:
    """`python -m registry_store` is the same program under the same name."""
    command = [sys.executable, "-m", "registry_store", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("Usage: registry-store ")
