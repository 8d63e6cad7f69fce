"""A decision log in the old form, as a sidecar of the earlier version wrote it, and what is written in it."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "of_version_1"
"""30 records in files of about 9 KB; those up to the fourth are sent."""


def documents_of(folder: Path) -> list[dict[str, Any]]:
    """The documents of all files, oldest first."""
    lines = [line for path in sorted(folder.glob("*.log")) for line in path.read_bytes().splitlines()[1:]]
    return [json.loads(line.split(b" ", 2)[2]) for line in lines]


def records_of(folder: Path) -> list[tuple[int, bytes, bytes, bytes]]:
    """The records of all files, oldest first: sequence, document, and the hashes before and after."""
    records = []
    before = bytes(32)
    for path in sorted(folder.glob("*.log")):
        for line in path.read_bytes().splitlines()[1:]:
            number, digest, written = line.split(b" ", 2)
            records.append((int(number), written, before, before := bytes.fromhex(digest.decode())))
    return records


def copied(folder: Path) -> Path:
    """A copy of the log as the log of the data folder `folder`; its folder."""
    return Path(shutil.copytree(FOLDER, folder / "decisions"))


def old_file(folder: Path, number: int, hash_: bytes, documents: Iterable[bytes]) -> None:
    """A file of records in the old form that goes on after record `number` with this hash."""
    lines = [b"pdp-decisions-1 %d %s\n" % (number, hash_.hex().encode())]
    path = folder / f"{number + 1:020}.log"
    for one in documents:
        number += 1
        hash_ = hashlib.sha256(hash_ + number.to_bytes(8, "big") + one).digest()
        lines.append(b"%d %s %s\n" % (number, hash_.hex().encode(), one))
    folder.mkdir(exist_ok=True)
    path.write_bytes(b"".join(lines))
