"""Run benchmarks by name, and write their tables and plots into `benchmarks/results`.

make bench [ROWS="NAME …"] [BASE=COMMIT] [ROUNDS=N] [DECISIONS=N]
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from benchmarks.options import Options

DEFAULTS = Options()
MODULES = {
    "wire": "benchmarks.wire.calls",
    "clients": "benchmarks.wire.clients",
    "resident": "benchmarks.wire.resident",
    "ingest": "benchmarks.wire.ingest",
    "state": "benchmarks.inside.state",
    "budget": "benchmarks.inside.budget",
    "in_process": "benchmarks.in_process",
}
"""Each has a function `run(options)`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run those that are named, or all."""
    names, options = read(arguments)
    # So that the servers under test are ended too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    for name in names:
        run: Callable[[Options], None] = import_module(MODULES[name]).run
        run(options)


def read(arguments: Sequence[str] | None) -> tuple[list[str], Options]:
    """The names and the options of a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(MODULES)}; default: all")
    parser.add_argument("--rounds", type=int, default=DEFAULTS.rounds, help="how often each row is measured")
    parser.add_argument("--decisions", type=int, default=DEFAULTS.decisions, help="before resident memory is read")
    parser.add_argument("--base", metavar="COMMIT", help="an earlier commit to measure beside this one")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in MODULES]:
        parser.error(f"unknown: {', '.join(unknown)}")
    return given.names or list(MODULES), Options(given.rounds, given.decisions, given.base)


if __name__ == "__main__":
    main()
