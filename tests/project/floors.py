"""What breaks the map in `docs/architecture.md`: imports that its table does not allow, and a core that is not pure."""

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ANYTHING = "*"
CORE = "pdp.core"
CORE_LIBRARY = frozenset(
    {"array", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "difflib", "enum", "fnmatch"}
    | {"functools", "itertools", "json", "math", "operator", "re", "types", "typing", "zoneinfo"}
)
"""All that the core imports of the standard library: of these, only `datetime` could read a clock."""
CLOCKS = frozenset(f"datetime.{name}" for name in ("datetime.now", "datetime.utcnow", "datetime.today", "date.today"))
IMPURE = frozenset(("open", "print", "input", "eval", "exec", "__import__"))
MAX_MODULES = 16
"""Of a folder, beside its `__init__.py`."""
LISTS = frozenset(("registry_store/database/migrations/versions",))
"""Folders that are lists in the order of time, and as long as they are."""

_ROW = re.compile(r"\| `([\w/]+?)(/|/\*\*|\.py)` +\| (\d) +\| ([^|]+) \| ([^|]+) \|")
_NAME = re.compile(r"`([\w.*]+)`")


class Row(NamedTuple):
    """A folder or a module beside folders: its floor, and which other rows it may import (None: any)."""

    floor: int
    imports: frozenset[str] | None


class Module(NamedTuple):
    """A module of the project: its file, the row that it belongs to, and what it imports of the project by line."""

    path: str
    row: str
    imports: tuple[tuple[int, str], ...]


def read_table(page: str) -> dict[str, Row]:
    """The rows by their dotted names; a name in the last column is of the row's own program, or is whole."""
    names = {match[1].replace("/", ".") for match in _ROW.finditer(page)}
    rows = {}
    for path, _, floor, _, imports in _ROW.findall(page):
        program = path.partition("/")[0]
        found = _NAME.findall(imports)
        whole = frozenset(f"{program}.{name}" if f"{program}.{name}" in names else name for name in found)
        rows[path.replace("/", ".")] = Row(int(floor), None if ANYTHING in found else whole)
    return rows


def breaches(root: Path, rows: Mapping[str, Row]) -> list[str]:
    """Every way in which the code below `root` is not as the table says; nothing, if it is."""
    modules = list(_modules(root, rows))
    return [
        *_outside_the_table(root, rows, modules),
        *_not_allowed(rows, modules),
        *_not_used(rows, modules),
        *_upwards(rows),
        *_circles(rows, modules),
    ]


def impurities(root: Path, library: frozenset[str] = CORE_LIBRARY) -> list[str]:
    """What in the core could read a clock, or reach outside; and what it is allowed and does not use."""
    found, used = [], set()
    for path in sorted((root / CORE.replace(".", "/")).rglob("*.py")):
        tree = ast.parse(path.read_text())
        at = path.relative_to(root)
        taken = {name: line for line, name in _imported(tree, []) if name.split(".")[0] != "pdp"}
        used |= {name.split(".")[0] for name in taken}
        found += [
            f"{at}:{line}: imports `{name}`"
            for name, line in taken.items()
            if name.split(".")[0] not in library or name == "typing.TYPE_CHECKING"
        ]
        found += [f"{at}:{line}: uses `{name}`" for line, name in _impure(tree)]
    return found + [f"`{name}` is allowed to the core, which does not use it" for name in sorted(library - used)]


def large_folders(root: Path, programs: set[str]) -> list[str]:
    """Folders that hold more modules than fit in a head."""
    folders = [folder for program in programs for folder in (root / program, *(root / program).rglob("*/"))]
    counts = {
        str(one.relative_to(root)): sum(path.name != "__init__.py" for path in one.glob("*.py")) for one in folders
    }
    return [
        f"{folder}/ holds {count} modules; {MAX_MODULES} fit"
        for folder, count in sorted(counts.items())
        if count > MAX_MODULES and folder not in LISTS
    ]


def programs(rows: Mapping[str, Row]) -> set[str]:
    """The top folders that the table names."""
    return {name.split(".")[0] for name in rows}


def _modules(root: Path, rows: Mapping[str, Row]) -> Iterator[Module]:
    files = {_dotted(path, root): path for program in programs(rows) for path in (root / program).rglob("*.py")}
    for name, path in sorted(files.items()):
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py" and len(package) == 1 and not tree.body:
            continue
        taken = [
            (line, _known(one, files)) for line, one in _imported(tree, package) if one.split(".")[0] in programs(rows)
        ]
        yield Module(
            str(path.relative_to(root)),
            _row_of(name, path, rows),
            tuple((line, _row_of(one, files[one], rows) if one in files else one) for line, one in taken),
        )


def _dotted(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _known(name: str, files: Mapping[str, Path]) -> str:
    """The module that an imported name is or stands in; the name itself where there is none."""
    module = name
    while module and module not in files:
        module = module.rpartition(".")[0]
    return module or name


def _row_of(name: str, path: Path, rows: Mapping[str, Row]) -> str:
    """A module's own row, else that of its folder, else that of a folder above which may import anything."""
    folder = name if path.name == "__init__.py" else name.rpartition(".")[0]
    if name in rows:
        return name
    above = folder
    while above not in rows or (above != folder and rows[above].imports is not None):
        above = above.rpartition(".")[0]
        if not above:
            return name
    return above


def _imported(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Every name that is imported, whole, with its line; inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def _outside_the_table(root: Path, rows: Mapping[str, Row], modules: list[Module]) -> Iterator[str]:
    for package in sorted(path.parent.name for path in root.glob("*/__init__.py")):
        if package not in programs(rows):
            yield f"{package}/ is not in the table"
    for module in modules:
        if module.row not in rows:
            yield f"{module.path} is not in the table"
    for name in sorted(rows.keys() - {module.row for module in modules}):
        yield f"`{name}` is in the table and holds no module"


def _not_allowed(rows: Mapping[str, Row], modules: list[Module]) -> Iterator[str]:
    for module in modules:
        allowed = rows[module.row].imports if module.row in rows else None
        for line, target in module.imports:
            if allowed is not None and target != module.row and target not in allowed:
                yield f"{module.path}:{line}: the row of `{module.row}` does not allow `{target}`"


def _not_used(rows: Mapping[str, Row], modules: list[Module]) -> Iterator[str]:
    for name, row in rows.items():
        used = {target for module in modules if module.row == name for _, target in module.imports}
        for target in sorted((row.imports or frozenset()) - used):
            yield f"the row of `{name}` allows `{target}`, which it does not import"


def _upwards(rows: Mapping[str, Row]) -> Iterator[str]:
    for name, row in rows.items():
        for target in sorted(row.imports or ()):
            if target in rows and rows[target].floor > row.floor:
                yield f"`{name}` on floor {row.floor} imports `{target}` on floor {rows[target].floor}"


def _circles(rows: Mapping[str, Row], modules: list[Module]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for module in modules:
        if module.row in rows and rows[module.row].imports is not None:
            graph.setdefault(module.row, set()).update(target for _, target in module.imports if target != module.row)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "imports in a circle: " + ", ".join(f"`{name}`" for name in reversed(error.args[1]))


def _impure(tree: ast.Module) -> Iterator[tuple[int, str]]:
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            whole = _spelled(node)
            first, _, rest = whole.partition(".")
            full = f"{names.get(first, first)}.{rest}"
            if full in CLOCKS or full == "typing.TYPE_CHECKING":
                yield node.lineno, full
        elif isinstance(node, ast.Name) and node.id in IMPURE:
            yield node.lineno, node.id
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
            yield node.lineno, "async"


def _spelled(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_spelled(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
