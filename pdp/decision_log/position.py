"""How far the store has a decision log: a note beside its files."""

import os
import zlib
from contextlib import suppress
from pathlib import Path

from pdp.decision_log import segments


class Position:
    """The newest sequence that the store has acknowledged, as it is noted in the folder of the log.

    If the note is lost, records that are no longer here count as sent.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kept"
        self.sequence = self._read(folder)

    def note(self, sequence: int, *, durable: bool = False) -> None:
        """Note that the store has every record up to `sequence`.

        If it is not durable, a crash may leave an older number, and records are sent twice.
        """
        # Overwritten in place, which needs no room on a full disk; the checksum detects a torn write.
        number = b"%020d" % sequence
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(file, b"%s %s\n" % (number, _check(number)), 0)
            if durable:
                os.fdatasync(file)
        finally:
            os.close(file)
        self.sequence = sequence

    def _read(self, folder: Path) -> int:
        with suppress(OSError, ValueError):
            number, check = self._path.read_bytes()[:64].split()
            if check == _check(number):
                return int(number)
        sequence = next((int(path.stem) - 1 for path in segments.paths(folder)), 0)
        self.note(sequence)
        return sequence


def _check(number: bytes) -> bytes:
    return b"%08x" % zlib.crc32(number)
