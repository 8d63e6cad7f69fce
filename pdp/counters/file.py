"""The counters file: usage and outcomes of every agent when it was begun, and what followed, one frame per write.

The header holds the file's size and the offset of the charges. Each frame holds a marker, its number, its length, a
checksum of number and content, and the content as JSON. Zeros fill the file up to its size. So a truncated file differs
from one whose last write a crash interrupted.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

from pdp.core.model import Now
from pdp.core.usage import Usage
from pdp.core.windows import Window
from pdp.counters.counters import Charges
from pdp.decision_log.segments import sync_folder
from pdp.outcomes import ledger
from pdp.outcomes.ledger import Changes, Ledger, Whole

MAGIC = b"pdp counters 1\n\0"
MARKER = b"\xf5pdc"
MIN_ROOM = 1 << 20
MAX_BYTES = 1 << 30
PART = 200
_HEADER = Struct(">16sQQI")
_FRAME = Struct(">4sIII")


class DamagedError(ValueError):
    """The file differs from what was written; the text says how."""


class Moment(NamedTuple):
    """One reading of the clocks; `latest` is the newest wall clock seen so far, advanced with the boot clock."""

    wall: float
    boot: float
    latest: float


class Saved(NamedTuple):
    """The content of a file as of `at`, in the boot with this id; another boot has another boot clock."""

    boot_id: str
    at: Moment
    lost_until: Now | None
    usage: dict[str, Usage]
    ledger: Ledger


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
        frame = _frame(self._frames, _followed(at, charges, changes))
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
        self._end = _HEADER.size
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._put({"boot_id": boot_id, "at": at, "lost_until": lost_until})

    def add(self, at: Moment, usage: Mapping[str, Usage]) -> None:
        """Add the usage of these agents at that moment."""
        self._put({"at": at, "usage": {agent_id: _usage(one) for agent_id, one in usage.items()}})

    def add_ledger(self, at: Moment, whole: Whole) -> None:
        """Add decisions, outcomes and suspensions as they were at that moment."""
        for changes in whole.parts():
            self._put({"at": at, "ledger": [ledger.to_json(changes)]})

    def follow(self, at: Moment, charges: Mapping[str, Charges], changes: Changes | None = None) -> None:
        """Add charges made since, of agents that were added or that will not be added, and the ledger's changes."""
        if charges or changes:
            self._following.append(_followed(at, charges, changes))

    def finish(self) -> None:
        """Replace the old file, or raise `OSError` and leave the old one."""
        charges_at = self._end
        for payload in self._following:
            self._put_bytes(payload)
        size = self._end + max(MIN_ROOM, self._end)
        os.ftruncate(self._file, size)
        _write(self._file, _header(size, charges_at), 0)
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

    def _put(self, content: Mapping[str, Any]) -> None:
        self._put_bytes(_json(content))

    def _put_bytes(self, payload: bytes) -> None:
        frame = _frame(self._frames, payload)
        _write(self._file, frame, self._end)
        self._end += len(frame)
        self._frames += 1


def read(path: Path) -> Saved:
    """The content of the file at `path`; `DamagedError` if it is damaged. An interrupted last write is not damage."""
    with open(path, "rb", opener=_no_link) as opened:
        data = opened.read(MAX_BYTES + 1)
    charges_at = _check_header(data)
    try:
        return _replayed(_payloads(data, charges_at))
    except DamagedError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise DamagedError(f"a frame has invalid content: {error!r}") from None


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _check_header(data: bytes) -> int:
    """The offset of the charges."""
    if len(data) < _HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise DamagedError("it is not a counters file of this version")
    _, size, charges_at, _ = _HEADER.unpack_from(data)
    if _header(size, charges_at) != data[: _HEADER.size]:
        raise DamagedError("the checksum of its header does not match")
    if len(data) != size:
        raise DamagedError(f"it has {len(data)} bytes, not {size}")
    return int(charges_at)


def _payloads(data: bytes, charges_at: int) -> Iterator[bytes]:
    offset, number = _HEADER.size, 0
    while (found := _valid_frame(data, offset)) is not None and found[0] == number:
        yield found[1]
        offset += _FRAME.size + len(found[1])
        number += 1
    if offset < charges_at or _has_later_frame(data, offset):
        raise DamagedError(f"the frame at byte {offset} is damaged")


def _valid_frame(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """The number and the content of the frame at `offset`; None if there is no valid frame."""
    if offset + _FRAME.size > len(data):
        return None
    marker, number, length, check = _FRAME.unpack_from(data, offset)
    payload = data[offset + _FRAME.size : offset + _FRAME.size + length]
    is_valid = marker == MARKER and payload and check == zlib.crc32(payload, number)
    return (number, payload) if is_valid else None


def _has_later_frame(data: bytes, offset: int) -> bool:
    """Whether a valid frame follows after `offset`; an interrupted write leaves none."""
    at = offset - 1
    while (at := data.find(MARKER, at + 1)) >= 0:
        if _valid_frame(data, at) is not None:
            return True
    return False


def _replayed(payloads: Iterator[bytes]) -> Saved:
    first = json.loads(next(payloads, b""))
    usage: dict[str, Usage] = {}
    outcomes = Ledger()
    at = first["at"]
    for content in map(json.loads, payloads):
        at = content["at"]
        for agent_id, stored in content.get("usage", {}).items():
            usage[agent_id] = _read_usage(stored)
        for agent_id, (actions, micros) in content.get("charges", {}).items():
            charged = usage.setdefault(agent_id, Usage())
            for second, number in _pairs(actions):
                charged.count(second, number)
            for day, spent in _pairs(micros):
                if spent < 0:
                    charged.settle(day, spent)
                else:
                    charged.spend(day, spent)
        for changes in content.get("ledger", ()):
            outcomes.apply(ledger.from_json(changes))
    lost_until = first["lost_until"]
    return Saved(first["boot_id"], Moment(*at), None if lost_until is None else Now(*lost_until), usage, outcomes)


def _usage(usage: Usage) -> list[list[int]]:
    windows = [[window.newest, *_flat(window.by_index())] for window in usage.windows]
    return [*windows, _flat(usage.micros_by_day)]


def _read_usage(stored: list[list[int]]) -> Usage:
    *windows, micros = stored
    widths = [window.bucket_seconds for window in Usage().windows]
    return Usage.of(
        [
            Window.of(width, newest, dict(_pairs(counts)))
            for width, (newest, *counts) in zip(widths, windows, strict=True)
        ],
        dict(_pairs(micros)),
    )


def _followed(at: Moment, charges: Mapping[str, Charges], changes: Changes | None) -> bytes:
    # In parts: encoding many agents at once would hold Python's lock, and so delay decisions, for milliseconds.
    listed = ((agent_id, [_flat(one.actions), _flat(one.micros)]) for agent_id, one in charges.items())
    parts = []
    while part := dict(islice(listed, PART)):
        parts.append(_json(part)[1:-1])
    recorded = b",".join(_json(ledger.to_json(part)) for part in changes.parts()) if changes else b""
    return b'{"at":%s,"charges":{%s},"ledger":[%s]}' % (_json(at), b",".join(parts), recorded)


def _flat(counts: Mapping[int, int]) -> list[int]:
    return [number for pair in counts.items() for number in pair]


def _pairs(flat: list[int]) -> Iterable[tuple[int, int]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _frame(number: int, payload: bytes) -> bytes:
    return _FRAME.pack(MARKER, number, len(payload), zlib.crc32(payload, number)) + payload


def _header(size: int, charges_at: int) -> bytes:
    return _HEADER.pack(MAGIC, size, charges_at, zlib.crc32(b"%d %d" % (size, charges_at)))


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
