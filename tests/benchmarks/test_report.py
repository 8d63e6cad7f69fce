"""Medians, spreads and ratios of what a benchmark measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.peers import rule
from benchmarks.report import Cell, Column, Ratio, Table, interleaved, ratio_of

COLUMNS = (Column("cpu", "µs"), Column("requests", "1/s"))


def filled() -> Table:
    """Two rows of three rounds; the second row has no requests."""
    table = Table("calls", COLUMNS, base="peer", notes=["one core"])
    for cpu, requests in ((10, 100), (20, 50), (40, 25)):
        table.add("peer", {"cpu": cpu, "requests": requests})
    for cpu in (5, 30, 10):
        table.add("ours", {"cpu": cpu})
    return table


def test_a_cell_has_the_median_the_spread_and_the_ratio() -> None:
    """The ratio is of the medians; its spread is of the single rounds."""
    table = filled()
    assert table.cell("peer", "cpu") == Cell(20, 10, 40, None)
    assert table.cell("ours", "cpu") == Cell(10, 5, 30, Ratio(0.5, 0.25, 1.5))
    assert table.cell("ours", "requests") is None


def test_nothing_is_divided_by_nothing() -> None:
    """There is no ratio to a base that was not measured, or that is zero."""
    assert ratio_of([1, 2], []) is None
    assert ratio_of([1, 2, 3], [0, 0, 5]) is None
    assert ratio_of([2, 2, 3], [0, 2, 4]) == Ratio(1.0, 0.75, 1.0)


def test_a_column_that_the_table_lacks_is_refused() -> None:
    """A misspelt column would be missing from the results."""
    with pytest.raises(KeyError, match="no such columns: memory"):
        filled().add("ours", {"memory": 1})


def test_the_text_shows_each_row_and_its_ratios() -> None:
    """Figures of three digits, and an empty cell for what was not measured."""
    assert filled().text().splitlines() == [
        "calls",
        "medians of 3 rounds (lowest to highest); x: ratio to `peer`",
        "",
        "                   cpu, µs      requests, 1/s",
        "peer    20.0 (10.0 - 40.0)  50.0 (25.0 - 100)",
        "ours    10.0 (5.00 - 30.0)",
        "      0.50 x (0.25 - 1.50)",
        "one core",
    ]


def test_rows_take_turns() -> None:
    """Each second round goes backwards; the table keeps the rows in the order that was asked for."""
    order: list[str] = []

    def row(name: str) -> Callable[[], dict[str, float]]:
        def once() -> dict[str, float]:
            order.append(name)
            return {"cpu": float(len(order))}

        return once

    table = interleaved(Table("calls", COLUMNS, base="a"), 2, {name: row(name) for name in "abc"})
    assert "".join(order) == "abccba"
    assert list(table.samples) == ["a", "b", "c"]
    assert table.samples["a"]["cpu"] == [1, 6]


def test_results_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for programs: with the command, the machine, the versions, and every sample."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    report.PAGE.write_text("# Page\n\n<!-- results: calls -->\nold\n<!-- end -->\n\nEnd.\n")
    report.write("calls", "python -m benchmarks calls", [filled()], {"h2load": "1.52"}, [tmp_path / "load.svg"])
    written = json.loads((tmp_path / "results" / "calls.json").read_text())
    assert written["command"] == "python -m benchmarks calls"
    assert written["machine"].keys() == {"cpu", "cores", "kernel", "date", "commit", "versions"}
    assert written["machine"]["versions"]["h2load"] == "1.52"
    ours = written["tables"][0]["rows"]["ours"]["cpu"]
    assert ours["samples"] == [5, 30, 10]
    assert ours["ratio"] == {"median": 0.5, "low": 0.25, "high": 1.5}
    assert (tmp_path / "results" / "calls.txt").read_text() == capsys.readouterr().out[:-1]
    text = (tmp_path / "results" / "calls.txt").read_text()
    shown = f"```console\n{text}```\n\n![load.svg](../benchmarks/results/load.svg)\n"
    page = f"# Page\n\n<!-- results: calls -->\n\n{shown}\n<!-- end -->\n\nEnd.\n"
    assert report.PAGE.read_text() == page
    assert report.filled(page) == page


def test_the_page_shows_the_results_that_are_committed() -> None:
    """Where not: a file was changed by hand."""
    page = report.PAGE.read_text()
    assert report.filled(page) == page


def test_the_page_states_the_rule_of_both_sides_in_full() -> None:
    """As they are measured."""
    page = report.PAGE.read_text()
    assert json.loads(page.split("```json\n")[1].split("```")[0]) == rule.RULE
    policy = (report.ROOT / "benchmarks/peers/cerbos/policies/data.yaml").read_text()
    assert page.split("```yaml\n")[1].split("```")[0] == policy.partition("\n")[2]
