"""What is counted of a decision in process."""

import json
import subprocess
import sys

import pytest

from benchmarks.inside import instructions
from benchmarks.inside.instructions import PARTS, counts


def test_each_part_is_done_in_processes_of_its_own() -> None:
    """Once as often as asked, and once twice as often, with the right answers, and every record in the log."""
    command = [sys.executable, "-m", "benchmarks.inside.instructions", "children", "2"]
    pids = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert pids.keys() == PARTS.keys()
    assert len({pid for both in pids.values() for pid in both}) == 2 * len(PARTS)


def test_a_count_is_what_the_second_half_took() -> None:
    """So neither the start of a process nor its end is in it."""
    outputs = {1: "events: Ir\nsummary: 1000\n", 2: "events: Ir\nsummary: 1600\n"}
    assert counts({"parse": (1, 2)}, outputs, calls=3) == {"parse": 200}


def test_an_output_without_a_sum_is_refused() -> None:
    """A process that was killed leaves none."""
    with pytest.raises(ValueError, match="no summary"):
        counts({"parse": (1, 2)}, {1: "events: Ir\n", 2: "summary: 5\n"}, calls=3)


def test_without_valgrind_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the error says how to install it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install --yes valgrind"):
        instructions.counted()
