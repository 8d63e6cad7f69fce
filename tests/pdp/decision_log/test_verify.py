"""`verify` shows whether a decision log is as it was written."""

from pathlib import Path

import pytest

from pdp.decision_log.verify import verify
from tests.pdp.decision_log.chains import append, document, files, opened
from tests.programs import run

SMALL = 64 * 1000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The folder of a log of several files."""
    append(opened(tmp_path, SMALL), [document(number, size=50) for number in range(29)])
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
    append(opened(tmp_path), [document(0), 3, document(1)])
    assert verify(tmp_path / "decisions") == (
        ["2 to 4 were dropped", "3 records, all as they were written"],
        True,
    )


def test_an_incomplete_last_line_is_not_a_fault(log: Path) -> None:
    """The sidecar may be running."""
    with max(log.glob("*.log")).open("ab") as file:
        file.write(b"30 00")
    assert verify(log).whole


def test_an_edited_record_is_found(log: Path) -> None:
    """With the file and the record before it."""
    path = sorted(log.glob("*.log"))[1]
    changed(path, b'"decision_id": 8,', b'"decision_id": 9,')
    assert verify(log).lines[0] == f"`{path.name}`: what follows record 8 is not what was written"
    assert not verify(log).whole


def test_a_removed_record_is_found(log: Path) -> None:
    """The next one does not follow."""
    path = sorted(log.glob("*.log"))[1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
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
    changed(paths[1], b"pdp-decisions-1", b"pdp-decisions-2")
    assert verify(log).lines[0] == f"`{paths[1].name}`: its first line is not what was written"


async def test_the_exit_code_shows_the_result(log: Path) -> None:
    """0: whole, 1: not what was written, 2: there is no log."""
    whole = await run("pdp", "verify-log", f"--data-dir={log.parent}")
    changed(files(log.parent)[0], b'"decision_id": 3,', b'"decision_id": 4,')
    edited = await run("pdp", "verify-log", f"--data-dir={log.parent}")
    none = await run("pdp", "verify-log", f"--data-dir={log}")
    assert whole == (0, "29 records, all as they were written\n", "")
    assert edited.code == 1
    assert edited.out.splitlines()[0].endswith("what follows record 3 is not what was written")
    assert edited.out.splitlines()[-1].endswith("records, and not all as they were written")
    assert (none.code, none.err) == (2, f"pdp: `--data-dir`: there is no decision log in `{log}`\n")
