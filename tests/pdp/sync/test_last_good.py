"""The last good state on disk: complete, private, and refused if a single bit is wrong."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdp.core.model import RecordKind
from pdp.settings import SettingsError, Subscription
from pdp.state import RawRecord, State, build
from pdp.sync.last_good import LastGood, Saved, locked_folder
from tests.given import agent
from tests.waiting import eventually

CONFIRMED = 1_795_000_000.0


class Kept:
    """A last good state in a folder, and how often it could not be written."""

    def __init__(self, folder: Path, subscription: Subscription) -> None:
        self.failures = 0
        self.path = folder / "last-good"
        self.last_good = LastGood(
            folder, subscription, confirmed_wall=lambda: CONFIRMED, on_failure=self._count_failure
        )

    def _count_failure(self) -> None:
        self.failures += 1

    async def save(self, *states: State, complete: bool = True) -> None:
        """Queues these states in a row, and closes."""
        running = asyncio.create_task(self.last_good.run())
        for state in states:
            self.last_good.offer(state, complete=complete)
        self.last_good.close()
        await running

    def load(self) -> Saved | None:
        """The state that a sidecar loads at its start."""
        return self.last_good.load()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path, Subscription(agents=("agent-a", "agent-b")))


def state(revision: int = 7, agents: int = 2) -> State:
    records = [
        RawRecord(
            RecordKind.AGENT, f"agent-{number}", json.dumps(agent(f"agent-{number}", description="ä" * 50)).encode()
        )
        for number in range(agents)
    ]
    records.append(RawRecord(RecordKind.MCP_SERVER, "files", b'{"server_name": "files", "blocked_tools": ["rm"]}'))
    return build(records, "epoch-1", revision)[0]


async def test_a_saved_state_is_loaded(kept: Kept) -> None:
    """Every record, byte for byte, with epoch, revision, completeness, and when the store confirmed it last."""
    before = state()
    await kept.save(before, complete=False)
    saved = kept.load()
    assert saved is not None
    assert saved[:3] == ("epoch-1", 7, False)
    assert saved.records == list(before.records())
    assert saved.confirmed_wall == CONFIRMED


async def test_a_state_of_many_blocks_is_the_same_file(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the blocks are in which it is written."""
    before = state(agents=5)
    await kept.save(before)
    whole = kept.path.read_bytes()
    monkeypatch.setattr("pdp.sync.last_good.BLOCK_BYTES", 300)
    await kept.save(before)
    assert kept.path.read_bytes() == whole


async def test_a_state_never_looks_newer_than_it_is(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its confirmation time before it gets its name, because a crash can come at any moment."""
    replace, times = Path.replace, []

    def seen(path: Path, target: Path) -> Path:
        times.append(path.stat().st_mtime)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", seen)
    await kept.save(state())
    assert times == [CONFIRMED]


async def test_a_state_without_records_is_a_state(kept: Kept) -> None:
    """An empty registry is registry data."""
    await kept.save(build([], "epoch-1", 1)[0])
    saved = kept.load()
    assert saved is not None
    assert saved.records == []


async def test_without_a_saved_state_none_is_loaded(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """A first start logs no warning."""
    assert kept.load() is None
    assert not [record for record in caplog.records if record.name.startswith("pdp")]


async def test_any_flipped_bit_is_found(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it stands: magic, header, record or checksum."""
    await kept.save(state(agents=1))
    whole = kept.path.read_bytes()
    caplog.set_level(logging.CRITICAL)
    for index in range(0, len(whole), 7):
        kept.path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x10]) + whole[index + 1 :])
        assert kept.load() is None, index


async def test_a_file_that_was_cut_off_is_refused(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """At any length, the empty file included; the log names the file."""
    await kept.save(state(agents=1))
    whole = kept.path.read_bytes()
    for length in (0, 1, 31, 32, 33, len(whole) - 1):
        kept.path.write_bytes(whole[:length])
        assert kept.load() is None, length
    assert str(kept.path) in caplog.text


async def test_the_state_of_another_subscription_is_left_out(kept: Kept, tmp_path: Path) -> None:
    """The sidecar may no longer decide for these agents."""
    await kept.save(state())
    assert Kept(tmp_path, Subscription(agents=("agent-a",))).load() is None
    assert Kept(tmp_path, Subscription()).load() is None
    assert Kept(tmp_path, Subscription(agents=("agent-a", "agent-b"))).load() is not None


async def test_the_file_is_private(kept: Kept) -> None:
    """The file's mode is 0600, whatever the umask."""
    mask = os.umask(0)
    try:
        await kept.save(state())
    finally:
        os.umask(mask)
    assert kept.path.stat().st_mode & 0o777 == 0o600


async def test_of_states_in_quick_succession_the_newest_is_written(kept: Kept) -> None:
    """Those in between may be skipped."""
    await kept.save(*(state(revision) for revision in range(1, 200)))
    saved = kept.load()
    assert saved is not None
    assert saved.revision == 199


async def test_each_state_is_written_while_it_runs(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only at the end: a process that is killed leaves what it had."""
    monkeypatch.setattr("pdp.sync.last_good.REST_PER_SECOND_OF_WRITING", 0)
    running = asyncio.create_task(kept.last_good.run())
    for revision in (1, 2):
        kept.last_good.offer(state(revision), complete=True)
        await eventually(lambda expected=revision: (saved := kept.load()) and saved.revision == expected)
    kept.last_good.close()
    await running


async def test_a_state_that_cannot_be_written_is_counted_and_the_one_before_stays(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """A full or broken disk loses the newest state, and nothing else."""
    await kept.save(state(1))
    obstacle = kept.path.with_name("last-good.new")
    obstacle.mkdir()
    again = Kept(kept.path.parent, Subscription(agents=("agent-a", "agent-b")))
    await again.save(state(2))
    assert again.failures == 1
    assert "cannot write the last good state" in caplog.text
    saved = again.load()
    assert saved is not None
    assert saved.revision == 1


async def test_a_temporary_file_of_a_crash_is_overwritten(kept: Kept) -> None:
    """A half-written file is replaced."""
    kept.path.with_name("last-good.new").write_bytes(b"half")
    await kept.save(state(3))
    saved = kept.load()
    assert saved is not None
    assert saved.revision == 3


def test_the_node_id_stays_the_same(tmp_path: Path) -> None:
    """For as long as the folder is kept; one that cannot be read is replaced."""
    first = Kept(tmp_path, Subscription()).last_good.node_id()
    assert Kept(tmp_path, Subscription()).last_good.node_id() == first
    (tmp_path / "node-id").write_text("not an id")
    assert Kept(tmp_path, Subscription()).last_good.node_id() not in ("not an id", first)


def test_a_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    """A second user gets an error; the folder is free again after the first."""
    folder = tmp_path / "new" / "folder"
    with (
        locked_folder(folder),
        pytest.raises(SettingsError, match="is in use by another sidecar"),
        locked_folder(folder),
    ):
        pass
    with locked_folder(folder):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a-file"
    path.touch()
    yield path


def test_a_folder_that_cannot_be_created_is_a_wrong_setting(file: Path) -> None:
    """There is a file with its name."""
    with pytest.raises(SettingsError, match="`--data-dir`: cannot use"), locked_folder(file):
        pass
