"""Files of a decision log in the old form: a hash chain over records, with one record per line.

The first line holds a magic word, and the sequence and hash that the file continues. Each other line holds a record's
sequence, its hash, and its document, which is JSON without line breaks.
"""

import hashlib
import re
from typing import NamedTuple

from pdp.log_format.frames import MAX_SKIPPED, Head

MAGIC = b"pdp-decisions-1 "
_LINE = re.compile(rb"^[0-9]{1,18} [0-9a-f]{64} \{", re.MULTILINE)


class OldRecord(NamedTuple):
    """A record in its chain; `hash` covers the hash of the record before it, the sequence and the document."""

    sequence: int
    document: bytes
    hash: bytes


class OldFile(NamedTuple):
    """The content of a file: what it continues (None if its first line is wrong), its records, and the bytes after the
    valid part.
    """

    start: Head | None
    records: list[OldRecord]
    rest: bytes

    @property
    def end(self) -> Head | None:
        """The end of the chain after its records."""
        return Head(self.records[-1].sequence, self.records[-1].hash) if self.records else self.start

    @property
    def is_torn(self) -> bool:
        """Whether the rest is the beginning of a line: a write that did not end."""
        return bool(self.rest) and b"\n" not in self.rest

    def taken(self, sequence: int) -> int:
        """The newest sequence that the invalid rest can have used, after `sequence`."""
        for line in self.rest.removesuffix(b"\n").split(b"\n") if self.rest else ():
            number = re.match(rb"[0-9]{1,18} ", line)
            claimed = int(number[0]) if number else 0
            sequence = claimed if sequence < claimed <= sequence + MAX_SKIPPED else sequence + 1
        return sequence


def is_old(data: bytes, magic: bytes) -> bool:
    """Whether a file is in the old form, by its first line or, if that is damaged, by the others.

    `magic`: the first bytes of a file in the form of today.
    """
    return data.startswith(MAGIC) or (not data.startswith(magic) and _LINE.search(data) is not None)


def read(data: bytes) -> OldFile:
    """The valid part of such a file, up to the first wrong byte."""
    at = data.find(b"\n") + 1
    start = _start(data[:at])
    if start is None:
        return OldFile(None, [], data)
    records: list[OldRecord] = []
    head = start
    while (end := data.find(b"\n", at)) >= 0 and (record := _record(data[at:end], head)) is not None:
        records.append(record)
        head, at = Head(record.sequence, record.hash), end + 1
    return OldFile(start, records, data[at:])


def _start(line: bytes) -> Head | None:
    try:
        sequence, digest = line.removeprefix(MAGIC).rstrip(b"\n").split(b" ")
        start = Head(int(sequence), bytes.fromhex(digest.decode()))
    except ValueError:
        return None
    return start if line.startswith(MAGIC) and start.sequence >= 0 and len(start.hash) == 32 else None


def _record(line: bytes, head: Head) -> OldRecord | None:
    try:
        number, digest, document = line.split(b" ", 2)
        sequence = int(number)
        hashed = hashlib.sha256(head.hash + sequence.to_bytes(8, "big") + document)
    except (ValueError, OverflowError):
        return None
    is_next = sequence > head.sequence and hashed.hexdigest().encode() == digest
    return OldRecord(sequence, document, hashed.digest()) if is_next else None
