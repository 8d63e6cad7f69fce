"""The counters file: usage and outcomes of every agent when it was begun, and what followed, one frame per write."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pdp.core.model import Now
from pdp.core.usage import Usage
from pdp.counters import content, frames
from pdp.counters.content import Moment, Saved
from pdp.counters.counters import Charges
from pdp.counters.frames import DamagedError
from pdp.decision_log.segments import sync_folder
from pdp.outcomes.ledger import Changes, Whole

MIN_ROOM = 1 << 20
MAX_BYTES = 1 << 30


class CountersFile:
    """The file at `path`, for one thread at a time.

    `rewrite` begins a new file, which replaces the old one once it holds every agent's usage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_behind = True
        """Whether it lacks charges or does not exist: then only a new file helps."""
        self._file = -1
        self._end = 0
        self._size = 0
        self._frames = 0

    @property
    def is_filling(self) -> bool:
        """Whether this file is nearly full, so that a new one should be begun."""
        return self._size - self._end < self._size // 4

    def append(self, at: Moment, charges: Mapping[str, Charges], changes: Changes | None = None) -> None:
        """Write charges and changes durably. After an `OSError`, or without room for them, the file is behind."""
        if self.is_behind:
            return
        frame = frames.frame(self._frames, content.followed(at, charges, changes))
        self.is_behind = True
        if self._end + len(frame) > self._size:
            return
        _write(self._file, frame, self._end)
        os.fdatasync(self._file)
        self._end += len(frame)
        self._frames += 1
        self.is_behind = False

    def rewrite(self, boot_id: str, at: Moment, lost_until: Now | None) -> "NewFile":
        """Begin a new file."""
        return NewFile(self, boot_id, at, lost_until)

    def adopt(self, file: int, end: int, size: int, frames: int) -> None:
        """Continue with the open `file`, which now is at `path`."""
        self.close()
        self._file, self._end, self._size, self._frames = file, end, size, frames

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self.is_behind = -1, True


class NewFile:
    """A file that will replace the old one: `add` every agent, and `follow` with the charges made meanwhile."""

    def __init__(self, old: CountersFile, boot_id: str, at: Moment, lost_until: Now | None) -> None:
        self._old = old
        self._path = old.path.with_name(old.path.name + ".new")
        self._following: list[bytes] = []
        self._frames = 0
        self._end = frames.HEADER.size
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._put(content.begun(boot_id, at, lost_until))

    def add(self, at: Moment, usage: Mapping[str, Usage]) -> None:
        """Add the usage of these agents at that moment."""
        self._put(content.added(at, usage))

    def add_ledger(self, at: Moment, whole: Whole) -> None:
        """Add decisions, outcomes and suspensions as they were at that moment."""
        for part in content.whole(at, whole):
            self._put(part)

    def follow(self, at: Moment, charges: Mapping[str, Charges], changes: Changes | None = None) -> None:
        """Add charges made since, of agents that were added or that will not be added, and the ledger's changes."""
        if charges or changes:
            self._following.append(content.followed(at, charges, changes))

    def finish(self) -> None:
        """Replace the old file, or raise `OSError` and leave the old one."""
        charges_at = self._end
        for payload in self._following:
            self._put(payload)
        size = self._end + max(MIN_ROOM, self._end)
        os.ftruncate(self._file, size)
        _write(self._file, frames.header(size, charges_at), 0)
        os.fsync(self._file)
        self._path.replace(self._old.path)
        self._old.adopt(self._file, self._end, size, self._frames)
        self._file = -1
        sync_folder(self._path.parent)
        self._old.is_behind = False

    def abandon(self) -> None:
        """Delete it, unless it is finished."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        with suppress(OSError):
            self._path.unlink()

    def _put(self, payload: bytes) -> None:
        frame = frames.frame(self._frames, payload)
        _write(self._file, frame, self._end)
        self._end += len(frame)
        self._frames += 1


def read(path: Path) -> Saved:
    """The content of the file at `path`; `DamagedError` if it is damaged. An interrupted last write is not damage."""
    with open(path, "rb", opener=_no_link) as opened:
        data = opened.read(MAX_BYTES + 1)
    try:
        return content.replayed(frames.contents(data))
    except DamagedError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise DamagedError(f"a frame has invalid content: {error!r}") from None


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
