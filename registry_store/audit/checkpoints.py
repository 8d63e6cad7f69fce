"""Signed checkpoints of the activity log and of the decisions, in a file that the owner of the database cannot change.

Each line is JSON: the hash prefixes of the entries `first` to `sequence`, the whole `hash` of the last one, the
`signature` of the line before as `previous`, and its own `signature`: an HMAC-SHA-256 with a key derived from the
pepper. A line may have `logs` instead of entries: of logs of decisions, by sidecar, the number and head of the last
batch, and of the last batch that retention deleted.
"""

import fcntl
import hmac
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from registry_store.access.keys import Pepper
from registry_store.audit.chain import Signed
from registry_store.audit.marks import Mark, Statement
from registry_store.documents import Document, canonical, instant
from registry_store.errors import StartError
from registry_store.journal.activity import GENESIS

PREFIX = 16
"""Hex digits of the hash that are kept for each entry except the last."""
MAX_ENTRIES = 500
"""Maximum number of entries in a line, so that a line is shorter than `TAIL_BYTES`."""
MAX_LOGS = 80
"""Maximum number of logs of decisions in a line, for the same reason."""
TAIL_BYTES = 32 * 1024


class CheckpointError(Exception):
    """A line is not signed with this pepper, or does not follow the line before it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log reached entry `sequence` with `hash`; `entries` are the hash prefixes from `first` on."""

    first: int
    sequence: int
    hash: str
    entries: Sequence[str]
    at: str
    previous: str = GENESIS
    signature: str = GENESIS
    logs: Mapping[str, Sequence[Any]] | None = None
    """Marks of the logs of decisions that changed, by sidecar."""
    logs_since: str = ""
    """When this store compared the logs before; empty: it had not since it started."""

    def signed(self) -> Iterator[Signed]:
        """Yields each signed entry."""
        if not self.entries:
            return
        for number, prefix in enumerate(self.entries[:-1], self.first):
            yield Signed(number, prefix, self.at)
        yield Signed(self.sequence, self.hash, self.at)

    @property
    def statement(self) -> Statement:
        """What it says of the logs of decisions."""
        logs = {node_id: Mark(*mark) for node_id, mark in (self.logs or {}).items()}
        return Statement(logs, self.at, self.logs_since)


NOTHING = Checkpoint(1, 0, GENESIS, (), "")
"""The checkpoint of an empty file."""


def signing_key(pepper: Pepper) -> bytes:
    """The key that signs checkpoints, derived from the pepper; it does not reveal the pepper."""
    return pepper.hash("activity checkpoints").encode()


class Signer:
    """Signs checkpoints and verifies their signatures."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def following(
        self,
        last: Checkpoint,
        hashes: Sequence[str],
        at: datetime,
        logs: Mapping[str, Mark] | None = None,
        since: str = "",
    ) -> Checkpoint:
        """Signs a checkpoint of the entries after `last`, or of marks of logs, which changed after the time `since`."""
        body: dict[str, Any] = {
            "first": last.sequence + 1,
            "sequence": last.sequence + len(hashes),
            "hash": hashes[-1] if hashes else last.hash,
            "entries": [text[:PREFIX] for text in hashes],
            "at": instant(at),
            "previous": last.signature,
        }
        if logs:
            body |= {"logs": {node_id: list(mark) for node_id, mark in logs.items()}, "logs_since": since}
        return Checkpoint(**body, signature=self._sign(body))

    def read(self, line: bytes) -> Checkpoint:
        """Reads a line; `CheckpointError` if this signer did not sign it."""
        try:
            body = json.loads(line)
            signature = body.pop("signature")
            if hmac.compare_digest(self._sign(body), signature):
                return Checkpoint(**body, signature=signature)
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        raise CheckpointError("is not signed with this pepper")

    def _sign(self, body: Document) -> str:
        return hmac.digest(self._key, canonical(body).encode(), "sha256").hex()


def text_of(checkpoint: Checkpoint) -> bytes:
    """The line of a checkpoint, for the file and the webhook."""
    fields = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    if checkpoint.logs is None:
        del fields["logs"], fields["logs_since"]
    return canonical(fields).encode() + b"\n"


def read_file(path: Path, signer: Signer) -> Iterator[Checkpoint]:
    """Reads the checkpoints of the file, in order; `CheckpointError` names the first invalid line."""
    return _read(path, signer, path.stat().st_size)


def _read(path: Path, signer: Signer, size: int) -> Iterator[Checkpoint]:
    last = NOTHING
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            size -= len(line)
            if size < 0 or not line.endswith(b"\n"):
                return  # written after the call, or not yet complete
            try:
                found = signer.read(line)
            except CheckpointError as error:
                raise CheckpointError(f"line {number} of `{path}` {error}") from None
            if found.previous != last.signature or found.first != last.sequence + 1:
                raise CheckpointError(f"line {number} of `{path}` does not follow the line before it: one is missing")
            last = found
            yield found


class CheckpointFile:
    """The file, opened by its only writer; `last` is its newest checkpoint."""

    def __init__(self, path: Path, signer: Signer) -> None:
        self.path = path
        self._signer = signer
        self._descriptor = _locked(path)
        try:
            self.last = self._recover()
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(
        self, hashes: Sequence[str], at: datetime, logs: Mapping[str, Mark] | None = None, since: str = ""
    ) -> Checkpoint:
        """Appends a checkpoint as `Signer.following` and syncs it to disk; `OSError` appends nothing."""
        checkpoint = self._signer.following(self.last, hashes, at, logs, since)
        line = text_of(checkpoint)
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(f"only {written} of {len(line)} bytes were written")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self.last = checkpoint
        return checkpoint

    def _recover(self) -> Checkpoint:
        size = os.fstat(self._descriptor).st_size
        start = max(0, size - TAIL_BYTES)
        whole, _, torn = os.pread(self._descriptor, size - start, start).rpartition(b"\n")
        if torn:  # an incomplete line after a crash: nothing relied on it
            os.ftruncate(self._descriptor, size - len(torn))
        if not whole:
            return NOTHING
        try:
            return self._signer.read(whole.rpartition(b"\n")[2])
        except CheckpointError as error:
            raise StartError(f"`--checkpoint-file`: the last line of `{self.path}` {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: Any, _trace: TracebackType | None) -> None:
        os.close(self._descriptor)


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise StartError(f"`--checkpoint-file`: `{path}` cannot be written: {error.strerror}") from None
    os.fsync(folder)
    os.close(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StartError(f"`--checkpoint-file`: `{path}` is in use by another store") from None
    return descriptor
