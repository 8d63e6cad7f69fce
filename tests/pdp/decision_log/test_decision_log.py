"""The decision log on disk: ordered, complete or with gap records, and bounded."""

import errno
import json
import os
import resource
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pdp.decision_log.log import DecisionLog
from pdp.decision_log.renumbering import renumber_after
from pdp.log_format import batches
from tests.pdp.decision_log.chains import Kept, append, append_each, files, numbers, opened, record, ship

SMALL = 64 * 1000
"""A log of so many bytes has files of about a thousand."""


def test_appended_records_are_sent_in_order_and_chained(tmp_path: Path) -> None:
    """From sequence 1 on, each record with the hash of the one before."""
    log, store = opened(tmp_path), Kept()
    append(log, map(record, range(5)))
    ship(log, store, max_records=2)
    append(log, map(record, range(5, 8)))
    ship(log, store)
    assert numbers(store) == list(range(8))
    assert [one.sequence for one in store.records] == list(range(1, 9))
    assert (store.breaks, log.unsent, log.kept) == (0, 0, 8)


def test_the_chain_and_the_position_go_on_after_a_restart(tmp_path: Path) -> None:
    """A second run continues after the first one, and sends nothing twice."""
    log, store = opened(tmp_path), Kept()
    append(log, map(record, range(3)))
    ship(log, store)
    append(log, [record(3)])
    again = opened(tmp_path)
    assert (again.last, again.kept, again.unsent) == (4, 3, 1)
    append(again, [record(4)])
    assert [(batch.first, batch.last) for batch in again.after(again.kept, 10, 1 << 20)] == [(4, 4), (5, 5)]
    ship(again, store)
    assert numbers(store) == list(range(5))
    assert store.breaks == 0


@pytest.mark.parametrize("noted", [b"", b"\0\0\0\0", b"9", b"9 00000000\n", b"4 a9 b"])
def test_a_lost_position_sends_twice_and_loses_nothing(tmp_path: Path, noted: bytes) -> None:
    """The store still has each record once."""
    log, store = opened(tmp_path), Kept()
    append(log, map(record, range(5)))
    ship(log, store)
    (tmp_path / "decisions" / "kept").write_bytes(noted)
    again = opened(tmp_path)
    assert again.unsent == 5
    ship(again, store)
    assert numbers(store) == list(range(5))
    assert again.kept == 5


def test_what_is_sent_at_once_is_bounded_in_records_and_bytes(tmp_path: Path) -> None:
    """But is always one batch, however large."""
    log = opened(tmp_path)
    append_each(log, [record(number, size=1000) for number in range(7)])
    append(log, [record(number, size=1000) for number in range(7, 10)])
    assert len(log.after(0, 3, 1 << 20)) == 3
    assert len(log.after(0, 10, 5000)) == 2
    assert len(log.after(4, 10, 1)) == 1
    assert [(batch.first, batch.last) for batch in log.after(6, 3, 1 << 20)] == [(7, 7)]
    assert [(batch.first, batch.last) for batch in log.after(7, 1, 1)] == [(8, 10)]
    assert log.after(10, 10, 1 << 20) == []


def test_a_batch_is_bounded_in_records_and_bytes(tmp_path: Path) -> None:
    """A thousand records, or about a MiB of them; one record may have as much. The first of a run has one record."""
    log = opened(tmp_path, 128 << 20)
    sizes = [(batch.first, batch.last) for batch in append(log, [record(0)] * 2500)]
    assert sizes == [(1, 1), (2, 1001), (1002, 2001), (2002, 2500)]
    large = record(0, 150_000)
    sizes = [(batch.first, batch.last) for batch in append(log, [large] * 5)]
    assert sizes == [(2501, 2503), (2504, 2505)]
    largest = record(0, (1 << 19) - 60)
    assert [batch.records for batch in append(log, [largest, record(1)])] == [1, 1]


def test_files_that_are_sent_are_deleted(tmp_path: Path) -> None:
    """Only the newest file stays, because the chain continues from it."""
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(number, size=100) for number in range(40)])
    assert len(files(tmp_path)) > 5
    ship(log, store)
    assert len(files(tmp_path)) == 1
    assert opened(tmp_path, SMALL).last == 40


def test_files_are_private(tmp_path: Path) -> None:
    """Only the owner may read what agents do."""
    log = opened(tmp_path)
    append(log, [record(1)])
    log.keep(1)
    log.refuse(log.after(0, 1, 1 << 20)[0])
    append(log, [])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "decisions").iterdir()} == {0o600}
    assert (tmp_path / "decisions").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("size", [10, 300])
def test_a_full_log_drops_the_oldest_records_and_writes_a_gap(tmp_path: Path, size: int) -> None:
    """It stays within its bound; what the store gets and what the gaps name is everything."""
    log, store = opened(tmp_path, SMALL), Kept()
    for number in range(1000):
        append(log, [record(number, size)])
        on_disk = sum(path.stat().st_size for path in files(tmp_path))
        assert on_disk == log.bytes <= SMALL
    ship(log, store)
    assert numbers(store)[-1] == 999
    assert store.records[0].sequence > 1
    assert store.missing() == set(range(1, store.records[0].sequence))
    assert len(store.missing()) == log.dropped
    assert store.breaks == 0


def test_sent_records_are_not_part_of_a_gap(tmp_path: Path) -> None:
    """A gap begins after what the store has."""
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(number, size=100) for number in range(10)])
    ship(log, store)
    append(log, [record(number, size=100) for number in range(10, 1000)])
    ship(log, store)
    assert numbers(store)[:10] == list(range(10))
    assert min(store.missing()) == 11


def test_a_gap_whose_record_is_dropped_is_recorded_again(tmp_path: Path) -> None:
    """Later records at the store do not hide it."""
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(number, size=100) for number in range(300)])
    log.keep(store.take(log.after(log.kept, 1, 1 << 20)))
    assert store.sequence > 2
    assert not store.gaps()
    append(log, [record(number, size=100) for number in range(300, 900)])
    ship(log, store)
    assert store.missing() == set(range(1, log.last + 1)) - {one.sequence for one in store.records}


def test_a_log_that_drops_nothing_keeps_all_records(tmp_path: Path) -> None:
    """The caller sees its size, and stops."""
    log, store = opened(tmp_path, SMALL, drop_oldest=False), Kept()
    append(log, [record(number, size=100) for number in range(1000)])
    assert log.bytes > SMALL
    ship(log, store)
    assert numbers(store) == list(range(1000))


def test_records_lost_before_the_log_leave_a_gap(tmp_path: Path) -> None:
    """They use sequences, so that the store sees how many are missing."""
    log, store = opened(tmp_path), Kept()
    append(log, [record(0), 3, record(1), 2])
    ship(log, store)
    assert [one.sequence for one in store.records] == [1, 5, 6, 9]
    assert store.gaps() == [(2, 4), (7, 8)]
    gap = store.records[1].record.gap
    assert (gap.records, gap.at_microseconds) == (3, 1_795_176_000_000_000)
    assert (store.breaks, log.dropped) == (0, 5)


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_can_be_retried(tmp_path: Path) -> None:
    """A write that fails half way leaves nothing on disk, and removes nothing from the items."""
    log, store = opened(tmp_path), Kept()
    append(log, [record(0)])
    items: deque[bytes | int] = deque(record(number, size=1000) for number in range(1, 4))
    with disk_full_at(log.bytes + 2500), pytest.raises(OSError, match="File too large"):
        list(log.append(items))
    assert (len(items), log.last) == (3, 1)
    assert len(log.after(0, 10, 1 << 20)) == 1
    list(log.append(items))
    assert not items
    ship(log, store)
    assert numbers(store) == [0, 1, 2, 3]
    assert opened(tmp_path).last == 4


def test_a_refused_batch_is_set_aside_and_gets_a_gap(tmp_path: Path) -> None:
    """The next one is sent as if the store had it."""
    log, store = opened(tmp_path), Kept()
    append(log, [record(0)])
    append(log, [record(1), record(2)])
    append(log, [record(3)])
    store.take(log.after(0, 1, 1 << 20))
    log.keep(1)
    log.refuse(log.after(1, 1, 1 << 20)[0])
    assert log.has_gaps_due
    append(log, [])
    ship(log, store)
    assert numbers(store) == [0, 3]
    assert store.missing() == {2, 3}
    lines = (tmp_path / "decisions" / "refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision_id"] for line in lines] == ["1", "2"]


def rolled_back(folder: Path, store: Kept) -> DecisionLog:
    """A log whose folder was restored to 5 records, 2 of them sent, after the store had received 20."""
    log = opened(folder, SMALL)
    append_each(log, [record(number, size=50) for number in range(5)])
    log.keep(store.take(log.after(0, 2, 1 << 20)))
    shutil.copytree(folder / "decisions", folder / "backup")
    append(log, [record(number, size=50) for number in range(5, 20)])
    ship(log, store)
    shutil.rmtree(folder / "decisions")
    shutil.move(folder / "backup", folder / "decisions")
    return opened(folder, SMALL)


def test_a_restored_folder_continues_after_the_records_of_the_store(tmp_path: Path) -> None:
    """No later decision counts as a repeat."""
    store = Kept()
    log = rolled_back(tmp_path, store)
    append(log, [record(number, size=50) for number in range(100, 110)])
    renumber_after(log, 20)
    ship(log, store)
    append(log, [record(200)])
    ship(log, store)
    assert numbers(store) == [*range(20), 2, 3, 4, *range(100, 110), 200]
    assert store.breaks == 1, "the store sees that the log was put back"
    assert opened(tmp_path, SMALL).last == log.last == store.sequence


class Killed(BaseException):
    """The process dies here."""


@contextmanager
def killed_after(removals: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process is killed just after it has removed so many files, if it removes so many."""
    unlink, left = Path.unlink, iter(range(removals - 1, -1, -1))

    def removed(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if next(left, -1) == 0:
            raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Path, "unlink", removed)
        yield


@pytest.mark.parametrize("removals", [1, 2, 5])
def test_a_kill_during_deletion_marks_no_sent_record_as_lost(
    tmp_path: Path, removals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position is noted before the files are deleted, so no gap record covers them."""
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(number, size=50) for number in range(100)])
    assert len(files(tmp_path)) > removals
    with killed_after(removals, monkeypatch):
        log.keep(store.take(log.after(0, 1000, 1 << 30)))
        ship(log, store)
    again = opened(tmp_path, SMALL)
    append(again, [record(100)])
    ship(again, store)
    assert store.gaps() == []
    assert numbers(store) == list(range(101))
    assert again.dropped == 0


@pytest.mark.parametrize("removals", [1, 2, 3])
def test_a_kill_during_renumbering_loses_nothing(
    tmp_path: Path, removals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is deleted after the position behind it is noted."""
    log, store = opened(tmp_path, SMALL), Kept()
    append(log, [record(number, size=50) for number in range(40)])
    assert len(files(tmp_path)) > removals
    store.take([batches.sealed(bytes(32), 100, [record(1000)])])
    with killed_after(removals, monkeypatch):
        renumber_after(log, 100)
    again = opened(tmp_path, SMALL)
    append(again, [record(200)])
    while again.kept < 100:
        renumber_after(again, 100)
    ship(again, store)
    assert store.gaps() == []
    assert set(numbers(store)) == {*range(40), 200, 1000}


def test_without_a_noted_position_no_file_is_deleted(tmp_path: Path) -> None:
    """The next call notes it."""
    log = opened(tmp_path, SMALL)
    append(log, [record(number, size=50) for number in range(100)])
    there, kept = files(tmp_path), tmp_path / "decisions" / "kept"
    kept.unlink()
    kept.mkdir()
    with pytest.raises(IsADirectoryError):
        log.keep(100)
    assert files(tmp_path) == there
    assert log.kept == 0
    kept.rmdir()
    log.keep(100)
    assert len(files(tmp_path)) == 1
    assert opened(tmp_path, SMALL).kept == 100


def test_a_full_disk_deletes_sent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the note needs the room of a deleted file."""
    log = opened(tmp_path, SMALL)
    append(log, [record(number, size=50) for number in range(100)])
    there, pwrite = len(files(tmp_path)), os.pwrite

    def written(file: int, data: bytes, offset: int) -> int:
        if len(files(tmp_path)) == there:
            raise OSError(errno.ENOSPC, "no space left on device")
        return pwrite(file, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", written)
        log.keep(100)
    assert len(files(tmp_path)) == 1
    assert opened(tmp_path, SMALL).kept == 100


def test_a_record_that_cannot_be_set_aside_gets_one_gap(tmp_path: Path) -> None:
    """After any number of tries."""
    log, store = opened(tmp_path), Kept()
    append(log, map(record, range(3)))
    batch = log.after(0, 1, 1 << 20)[0]
    (tmp_path / "decisions" / "refused.jsonl").mkdir()
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            log.refuse(batch)
    (tmp_path / "decisions" / "refused.jsonl").rmdir()
    log.refuse(batch)
    append(log, [])
    ship(log, store)
    assert store.gaps() == [(1, 1)]


@pytest.mark.parametrize("name", ["notes.txt", "1.log", "kept.new"])
def test_other_files_are_left_alone(tmp_path: Path, name: str) -> None:
    """They are not part of the log."""
    append(opened(tmp_path), [record(0)])
    (tmp_path / "decisions" / name).write_text("mine")
    log, store = opened(tmp_path), Kept()
    ship(log, store)
    assert numbers(store) == [0]
    assert log.damaged == 0
