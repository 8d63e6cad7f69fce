"""Mutation testing of `pdp/core`: mutmut for the functions, and this program for the tables of conditions.

mutmut changes only the bodies of functions, but the operators are lambdas in a table at the top of their module. This
program changes them one by one in a copy of the tree. Prints every survivor; exit code 1 below 90 %.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLES = ("pdp/core/conditions.py", "pdp/core/records.py")
TESTS = ("tests/core/test_conditions.py", "tests/core/test_records.py", "tests/core/test_decision_cases.py")
MIN_SCORE = 0.9
MAX_SECONDS = 120
OTHER: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ENVIRONMENT = os.environ | {"PDP_HYPOTHESIS_PROFILE": "mutation"}


def main() -> int:
    """Run both parts and print the survivors."""
    total, survivors = functions()
    for part_total, part_survivors in map(tables, TABLES):
        total += part_total
        survivors += part_survivors
    score = 1 - len(survivors) / total
    print(*survivors, f"{total - len(survivors)} of {total} mutants killed: {score:.1%}", sep="\n")
    return 0 if score >= MIN_SCORE else 1


def functions() -> tuple[int, list[str]]:
    """The number of mutants that mutmut made, and the survivors."""
    mutmut = Path(sys.executable).with_name("mutmut")
    subprocess.run([mutmut, "run", "--max-children", "2"], cwd=ROOT, env=ENVIRONMENT, check=True)
    results = subprocess.run([mutmut, "results", "--all", "true"], cwd=ROOT, check=True, capture_output=True, text=True)
    mutants = [line.strip().rpartition(": ")[::2] for line in results.stdout.splitlines() if "__mutmut_" in line]
    return len(mutants), [f"{name}: {result}" for name, result in mutants if result not in ("killed", "timeout")]


def tables(path: str) -> tuple[int, list[str]]:
    """The number of mutants of a module's top level, and the survivors."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    survivors, total = [], 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pdp", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for what in mutated(tree):
            total += 1
            (copy / path).write_text(ast.unparse(tree), "utf-8")
            if not killed_by_tests(copy):
                survivors.append(f"{path}:{what}: survived")
    return total, survivors


def mutated(tree: ast.Module) -> Iterator[str]:
    """Change one thing of the top level at a time, yield its description, and change it back."""
    inside = [statement for statement in tree.body if isinstance(statement, ast.Assign | ast.AnnAssign)]
    for node in (node for statement in inside for node in ast.walk(statement)):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
            kept, node.ops[0] = node.ops[0], OTHER[type(node.ops[0])]()
            yield f"{node.lineno}: {type(kept).__name__} became {type(node.ops[0]).__name__}"
            node.ops[0] = kept
        elif isinstance(node, ast.BoolOp):
            kept_op, node.op = node.op, ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield f"{node.lineno}: {type(kept_op).__name__} became {type(node.op).__name__}"
            node.op = kept_op
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            value = node.value
            node.value = not value if isinstance(value, bool) else value + 1
            yield f"{node.lineno}: {value} became {node.value}"
            node.value = value


def killed_by_tests(copy: Path) -> bool:
    """Whether a test fails in the copy, or does not end."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS]
    try:
        ended = subprocess.run(
            command,
            cwd=copy,
            env=ENVIRONMENT | {"PYTHONPATH": str(copy)},
            capture_output=True,
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    return ended.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
