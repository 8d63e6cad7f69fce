"""The map in `docs/architecture.md` is the code's: each folder imports what its row allows, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import floors

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
ROWS = floors.read_table(PAGE)


def test_the_table_is_the_code() -> None:
    """No folder is left out, no import goes up or in a circle, and no row allows what nobody uses."""
    assert floors.breaches(ROOT, ROWS) == []


def test_the_core_is_pure() -> None:
    """It reads no clock and no file, waits for nothing, and knows nothing that a checker of types alone sees."""
    assert floors.impurities(ROOT) == []


def test_a_folder_fits_in_a_head() -> None:
    """About fifteen modules; what holds more has a seam."""
    assert floors.large_folders(ROOT, floors.programs(ROWS)) == []


def test_one_package_embeds_uvicorn() -> None:
    """Its bounds of time and size hold for both programs."""
    users = {
        path.parent
        for program in ("pdp", "registry_store", "ascend")
        for path in (ROOT / program).rglob("*.py")
        if re.search(r"^\s*(import|from) uvicorn", path.read_text(), re.MULTILINE)
    }
    assert users == {ROOT / "pdp/serving/http1"}


def test_the_journeys_pass_through_modules_that_are() -> None:
    """Each module and function that the page names is there."""
    named = re.findall(r"`((?:pdp|registry_store|ascend)/[\w/]+\.py)`(?: `(\w+)`)?", PAGE)
    assert len(named) > 20
    for path, name in named:
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"(def|class) {name}\b", text), f"{path} has no `{name}`"


@pytest.mark.parametrize("module", ["pdp.app", "pdp.cli", "pdp.injector.app", "ascend"])
def test_the_sidecar_and_the_client_run_without_the_stores_libraries(module: str) -> None:
    """Importing them never imports SQLAlchemy, FastAPI or pydantic."""
    program = f"import sys, {module}; print(*{{'sqlalchemy', 'fastapi', 'pydantic', 'alembic'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
