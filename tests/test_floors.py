"""Each part of the project imports only what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED = {
    "pdp.v1.decision_pb2",
    "pdp.v1.decision_pb2_grpc",
    "registry_store.v1.sync_pb2",
    "registry_store.v1.sync_pb2_grpc",
}
WIRING = {"app", "cli", "dev", "__main__"}
SHELLS = {"service", "http", "sync", "reports"}
STORE_SHELLS = {
    "rest",
    "peers",
    "sync_service",
    "reports",
    "approval_service",
    "approval_clock",
    "monitor",
    "dashboard",
}
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("pdp", "registry_store", "ascend")
    for path in (ROOT / package).rglob("*.py")
    if "_pb2" not in path.name and "migrations" not in path.parts
)


def imported(path: Path) -> set[str]:
    """Every module that a file imports, by its full name, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_project(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in ("pdp", "registry_store", "ascend")}


def within(names: set[str], *packages: str) -> bool:
    return all(any(name == package or name.startswith(f"{package}.") for package in packages) for name in names)


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[:2] == ("pdp", "core")], ids=str)
def test_the_core_imports_the_standard_library_and_itself(path: Path) -> None:
    """The decision depends on nothing that is not in the standard library."""
    foreign = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names}
    assert within(foreign, "pdp.core")
    assert not {name for name in imported(path) if name.split(".")[0] in ("time", "asyncio", "logging", "socket")}


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "ascend"], ids=str)
def test_the_client_imports_generated_code_alone(path: Path) -> None:
    """Agent code that imports the client gets nothing of the sidecar or the store."""
    assert within(of_project(imported(path)), "ascend", "pdp.v1")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "registry_store"], ids=str)
def test_the_store_uses_the_core_alone_of_the_sidecar(path: Path) -> None:
    """A record that the store accepts is checked by the code with which every sidecar compiles it.

    Beside it, only how both listen: `pdp.serving` knows nothing of what is served.
    """
    assert within(of_project(imported(path)), "registry_store", "pdp.core", "pdp.serving")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[:2] == ("pdp", "serving")], ids=str)
def test_what_serves_knows_nothing_of_what_is_served(path: Path) -> None:
    """So that both programs can use it, and neither gets anything of the other."""
    assert within(of_project(imported(path)), "pdp.serving")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "pdp"], ids=str)
def test_the_sidecar_uses_the_stores_protocol_alone(path: Path) -> None:
    """Only `pdp dev`, which runs both in one process, knows the store's code."""
    allowed = ("pdp", "registry_store.v1") + (("registry_store",) if path.stem in WIRING else ())
    assert within(of_project(imported(path)), *allowed)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_imports_a_floor_above_it(path: Path) -> None:
    """Wiring is imported by wiring alone, and shells by wiring and shells."""
    package, floor = path.parts[0], path.parts[1].removesuffix(".py")
    shells = SHELLS if package == "pdp" else STORE_SHELLS
    above = set() if floor in WIRING else WIRING if floor in shells else WIRING | shells
    used = {name.split(".")[1] for name in of_project(imported(path)) if name.startswith(f"{package}.")}
    assert not used & above


@pytest.mark.parametrize("module", ["pdp.app", "pdp.cli", "ascend"])
def test_the_sidecar_and_the_client_run_without_the_stores_libraries(module: str) -> None:
    """Importing them never imports SQLAlchemy, FastAPI or pydantic."""
    program = f"import sys, {module}; print(*{{'sqlalchemy', 'fastapi', 'pydantic', 'alembic'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
