"""The decision log against a slow and obvious model, over random runs of a sidecar."""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pdp.log_format.batches import Batch
from pdp.log_format.batches import opened as opened_batch
from pdp.v1 import log_pb2
from tests.pdp.decision_log.chains import Kept, files, opened, record, ship

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12)


class Lives(RuleBasedStateMachine):
    """Appends, losses, answers that get lost, crashes at any byte of a write, damage, and a bound that is reached.

    The model: every record that was on the disk is with the store as it was, or its sequence is within a gap.
    """

    @initialize(files_of=st.integers(200, 2000))
    def begin(self, files_of: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pdp-log-"))
        self.max_bytes = 64 * files_of
        self.log = opened(self.folder, self.max_bytes)
        self.store = Kept()
        self.written: dict[int, log_pb2.LogRecord] = {}
        self.numbers = iter(range(10**9))
        self.damaged = 0

    def items(self, sizes: list[int]) -> deque[bytes | int]:
        return deque(record(next(self.numbers), size) for size in sizes)

    def note(self, batches: list[Batch]) -> None:
        for batch in batches:
            self.written |= dict(enumerate(opened_batch(batch.content).records, batch.first))

    @rule(sizes=SIZES, lost=st.integers(0, 3))
    def append(self, sizes: list[int], lost: int) -> None:
        items = self.items(sizes)
        if lost:
            items.insert(len(sizes) // 2, lost)
        for batches in self.log.append(items):
            self.note(batches)
        assert not items

    @rule(most=st.integers(1, 20), answered=st.booleans())
    def send(self, most: int, answered: bool) -> None:
        kept = self.store.take(self.log.after(self.log.kept, most, 4096))
        if answered:
            self.log.keep(kept)

    @rule(sizes=SIZES, whole=st.integers(0, 3), cut=st.floats(0, 1))
    def crash_while_writing(self, sizes: list[int], whole: int, cut: float) -> None:
        """The process dies during a write: earlier data stays on disk, and any part of the write may."""
        writes = self.log.append(self.items(sizes))
        for _ in range(whole):
            self.note(next(writes, []))
        before = self.folder / "before"
        shutil.copytree(self.folder / "decisions", before)
        if next(writes, None) is not None:
            newest = files(self.folder)[-1]
            data, at = newest.read_bytes(), before / newest.name
            least = at.stat().st_size if at.exists() else 0
            at.write_bytes(data[: least + int(cut * (len(data) - least))])
        shutil.rmtree(self.folder / "decisions")
        before.rename(self.folder / "decisions")
        self.restart()

    @rule()
    def restart(self) -> None:
        self.log = opened(self.folder, self.max_bytes)
        assert self.log.last >= max(self.written, default=0)

    @precondition(lambda self: files(self.folder))
    @rule(which=st.integers(0, 100), where=st.floats(0, 1, exclude_max=True), restarts=st.booleans())
    def damage(self, which: int, where: float, restarts: bool) -> None:
        """A bit of a file flips, where it does not make a torn write of a whole one."""
        paths = files(self.folder)
        path = paths[which % len(paths)]
        data = bytearray(path.read_bytes())
        offset = int(where * len(data))
        if not data or data[offset] in b"\n\x0b":
            return
        data[offset] ^= 1
        path.write_bytes(data)
        self.damaged += 1
        if restarts:
            self.restart()

    @invariant()
    def stays_within_its_bound(self) -> None:
        if hasattr(self, "log"):
            assert self.log.bytes <= self.max_bytes + 1000

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        ship(self.log, self.store)
        list(self.log.append(deque([record(-1)])))  # tells what the reading found
        ship(self.log, self.store)
        sent = dict(self.store.records)
        missing = self.store.missing()
        for sequence, content in self.written.items():
            assert sent.get(sequence, content) == content
            # Damage may hit the very record that tells of damage before it; then the jump in the sequences tells.
            assert sequence in sent or sequence in missing or (self.damaged > 1 and sequence < self.store.sequence)
        if not self.damaged:
            assert (self.store.breaks, self.log.damaged) == (0, 0)
        shutil.rmtree(self.folder)


class MoreLives(Lives):
    """The same, for longer."""


Lives.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
MoreLives.TestCase.settings = settings(max_examples=5000, stateful_step_count=50, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def unflushed() -> Iterator[None]:
    """Its crashes are those of a process, which the kernel's cache outlives; waiting for the disk shows nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _file: None)
        patch.setattr("os.fdatasync", lambda _file: None)
        yield


class TestLives(Lives.TestCase):  # type: ignore[misc]  # Hypothesis makes the class at run time
    """Each record that was on disk is sent unchanged, or covered by a gap record."""


@pytest.mark.soak
class TestMoreLives(MoreLives.TestCase):  # type: ignore[misc]  # likewise
    """The same, in more and longer runs."""
