"""What is compared with the committed figures, and when that fails."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks import smoke
from benchmarks.inside import instructions
from benchmarks.smoke import COUNT, WIRE, Compared, compare, machine, middle, settled
from benchmarks.wire import cost

FIGURES = {WIRE: {"gRPC": 2.0, "Connect": 3.0}, COUNT: {"decision": 400_000.0}}


@pytest.fixture(name="measured")
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """What is measured, as the test sets it: at first what is committed for this machine."""
    measured = {kind: dict(figures) for kind, figures in FIGURES.items()}
    (tmp_path / "smoke.json").write_text(json.dumps({machine(): FIGURES}))
    monkeypatch.setattr(smoke, "FIGURES", tmp_path / "smoke.json")
    monkeypatch.setattr(cost, "ratios", lambda: measured[WIRE])
    monkeypatch.setattr(instructions, "counted", lambda: measured[COUNT])
    monkeypatch.delenv("CI", raising=False)
    return measured


def sequence(*figures: Mapping[str, float]) -> Callable[[], Mapping[str, float]]:
    """Measures these, one after the other."""
    left = iter(figures)
    return lambda: next(left)


@pytest.mark.parametrize(("kind", "bound"), [(WIRE, 1250), (COUNT, 1050)])
def test_each_kind_has_its_bound(kind: str, bound: int) -> None:
    """A quarter for a cost and a twentieth for a count: at it is good, above it is not, and without a figure is."""
    compared = compare({kind: {"a": bound, "b": bound + 1, "c": 1}}, {kind: {"a": 1000, "b": 1000}})
    assert [one.is_dearer for one in compared] == [False, True, False]


def test_a_line_says_what_to_do() -> None:
    """It names a failure, a figure that is missing, and a gain that is to be kept."""
    assert str(Compared(COUNT, "parse", 1140, 1000)).endswith("1,140      1,000    1.140 x   FAILED: more than 1.05 x")
    assert str(Compared(COUNT, "parse", 1050, 1000)).endswith("1.050 x")
    assert str(Compared(COUNT, "parse", 950, 1000)).endswith("cheaper: make bench-smoke UPDATE=1 keeps it so")
    missing = str(Compared(COUNT, "parse", 700, None))
    assert missing.endswith(f"no figure is committed for {machine()}: make bench-smoke UPDATE=1")


def test_what_is_too_high_is_measured_again() -> None:
    """And then the lower figures count; what is good is measured once."""
    committed = {"gRPC": 2.0, "Connect": 3.0}
    good, bad = {"gRPC": 2.4, "Connect": 3.0}, {"gRPC": 2.6, "Connect": 2.9}
    assert settled(sequence(good), committed) == good
    assert settled(sequence(bad, good), committed) == {"gRPC": 2.4, "Connect": 2.9}
    assert settled(sequence(bad, bad), committed) == bad


def test_what_is_committed_is_a_median() -> None:
    """Of three times, for each figure."""
    assert middle(sequence({"a": 1, "b": 9}, {"a": 5, "b": 7}, {"a": 3, "b": 8})) == {"a": 3, "b": 8}


def test_nothing_dearer_is_good(measured: dict[str, dict[str, float]]) -> None:
    """Up to the bound of each kind."""
    measured[WIRE]["gRPC"] *= 1.25
    measured[COUNT]["decision"] *= 1.05
    assert smoke.main(update=False) == 0


@pytest.mark.parametrize(
    ("kind", "name", "factor"), [(WIRE, "gRPC", 1.26), (WIRE, "Connect", 1.26), (COUNT, "decision", 1.06)]
)
def test_a_dearer_decision_fails(
    measured: dict[str, dict[str, float]], capsys: pytest.CaptureFixture[str], kind: str, name: str, factor: float
) -> None:
    """By either kind of figure."""
    measured[kind][name] *= factor
    assert smoke.main(update=False) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert line.startswith(kind)
    assert name in line


def test_another_python_has_figures_of_its_own(
    measured: dict[str, dict[str, float]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version without figures reports, and does not fail; it says how to commit them."""
    monkeypatch.setattr(smoke, "machine", lambda: "CPython 3.99 riscv64")
    measured[COUNT]["decision"] *= 9
    assert smoke.main(update=False) == 0
    assert "no figure is committed for CPython 3.99 riscv64: make bench-smoke UPDATE=1" in capsys.readouterr().out


def test_an_update_replaces_the_figures_of_this_machine(measured: dict[str, dict[str, float]]) -> None:
    """Even if they are higher; those of others stay."""
    every = json.loads(smoke.FIGURES.read_text())
    smoke.FIGURES.write_text(json.dumps(every | {"another": {}}))
    measured[COUNT]["decision"] = 654_321.0
    assert smoke.main(update=True) == 0
    assert json.loads(smoke.FIGURES.read_text()) == {
        "another": {},
        machine(): {WIRE: FIGURES[WIRE], COUNT: {"decision": 654_300.0}},
    }


def test_without_valgrind_only_ci_fails(
    measured: dict[str, dict[str, float]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which skips nothing; both say what is missing."""
    monkeypatch.setattr(instructions, "counted", _refuse)
    assert smoke.main(update=False) == 0
    assert "instructions: not counted: valgrind is not installed" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert smoke.main(update=False) == 1


def _refuse() -> Mapping[str, float]:
    raise FileNotFoundError(instructions.MISSING)


def test_every_figure_is_committed() -> None:
    """For each machine that has some: one that is missing would never fail."""
    for figures in json.loads(smoke.FIGURES.read_text()).values():
        assert figures.keys() == {WIRE, COUNT}
        assert figures[WIRE].keys() == cost.PROTOCOLS.keys()
        assert figures[COUNT].keys() == instructions.PARTS.keys()
