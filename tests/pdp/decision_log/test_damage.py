"""Torn, damaged and missing files of a decision log: what is lost is told, and the rest goes on."""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdp.log_format import batches
from pdp.log_format.frames import FRAME_BYTES, MARK, framed
from tests.pdp.decision_log.chains import Kept, append, append_each, files, numbers, opened, record, ship

SMALL = 64 * 1000
"""A log of so many bytes has files of about a thousand."""


def torn_at_every_byte(folder: Path) -> Iterator[tuple[int, Path]]:
    """A copy of the folder for each length to which its newest file could have been written."""
    newest = files(folder)[-1]
    for length in range(newest.stat().st_size):
        copy = folder.with_name(f"torn-{length}")
        shutil.copytree(folder, copy)
        with (copy / "decisions" / newest.name).open("r+b") as file:
            file.truncate(length)
        yield length, copy


def ends(path: Path) -> list[int]:
    """Where each batch of a file ends, after the end of its first line."""
    data = path.read_bytes()
    starts = [found.start() for found in re.finditer(re.escape(MARK), data)]
    return [*starts, len(data)]


def test_a_torn_last_batch_is_cut_off_told_and_the_chain_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a cut at any byte every complete batch is kept, and nothing counts as damaged.

    The records of the torn batch are lost: a gap names them, unless not even their numbers were written.
    """
    folder = tmp_path / "whole"
    folder.mkdir()
    log = opened(folder)
    append_each(log, map(record, range(3)))
    append(log, map(record, range(3, 6)))
    (path,) = files(folder)
    at, lasts = ends(path), [0, 1, 2, 3, 6]
    for length, torn in torn_at_every_byte(folder):
        caplog.clear()
        log, store = opened(torn), Kept()
        append(log, [record(100)])
        ship(log, store)
        whole = max(0, sum(end <= length for end in at) - 1)
        begun = length - at[whole] if length >= at[0] else 0
        named = whole < 4 and begun >= FRAME_BYTES
        assert numbers(store) == [*range(lasts[whole]), 100], length
        assert store.gaps() == ([(lasts[whole] + 1, lasts[whole + 1])] if named else []), length
        assert log.dropped == len(store.missing()), length
        assert (store.breaks, log.damaged) == (0, 0)
        assert [one.message for one in caplog.records if "did not end" in one.message] == [
            f"the last write to the decision log's `{path.name}` did not end; its records are lost"
        ] * (begun > 0 or length < at[0]), length
        assert opened(torn).last == log.last


def flipped(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", [0, 2, -1], ids=["the oldest", "one within", "the newest"])
@pytest.mark.parametrize("offset", [3, 90, 150, 160, 500, -1], ids=["magic", "mark", "hash", "batch", "within", "end"])
def test_damage_gets_a_gap_and_a_copy_and_the_rest_is_sent(
    tmp_path: Path, which: int, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged records are in a gap and in a copied file; no sequence is used twice."""
    append(opened(tmp_path, SMALL), [record(number, size=50) for number in range(29)])
    flipped(files(tmp_path)[which], offset)
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(100)])
    ship(log, store)
    sent = {one.sequence for one in store.records}
    assert store.missing() == set(range(1, log.last)) - sent
    assert store.missing()
    assert numbers(store) == sorted(numbers(store))
    assert numbers(store)[-1] == 100
    assert log.damaged == 1
    assert len(files(tmp_path, "*.damaged")) == 1
    assert "is damaged" in caplog.text


def test_a_damaged_sequence_number_is_ignored(tmp_path: Path) -> None:
    """Otherwise the sequences would soon run out."""
    append(opened(tmp_path), map(record, range(3)))
    far = framed(batches.sealed(bytes(32), 10**15, [record(7)]))
    with files(tmp_path)[0].open("ab") as file:
        file.write(b"what is this" * 10 + far)
    log, store = opened(tmp_path), Kept()
    ship(log, store)
    assert numbers(store) == [0, 1, 2]
    assert (log.last, store.missing()) == (5, {4})


def test_a_batch_of_which_only_the_records_are_there_is_counted_by_them(tmp_path: Path) -> None:
    """Its numbers are not used again, though those in its frame are damaged."""
    log = opened(tmp_path)
    append_each(log, map(record, range(3)))
    append(log, map(record, range(3, 10)))
    flipped(files(tmp_path)[0], ends(files(tmp_path)[0])[-2] + 9)
    log, store = opened(tmp_path), Kept()
    ship(log, store)
    assert (numbers(store), store.missing()) == ([0, 1, 2], set(range(4, 11)))


def test_damage_is_recorded_once(tmp_path: Path) -> None:
    """After another restart the gap and its record are found."""
    append(opened(tmp_path, SMALL), [record(number, size=50) for number in range(29)])
    flipped(files(tmp_path)[1], 500)
    append(opened(tmp_path, SMALL), [record(100)])
    again, store = opened(tmp_path, SMALL), Kept()
    append(again, [record(101)])
    ship(again, store)
    assert (again.damaged, len(store.gaps())) == (0, 1)


@pytest.mark.parametrize("which", [0, 1, -1], ids=["the oldest", "one within", "the newest"])
def test_a_file_deleted_while_in_use_gets_a_gap(tmp_path: Path, which: int) -> None:
    """Reading and writing continue with the other files."""
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(number, size=50) for number in range(29)])
    files(tmp_path)[which].unlink()
    append(log, [record(100)])
    ship(log, store)
    append(log, [record(101)])
    ship(log, store)
    assert numbers(store)[-2:] == [100, 101]
    assert store.missing() == set(range(1, log.last)) - {one.sequence for one in store.records}
    assert store.missing()
    assert store.breaks == 0


def test_a_file_truncated_while_in_use_gets_a_gap(tmp_path: Path) -> None:
    """The records before the cut are sent."""
    log, store = opened(tmp_path), Kept()
    append_each(log, map(record, range(10)))
    with files(tmp_path)[0].open("r+b") as file:
        file.truncate(ends(files(tmp_path)[0])[4] + FRAME_BYTES)
    append(log, [record(100)])
    ship(log, store)
    assert numbers(store) == [0, 1, 2, 3, 100]
    assert store.missing() == set(range(5, 11))


def test_a_missing_folder_is_made_again(tmp_path: Path) -> None:
    """Only the records in it are lost."""
    log, store = opened(tmp_path), Kept()
    append(log, map(record, range(3)))
    shutil.rmtree(tmp_path / "decisions")
    append(log, [record(100)])
    ship(log, store)
    assert numbers(store) == [100]
    assert store.missing() == {1, 2, 3}


def test_only_so_many_damaged_files_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The newest sixteen."""
    with caplog.at_level(logging.CRITICAL):
        for number in range(20):
            append(opened(tmp_path, SMALL), [record(number, size=1000), record(number)])
            flipped(files(tmp_path)[-1], -5)
        opened(tmp_path, SMALL)
    assert len(files(tmp_path, "*.damaged")) == 16
