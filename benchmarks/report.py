"""What a benchmark measured: tables of medians, spreads and ratios, the machine they are of, and plots.

Rows are measured in turns within one run, so that other load of the machine meets all of them. A ratio compares two
rows of the same run: of their medians, with the lowest and the highest ratio of a single round beside it.
"""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
VERSIONS = ("grpcio", "protobuf", "uvicorn", "httptools", "cerbos", "cedarpy", "casbin", "regopy")

_BLOCK = re.compile(r"(<!-- results: (\w+) -->)\n.*?<!-- end -->", re.DOTALL)

Point = tuple[float, float]


class Column(NamedTuple):
    """A quantity and its unit."""

    name: str
    unit: str


class Ratio(NamedTuple):
    """A row's median over the base row's, and the lowest and highest ratio of one round."""

    median: float
    low: float
    high: float


class Cell(NamedTuple):
    """Median, lowest and highest of a row's rounds; the ratio is None in the base row, and where it has no value."""

    median: float
    low: float
    high: float
    ratio: Ratio | None


@dataclass
class Table:
    """Samples of rows, one per round, in the order of the rounds; ratios are to the row `base`."""

    title: str
    columns: Sequence[Column]
    base: str
    notes: Sequence[str] = ()
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, values: Mapping[str, float]) -> None:
        """One round of a row; columns that were not measured are left out."""
        kept = self.samples.setdefault(row, {})
        unknown = values.keys() - {column.name for column in self.columns}
        if unknown:
            raise KeyError(f"no such columns: {', '.join(sorted(unknown))}")
        for name, value in values.items():
            kept.setdefault(name, []).append(value)

    def cell(self, row: str, column: str) -> Cell | None:
        """What a row has in a column; None where it was not measured."""
        values = self.samples[row].get(column, [])
        if not values:
            return None
        base = self.samples.get(self.base, {}).get(column, [])
        ratio = None if row == self.base else ratio_of(values, base)
        return Cell(statistics.median(values), min(values), max(values), ratio)

    def median(self, row: str, column: str) -> float:
        """The median of a row that has values in the column."""
        return statistics.median(self.samples[row][column])

    def text(self) -> str:
        """The table for people: for each row and column `median (low - high)` and `ratio x (low - high)`."""
        rows = [["", *(f"{column.name}, {column.unit}" for column in self.columns)]]
        for row in self.samples:
            cells = [self.cell(row, column.name) for column in self.columns]
            rows.append([row, *("" if cell is None else _times(cell) for cell in cells)])
            ratios = ["" if cell is None or cell.ratio is None else _ratio(cell.ratio) for cell in cells]
            if any(ratios):
                rows.append(["", *ratios])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_aligned(cells, widths)).rstrip() for cells in rows]
        rounds = max((len(values) for row in self.samples.values() for values in row.values()), default=0)
        head = f"{self.title}\nmedians of {rounds} rounds (lowest to highest); x: ratio to `{self.base}`"
        return "\n".join([head, "", *lines, *self.notes])

    def as_json(self) -> dict[str, Any]:
        """The table for programs, with every sample."""
        return {
            "title": self.title,
            "base": self.base,
            "notes": list(self.notes),
            "columns": [column._asdict() for column in self.columns],
            "rows": {
                row: {
                    column.name: {
                        "median": cell.median,
                        "low": cell.low,
                        "high": cell.high,
                        "ratio": None if cell.ratio is None else cell.ratio._asdict(),
                        "samples": self.samples[row][column.name],
                    }
                    for column in self.columns
                    if (cell := self.cell(row, column.name)) is not None
                }
                for row in self.samples
            },
        }


def interleaved(table: Table, rounds: int, rows: Mapping[str, Callable[[], Mapping[str, float]]]) -> Table:
    """Measure each row once a round; every second round goes backwards, so that no row always follows the same one."""
    for number in range(rounds):
        names = list(rows)
        for name in names if number % 2 == 0 else reversed(names):
            table.add(name, rows[name]())
    table.samples = {name: table.samples[name] for name in rows if name in table.samples}
    return table


def ratio_of(values: Sequence[float], base: Sequence[float]) -> Ratio | None:
    """The ratio of medians, and the spread of the ratios of the rounds that both have; None without a base."""
    pairs = [value / other for value, other in zip(values, base, strict=False) if other]
    if not pairs or not statistics.median(base):
        return None
    return Ratio(statistics.median(values) / statistics.median(base), min(pairs), max(pairs))


def write(
    name: str,
    command: str,
    tables: Sequence[Table],
    versions: Mapping[str, str] | None = None,
    plots: Sequence[Path] = (),
) -> None:
    """Print the tables, write them as `results/NAME.json` and `.txt`, and put them into the page, with the plots."""
    made = machine(versions or {})
    text = "\n\n".join([f"$ {command}\n{described(made)}", *(table.text() for table in tables)]) + "\n"
    print(text, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.txt").write_text(text)
    content = {
        "command": command,
        "machine": made,
        "tables": [table.as_json() for table in tables],
        "plots": [plot.name for plot in plots],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text()))


def filled(page: str) -> str:
    """The page with the results, if there are any, between `<!-- results: NAME -->` and `<!-- end -->`."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_shown(block[2])}<!-- end -->", page)


def machine(versions: Mapping[str, str]) -> dict[str, Any]:
    """What a result depends on; `versions` of peers that are no distributions of Python."""
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "kernel": platform.release(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | dict(_installed(VERSIONS)) | dict(versions),
    }


def described(made: Mapping[str, Any]) -> str:
    """Two lines that name the machine and the versions of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return (
        f"{made['cpu']}, {made['cores']} cores, {made['kernel']}; {made['date']}, commit {made['commit']}\n{versions}"
    )


def plot(
    name: str,
    title: str,
    labels: tuple[str, str],
    lines: Mapping[str, Sequence[Point]],
    log: tuple[bool, bool] = (False, False),
) -> Path:
    """Draw lines of (x, y) into `results/NAME.svg`, on logarithmic axes where `log` says so."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    # Without these, each file differs from the last one with the same figures.
    mpl.rcParams["svg.hashsalt"] = name
    mpl.rcParams["svg.fonttype"] = "none"
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1])
    if log[0]:
        axes.set_xscale("log")
    if log[1]:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path = RESULTS / f"{name}.svg"
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _shown(name: str) -> str:
    """Results as they stand on the page."""
    made = RESULTS / f"{name}.json"
    if not made.exists():
        return ""
    plots = json.loads(made.read_text())["plots"]
    images = "".join(f"\n![{plot}](../benchmarks/results/{plot})\n" for plot in plots)
    return f"\n```console\n{(RESULTS / f'{name}.txt').read_text()}```\n{images}\n"


def _times(cell: Cell) -> str:
    return f"{_figure(cell.median)} ({_figure(cell.low)} - {_figure(cell.high)})"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} x ({ratio.low:.2f} - {ratio.high:.2f})"


def _figure(value: float) -> str:
    """At least three digits: 1,234 and 56.7 and 8.90."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    yield cells[0].ljust(widths[0])
    for cell, width in zip(cells[1:], widths[1:], strict=True):
        yield cell.rjust(width)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _commit() -> str:
    """The commit, with a `+` where the working tree differs from it."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (commit.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


def _installed(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
