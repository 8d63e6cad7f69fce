"""Each way to break the map of the project is found."""

from pathlib import Path

import pytest

from tests.project import floors

PAGE = """
| Folder | Floor | What it is | Imports |
| --- | --- | --- | --- |
| `pdp/core/` | 1 | the decision | — |
| `pdp/core/json/` | 1 | JSON | — |
| `pdp/state.py` | 2 | what is decided from | `core` |
| `pdp/sync/` | 3 | following the store | `state`, `registry_store.v1` |
| `registry_store/v1/` | 0 | generated | — |
| `tests/**` | 5 | tests | `*` |
"""
CODE = {
    "pdp/__init__.py": "",
    "pdp/core/__init__.py": "",
    "pdp/core/model.py": "import json\nfrom datetime import datetime\n\nthen = datetime.fromisoformat\n",
    "pdp/core/decide.py": "from pdp.core.model import then\n",
    "pdp/core/json/strict.py": "import json\n",
    "pdp/state.py": "import os\n\nfrom pdp.core import model\n",
    "pdp/sync/replica.py": "import pdp.state\nfrom registry_store.v1 import sync_pb2\n",
    "pdp/sync/subscriber.py": "from pdp.sync.replica import sync_pb2\n",
    "registry_store/__init__.py": "",
    "registry_store/v1/sync_pb2.py": "",
    "tests/pdp/test_state.py": "import pdp.sync.replica\n",
}
LIBRARY = frozenset(("json", "datetime"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, text in CODE.items():
        write(tmp_path, path, text)
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_code_that_is_as_the_map_says_breaks_nothing(root: Path) -> None:
    """So that what is found below is found for its own reason."""
    assert floors.breaches(root, floors.read_table(PAGE)) == []
    assert floors.impurities(root, LIBRARY) == []
    assert floors.large_folders(root, {"pdp", "tests"}) == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        (
            "pdp/state.py",
            "import pdp.core.model\nimport pdp.sync",
            "pdp/state.py:2: the row of `pdp.state` does",
        ),
        ("pdp/sync/new.py", "from pdp.core.model import then", "row of `pdp.sync` does not allow `pdp.core`"),
        ("pdp/sync/new.py", "from ..core import model", "row of `pdp.sync` does not allow `pdp.core`"),
        ("pdp/sync/new.py", "from .. import core", "row of `pdp.sync` does not allow `pdp.core`"),
        ("pdp/core/json/new.py", "from ..model import then", "row of `pdp.core.json` does not allow `pdp.core`"),
        ("pdp/core/json/__init__.py", "from .. import model", "row of `pdp.core.json` does not allow `pdp.core`"),
        (
            "pdp/core/new.py",
            "def late():\n    import pdp.state",
            "pdp/core/new.py:2: the row of `pdp.core` does",
        ),
        (
            "pdp/core/new.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pdp.core.json import strict",
            "pdp/core/new.py:3: the row of `pdp.core` does not allow `pdp.core.json`",
        ),
        ("pdp/sync/new.py", "from pdp import nothing", "row of `pdp.sync` does not allow `pdp`"),
        ("pdp/sync/new.py", "import tests.pdp.test_state", "row of `pdp.sync` does not allow `tests`"),
        ("pdp/new.py", "import json", "pdp/new.py is not in the table"),
        ("pdp/new/deep/one.py", "import json", "pdp/new/deep/one.py is not in the table"),
        ("other/__init__.py", "", "other/ is not in the table"),
        ("pdp/__init__.py", "import pdp.state", "pdp/__init__.py is not in the table"),
        ("pdp/state.py", "import os", "the row of `pdp.state` allows `pdp.core`, which it does not import"),
        ("pdp/core/new.py", "import pdp.state", "imports in a circle: `pdp.core`, `pdp.state`, `pdp.core`"),
    ],
)
def test_a_breach_of_the_table_is_found(root: Path, path: str, text: str, found: str) -> None:
    """And told with the line, the row, and what it does not allow."""
    write(root, path, text)
    assert any(found in one for one in floors.breaches(root, floors.read_table(PAGE)))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("| `pdp/endpoints/` | 3 | gone | — |", "`pdp.endpoints` is in the table and holds no module"),
        ("| `pdp/core/` | 3 | too high | — |", "`pdp.state` on floor 2 imports `pdp.core` on floor 3"),
        ("| `pdp/sync/` | 3 | more | `state`, `core`, `registry_store.v1` |", "`pdp.sync` allows `pdp.core`, which it"),
        ("| `pdp/sync/` | 3 | a row that is not | `state`, `wire`, `registry_store.v1` |", "`pdp.sync` allows `wire`"),
    ],
)
def test_a_wrong_row_is_found(root: Path, row: str, found: str) -> None:
    """A map that says what is not so is worse than none."""
    assert any(found in one for one in floors.breaches(root, floors.read_table(f"{PAGE}{row}\n")))


def test_a_circle_that_the_table_allows_is_found(root: Path) -> None:
    """An allowance is no excuse."""
    write(root, "pdp/core/new.py", "import pdp.state")
    rows = floors.read_table(f"{PAGE}| `pdp/core/` | 2 | the decision | `state` |\n")
    assert floors.breaches(root, rows) == ["imports in a circle: `pdp.core`, `pdp.state`, `pdp.core`"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os", "pdp/core/new.py:1: imports `os`"),
        ("import os.path", "imports `os.path`"),
        ("import subprocess", "imports `subprocess`"),
        ("def late():\n    import threading", "pdp/core/new.py:2: imports `threading`"),
        ("from random import random", "imports `random.random`"),
        ("from time import time", "imports `time.time`"),
        ("import logging", "imports `logging`"),
        ("import grpc", "imports `grpc`"),
        ("import asyncio", "imports `asyncio`"),
        ("from datetime import datetime\nnow = datetime.now()", "pdp/core/new.py:2: uses `datetime.datetime.now`"),
        ("import datetime\nnow = datetime.datetime.now()", "uses `datetime.datetime.now`"),
        ("import datetime as d\nnow = d.datetime.utcnow", "uses `datetime.datetime.utcnow`"),
        ("from datetime import date as day\ndef f():\n    return day.today()", ":3: uses `datetime.date.today`"),
        ("from typing import TYPE_CHECKING", "imports `typing.TYPE_CHECKING`"),
        ("import typing\nif typing.TYPE_CHECKING:\n    import json", "uses `typing.TYPE_CHECKING`"),
        ("text = open('file').read()", "uses `open`"),
        ("print('here')", "uses `print`"),
        ("async def decide(): ...", "uses `async`"),
    ],
)
def test_a_core_that_is_not_pure_is_found(root: Path, text: str, found: str) -> None:
    """Time, chance, files, other programs, tasks: none of them is a decision's own."""
    write(root, "pdp/core/new.py", text)
    assert any(found in one for one in floors.impurities(root, LIBRARY | {"typing"}))


def test_what_the_core_is_allowed_in_vain_is_found(root: Path) -> None:
    """The list of the standard library is no longer than it must be."""
    assert floors.impurities(root, LIBRARY | {"math"}) == ["`math` is allowed to the core, which does not use it"]


def test_a_folder_that_is_too_large_is_found(root: Path) -> None:
    """Wherever it is; a list in the order of time is as long as it is."""
    for number in range(floors.MAX_MODULES + 1):
        write(root, f"tests/pdp/test_{number}.py", "")
        write(root, f"{min(floors.LISTS)}/r{number}.py", "")
    assert floors.large_folders(root, {"pdp", "registry_store", "tests"}) == ["tests/pdp/ holds 18 modules; 16 fit"]
