"""Records that the store refused, as lines of JSON for people."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 16 << 20
"""A file of this size is put away, in place of the one before."""


def set_aside(folder: Path, lines: Iterable[bytes]) -> None:
    """Append lines to `refused.jsonl` in the folder of a log."""
    path = folder / "refused.jsonl"
    with suppress(FileNotFoundError):
        if path.stat().st_size > MAX_BYTES:
            path.replace(path.with_suffix(".jsonl.old"))
    with open(path, "ab", opener=_private) as file:
        file.write(b"".join([line + b"\n" for line in lines]))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
