"""Whether decisions have become dearer, in less than a minute: `make bench-smoke`.

python -m benchmarks.smoke [--update]

Two kinds of figures, neither of them a time: what a decision costs the processor over an empty call of the same
protocol, and how many instructions a decision and its parts take in process. Each is compared with the committed one in
`results/smoke.json`, of the same build of Python, and the exit code is 1 when the cost is more than a quarter above, or
a count more than a twentieth. `--update` commits to what was measured.
"""

import argparse
import json
import os
import platform
import signal
import sys
import sysconfig
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

from benchmarks.inside import instructions
from benchmarks.report import RESULTS
from benchmarks.wire import cost

FIGURES = RESULTS / "smoke.json"
WIRE, COUNT = "wire cost", "instructions"
TOLERANCES = {WIRE: 1.25, COUNT: 1.05}
"""How far above the committed figure one may be. Other load changes the cost, and a count by less than a thousandth."""

Figures = Mapping[str, Mapping[str, float]]
"""The figures of one kind of machine, by kind and name."""


class Compared(NamedTuple):
    """A figure, and the committed one; None where there is none."""

    kind: str
    name: str
    measured: float
    committed: float | None

    @property
    def is_dearer(self) -> bool:
        """Whether it is further above the committed one than its kind may be."""
        return self.committed is not None and self.measured > TOLERANCES[self.kind] * self.committed

    def __str__(self) -> str:
        line = f"{self.kind:14}{self.name:10}{_figure(self.measured):>10}"
        if self.committed is None:
            return f"{line}   no figure is committed for {machine()}: make bench-smoke UPDATE=1"
        line += f"{_figure(self.committed):>11}{self.measured / self.committed:9.3f} x"
        if self.is_dearer:
            return f"{line}   FAILED: more than {TOLERANCES[self.kind]} x"
        gained = self.measured * TOLERANCES[self.kind] < self.committed
        return f"{line}   cheaper: make bench-smoke UPDATE=1 keeps it so" if gained else line


def machine() -> str:
    """What figures depend on: each build of Python has instructions of its own."""
    is_profiled = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    python = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"
    return f"{python}, {platform.python_compiler()}, {'with' if is_profiled else 'without'} PGO"


def compare(measured: Figures, committed: Figures) -> list[Compared]:
    """Each measured figure beside the committed one."""
    return [
        Compared(kind, name, value, committed.get(kind, {}).get(name))
        for kind, figures in measured.items()
        for name, value in figures.items()
    ]


def settled(measure: Callable[[], Mapping[str, float]], committed: Mapping[str, float]) -> Mapping[str, float]:
    """Costs; measured twice where one is too high, and then the lower ones: other load seldom hits both."""
    first = measure()
    if not any(one.is_dearer for one in compare({WIRE: first}, {WIRE: committed})):
        return first
    print("too high, so it is measured again:", *(f"{name} {_figure(value)}" for name, value in first.items()))
    second = measure()
    return {name: min(value, second[name]) for name, value in first.items()}


def middle(measure: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """The medians of three times, to be committed."""
    taken = [measure() for _ in range(3)]
    return {name: median(figures[name] for figures in taken) for name in taken[0]}


def main(*, update: bool) -> int:
    """Measure, compare and print; the exit code."""
    every: dict[str, Figures] = json.loads(FIGURES.read_text())
    committed = every.get(machine(), {})
    ratios = middle(cost.ratios) if update else settled(cost.ratios, committed.get(WIRE, {}))
    measured: dict[str, Mapping[str, float]] = {WIRE: ratios}
    try:
        measured[COUNT] = instructions.counted()
    except FileNotFoundError as error:
        print(f"instructions: not counted: {error}")
        if os.environ.get("CI") == "true":  # which skips nothing
            return 1
    found = compare(measured, committed)
    print(f"{'':24}{'measured':>10}{'committed':>11}", *found, sep="\n")
    if update:
        every[machine()] = {**committed, **rounded(measured)}
        FIGURES.write_text(json.dumps(every, indent=2, sort_keys=True) + "\n")
        return 0
    return int(any(one.is_dearer for one in found))


def rounded(figures: Figures) -> dict[str, dict[str, float]]:
    """Without the digits that say nothing."""
    return {kind: {name: float(f"{value:.4g}") for name, value in some.items()} for kind, some in figures.items()}


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke")
    parser.add_argument("--update", action="store_true", help="commit to the figures that are measured now")
    # So that the servers under test are ended too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(update=parser.parse_args().update))
