"""The last good state on disk, so that a sidecar starts without the store.

The file: a magic line, a JSON header line, the records (kind, length of id, length of document, id, document), and
the SHA-256 of all before it. It is written to a temporary file, flushed to disk and renamed, so that a crash leaves
either the old file or the new one. Its modification time is when the store last confirmed the content; it is set before
the rename, so that no crash makes old data look new.
"""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pdp.core.fields import quote, quote_path
from pdp.core.model import RecordKind
from pdp.settings import SettingsError, Subscription
from pdp.state import RawRecord, State

MAGIC = b"pdp last good 1\n"
MAX_BYTES = 2 << 30
MAX_HEADER_BYTES = 1 << 20
RECORD = struct.Struct(">BHI")
DIGEST_BYTES = hashlib.sha256().digest_size
BLOCK_BYTES = 256 * 1024
MIN_REST_SECONDS = 0.1
REST_PER_SECOND_OF_WRITING = 9
RETRY_SECONDS = 5.0
CONFIRM_SECONDS = 10.0

logger = logging.getLogger(__name__)


class DamagedError(ValueError):
    """The file differs from what was written; the text says how."""


class Saved(NamedTuple):
    """The content of a file; `complete` unless a record was refused; `confirmed_wall` in Unix seconds."""

    epoch: str
    revision: int
    complete: bool
    records: list[RawRecord]
    confirmed_wall: float


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates the data folder if needed and holds its lock; `SettingsError` if another sidecar uses it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError("--data-dir", f"cannot use {quote_path(folder)}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError("--data-dir", f"{quote_path(folder)} is in use by another sidecar") from error
        yield
    finally:
        os.close(lock)


class LastGood:
    """The node id and the state in a data folder, which `locked_folder` holds.

    `confirmed_wall` returns when the store last confirmed the state in force, in Unix seconds.
    """

    def __init__(
        self,
        folder: Path,
        subscription: Subscription,
        *,
        confirmed_wall: Callable[[], float],
        on_failure: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._path = folder / "last-good"
        self._subscription = str(subscription)
        self._confirmed_wall = confirmed_wall
        self._on_failure = on_failure
        self._pending: tuple[State, bool] | None = None
        self._wake = asyncio.Event()
        self._closing = False

    def load(self) -> Saved | None:
        """The saved state of this subscription; None if there is no usable one, with the reason logged."""
        try:
            header, records = read(self._path)
            confirmed = self._path.stat().st_mtime
        except FileNotFoundError:
            return None
        except (OSError, DamagedError) as error:
            logger.error("cannot use the last good state %s: %s", quote_path(self._path), error)
            return None
        if header["subscription"] != self._subscription:
            logger.warning("ignored the last good state: it was saved for %s", quote(header["subscription"]))
            return None
        return Saved(header["epoch"], header["revision"], header["complete"], records, confirmed)

    def node_id(self) -> str:
        """The id of this sidecar; the data folder keeps it."""
        path = self._folder / "node-id"
        with suppress(OSError, ValueError):
            return str(uuid.UUID(path.read_text()))
        node_id = str(uuid.uuid4())
        try:
            _replace(path, lambda file: file.write(node_id.encode()))
        except OSError as error:
            raise SettingsError("--data-dir", f"cannot write {quote_path(path)}: {error.strerror}") from error
        return node_id

    def offer(self, state: State, *, complete: bool) -> None:
        """Queue `state` for writing; of several in quick succession only the newest is written."""
        self._pending = (state, complete)
        self._wake.set()

    async def run(self) -> None:
        """Writes queued states in a thread, for at most a tenth of the time, until closed."""
        while not self._closing or self._pending:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            if self._pending is None:
                await asyncio.to_thread(self._touch)
                continue
            pause = await self._write(*self._take())
            await self._pause(pause)
        await asyncio.to_thread(self._touch)

    def close(self) -> None:
        """Make `run` write the pending state and end."""
        self._closing = True
        self._wake.set()

    def _take(self) -> tuple[State, bool]:
        assert self._pending is not None  # noqa: S101 - run has looked
        pending, self._pending = self._pending, None
        return pending

    async def _write(self, state: State, complete: bool) -> float:
        began = time.monotonic()
        try:
            await asyncio.to_thread(self._save, state, complete)
        except OSError as error:
            self._on_failure()
            logger.error("cannot write the last good state: %s", error)
            if self._pending is None and not self._closing:
                self.offer(state, complete=complete)
            return RETRY_SECONDS
        return max(MIN_REST_SECONDS, REST_PER_SECOND_OF_WRITING * (time.monotonic() - began))

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closing and (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()
            self._wake.clear()
        if self._pending is not None:
            self._wake.set()

    def _save(self, state: State, complete: bool) -> None:
        header = {
            "epoch": state.epoch,
            "revision": state.revision,
            "complete": complete,
            "subscription": self._subscription,
        }
        confirmed = self._confirmed_wall()

        def fill(file: BinaryIO) -> None:
            write(file, header, state.records())
            file.flush()
            os.utime(file.fileno(), (confirmed, confirmed))

        _replace(self._path, fill)

    def _touch(self) -> None:
        confirmed = self._confirmed_wall()
        with suppress(OSError):
            os.utime(self._path, (confirmed, confirmed))


def write(file: BinaryIO, header: dict[str, object], records: Iterator[RawRecord]) -> None:
    """Writes a whole file to `file`."""
    digest = hashlib.sha256()
    for block in _blocks(header, records):
        digest.update(block)
        file.write(block)
    file.write(digest.digest())


def _blocks(header: dict[str, object], records: Iterator[RawRecord]) -> Iterator[bytes]:
    """The content in large pieces: to hash and write these, a thread lets decisions have the interpreter."""
    parts = [MAGIC, json.dumps(header).encode(), b"\n"]
    size = 0
    for kind, name, document in records:
        raw = name.encode()
        parts += (RECORD.pack(kind, len(raw), len(document)), raw, document)
        size += len(document)
        if size > BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)


def read(path: Path) -> tuple[dict[str, Any], list[RawRecord]]:
    """The header and records of the file at `path`; `DamagedError` unless every byte is as it was written."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DamagedError(f"is larger than {MAX_BYTES} bytes")
    body = memoryview(data)[:-DIGEST_BYTES]
    if hashlib.sha256(body).digest() != data[-DIGEST_BYTES:] or not data.startswith(MAGIC):
        raise DamagedError("the checksum does not match")
    end = data.index(b"\n", len(MAGIC)) + 1
    return json.loads(data[len(MAGIC) : end]), list(_records(body, end))


def _records(body: memoryview, at: int) -> Iterator[RawRecord]:
    while at < len(body):
        kind, id_bytes, document_bytes = RECORD.unpack_from(body, at)
        at += RECORD.size
        middle, end = at + id_bytes, at + id_bytes + document_bytes
        yield RawRecord(RecordKind(kind), str(body[at:middle], "utf-8"), bytes(body[middle:end]))
        at = end


def _replace(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb", opener=_private) as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
