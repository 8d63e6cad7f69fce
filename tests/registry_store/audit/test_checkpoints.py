"""The checkpoint file: what a crash, a full disk and a long log leave in it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry_store.audit.chain import Chain
from registry_store.audit.checkpoints import MAX_ENTRIES, TAIL_BYTES, CheckpointError, CheckpointFile, Signer, read_file
from registry_store.database.migrate import opened
from registry_store.errors import StartError
from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject
from tests.registry_store.audit.test_audit import Log, running
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import in_own_loop

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SIGNER = Signer(b"key")
HASHES = [f"{number:064x}" for number in range(1, MAX_ENTRIES + 1)]


def prefixes(path: Path) -> list[tuple[int, str]]:
    return [(signed.sequence, signed.prefix) for one in read_file(path, SIGNER) for signed in one.signed()]


def test_a_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Every entry is there once: as the beginning of its hash, the last of each line whole."""
    path = tmp_path / "checkpoints"
    for hashes in (HASHES[:2], HASHES[2:5]):
        with CheckpointFile(path, SIGNER) as file:
            file.append(hashes, NOON)
    whole = [HASHES[0][:16], HASHES[1], HASHES[2][:16], HASHES[3][:16], HASHES[4]]
    assert prefixes(path) == list(enumerate(whole, 1))


@pytest.mark.parametrize("kept", range(0, 300, 7))
def test_a_torn_line_is_dropped(tmp_path: Path, kept: int) -> None:
    """Wherever it was torn, the lines before it stand, and the next follows them."""
    path = tmp_path / "checkpoints"
    with CheckpointFile(path, SIGNER) as file:
        file.append(HASHES[:1], NOON)
        size = path.stat().st_size
        file.append(HASHES[1:2], NOON)
    torn = path.read_bytes()[: size + kept]
    path.write_bytes(torn)
    with CheckpointFile(path, SIGNER) as file:
        assert file.last.sequence == 1
        file.append(HASHES[1:3], NOON)
    assert [sequence for sequence, _ in prefixes(path)] == [1, 2, 3]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond this size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """What could not be written whole is taken back, and written when there is room."""
    path = tmp_path / "checkpoints"
    with CheckpointFile(path, SIGNER) as file:
        file.append(HASHES[:1], NOON)
        before = path.read_bytes()
        with room_for(len(before) + 10), pytest.raises(OSError, match="only 10 of"):
            file.append(HASHES[1:2], NOON)
        assert path.read_bytes() == before
        assert file.append(HASHES[1:2], NOON).sequence == 2
    assert [sequence for sequence, _ in prefixes(path)] == [1, 2]


def test_the_longest_line_is_found_again(tmp_path: Path) -> None:
    """The end of a file is read as far back as a line can reach."""
    path = tmp_path / "checkpoints"
    with CheckpointFile(path, SIGNER) as file:
        file.append(HASHES, NOON)
        assert path.stat().st_size < TAIL_BYTES
        for _ in range(4):
            file.append(HASHES, NOON)
    with CheckpointFile(path, SIGNER) as file:
        assert file.last.sequence == 5 * MAX_ENTRIES


def test_a_file_of_another_pepper_is_not_gone_on_with(tmp_path: Path) -> None:
    """The store does not start, and a reader names the line."""
    path = tmp_path / "checkpoints"
    with CheckpointFile(path, SIGNER) as file:
        file.append(HASHES[:1], NOON)
    with pytest.raises(StartError, match=r"the last line of .* is not signed with this pepper"):
        CheckpointFile(path, Signer(b"other"))
    with pytest.raises(CheckpointError, match=r"line 1 of .* is not signed with this pepper"):
        list(read_file(path, Signer(b"other")))


@pytest.mark.parametrize("path", ["nowhere/checkpoints", "."])
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, path: str) -> None:
    """By its setting."""
    with pytest.raises(StartError, match=r"`--checkpoint-file`: .* cannot be written"):
        CheckpointFile(tmp_path / path, SIGNER)


def test_a_line_left_out_is_missed(tmp_path: Path) -> None:
    """Each line signs the one before it."""
    path = tmp_path / "checkpoints"
    with CheckpointFile(path, SIGNER) as file:
        for hash_ in HASHES[:3]:
            file.append([hash_], NOON)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(CheckpointError, match=r"line 2 of .* does not follow"):
        list(read_file(path, SIGNER))


def test_a_long_log_is_signed_line_by_line(tmp_path: Path) -> None:
    """A store that gets its file late signs everything from the first entry on."""
    log = Log(settings_in(tmp_path), tmp_path / "checkpoints")
    number = 2 * MAX_ENTRIES + 1

    async def write() -> None:
        async with opened(log.settings.url()) as database, database.writing() as session:
            for _ in range(number):
                await activity.append(session, Actor("x", "system", NOON), "tested", "", Subject("agent", "x"))

    in_own_loop(write())
    with running(log):
        pass
    assert len(log.checkpoints.read_bytes().splitlines()) == 3
    assert f"intact: {number} entries" in log.verify_signed().stdout


def test_a_chain_that_goes_on_is_checked_from_there() -> None:
    """After the last entry that is signed; nothing before it is read again."""
    entry = activity.Activity(sequence=8, previous_hash="x", hash="y")
    assert Chain(6, "x").take(entry) == (7, "is missing")
    assert str(Chain(7, "z").take(entry)).startswith("entry 8 was replaced or moved")
