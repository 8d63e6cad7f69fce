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


def test_a_quarter_more_is_the_bound() -> None:
    """A figure at the bound is good, one above it is not, and one without a committed figure is."""
    assert [one.is_dearer for one in compare({"": {"a": 125, "b": 126, "c": 1}}, {"": {"a": 100, "b": 100}})] == [
        False,
        True,
        False,
    ]


def test_a_line_says_what_to_do() -> None:
    """It names a failure, a figure that is missing, and a gain that is to be kept."""
    assert str(Compared(COUNT, "parse", 1300, 1000)).endswith("1,300      1,000    1.30 x   FAILED: more than 1.25 x")
    assert str(Compared(COUNT, "parse", 1250, 1000)).endswith("1.25 x")
    assert str(Compared(COUNT, "parse", 700, 1000)).endswith("cheaper: make bench-smoke UPDATE=1 keeps it so")
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
    """Up to a quarter more."""
    measured[COUNT]["decision"] *= 1.2
    assert smoke.main(update=False) == 0


@pytest.mark.parametrize(("kind", "name"), [(WIRE, "gRPC"), (WIRE, "Connect"), (COUNT, "decision")])
def test_a_dearer_decision_fails(
    measured: dict[str, dict[str, float]], capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    """By either kind of figure."""
    measured[kind][name] *= 1.26
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
