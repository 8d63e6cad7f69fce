"""`verify` shows whether a decision log is as it was written."""

import json
import zlib
from pathlib import Path

import pytest

from pdp.decision_log.verify import verify
from pdp.log_format.frames import MARK
from tests.pdp.decision_log.chains import append, append_each, files, opened, record
from tests.programs import run

SMALL = 64 * 1000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The folder of a log of several files."""
    append_each(opened(tmp_path, SMALL), [record(number, size=50) for number in range(29)])
    assert len(files(tmp_path)) > 3
    return tmp_path / "decisions"


def changed(path: Path, old: bytes, new: bytes) -> None:
    """The file with the first `old` in it replaced."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_a_log_as_it_was_written_is_whole(log: Path) -> None:
    """Over all its files."""
    assert verify(log) == (["29 records, all as they were written"], True)


def test_a_recorded_gap_is_not_a_fault(tmp_path: Path) -> None:
    """The dropped records are listed."""
    append(opened(tmp_path), [record(0), 3, record(1)])
    assert verify(tmp_path / "decisions") == (
        ["2 to 4 were dropped", "3 records, all as they were written"],
        True,
    )


def test_an_incomplete_last_line_is_not_a_fault(log: Path) -> None:
    """The sidecar may be running."""
    with max(log.glob("*.log")).open("ab") as file:
        file.write(MARK + b"torn")
    assert verify(log).whole


def test_an_edited_record_is_found(log: Path) -> None:
    """With the file and the record before it."""
    path = sorted(log.glob("*.log"))[1]
    changed(path, b"\x22\x016", b"\x22\x019")
    assert verify(log).lines[0] == f"`{path.name}`: what follows record 6 is not what was written"
    assert not verify(log).whole


def test_a_removed_record_is_found(log: Path) -> None:
    """The next one does not follow."""
    path = sorted(log.glob("*.log"))[1]
    begin, *frames = path.read_bytes().split(MARK)
    path.write_bytes(MARK.join((begin, frames[0], *frames[2:])))
    assert not verify(log).whole


def test_reordered_records_are_found(log: Path) -> None:
    """Each one follows the one before it alone."""
    path = sorted(log.glob("*.log"))[1]
    begin, *frames = path.read_bytes().split(MARK)
    path.write_bytes(MARK.join((begin, frames[0], frames[2], frames[1], *frames[3:])))
    assert not verify(log).whole


def test_other_numbers_of_the_same_records_are_found(log: Path) -> None:
    """Even with a frame that fits them."""
    path = sorted(log.glob("*.log"))[-1]
    data = path.read_bytes()
    start = data.rindex(MARK)
    header = data[start : start + 16] + (1000).to_bytes(4, "big") + data[start + 20 : start + 52]
    path.write_bytes(data[:start] + header + zlib.crc32(header).to_bytes(4, "big") + data[start + 56 :])
    assert not verify(log).whole


def test_a_removed_file_is_found(log: Path) -> None:
    """Except for the oldest, which go once they are sent."""
    paths = sorted(log.glob("*.log"))
    paths[0].unlink()
    assert verify(log).whole
    paths[2].unlink()
    assert verify(log).lines[0] == f"`{paths[3].name}`: does not continue record {int(paths[2].stem) - 1}"


def test_a_file_that_does_not_begin_as_it_was_written_is_found(log: Path) -> None:
    """And so is that the next one does not follow it."""
    paths = sorted(log.glob("*.log"))
    changed(paths[1], b"pdp-decisions-2", b"pdp-decisions-3")
    assert verify(log).lines[0] == f"`{paths[1].name}`: its first line is not what was written"


async def test_the_exit_code_shows_the_result(log: Path) -> None:
    """0: whole, 1: not what was written, 2: there is no log."""
    whole = await run("pdp", "verify-log", f"--data-dir={log.parent}")
    changed(files(log.parent)[0], b"\x22\x013", b"\x22\x014")
    edited = await run("pdp", "verify-log", f"--data-dir={log.parent}")
    none = await run("pdp", "verify-log", f"--data-dir={log}")
    assert whole == (0, "29 records, all as they were written\n", "")
    assert edited.code == 1
    assert edited.out.splitlines()[0].endswith("what follows record 3 is not what was written")
    assert edited.out.splitlines()[-1].endswith("records, and not all as they were written")
    assert (none.code, none.err) == (2, f"pdp: `--data-dir`: there is no decision log in `{log}`\n")


async def test_the_records_are_shown_as_json(log: Path) -> None:
    """Each on a line with its sequence, up to damage; what was found goes to standard error."""
    shown = await run("pdp", "verify-log", "--records", f"--data-dir={log.parent}")
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [(line["sequence"], line["decision_id"]) for line in lines] == [(n + 1, str(n)) for n in range(29)]
    assert (shown.code, shown.err) == (0, "29 records, all as they were written\n")
    changed(files(log.parent)[-1], b"\x22\x0228", b"\x22\x0229")
    edited = await run("pdp", "verify-log", "--records", f"--data-dir={log.parent}")
    assert len(edited.out.splitlines()) == 28
    assert edited.code == 1
