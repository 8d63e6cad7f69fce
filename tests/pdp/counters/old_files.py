"""Counters files of earlier programs, which wrote a row of JSON for each decision that allowed."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pdp.counters.frames import HEADER, frame, header

FOLDER = Path(__file__).parent / "unpacked"
"""A file that such a program wrote, and what is in it: decisions before and after it was begun, reports, a
settlement, a suspension. Three of the decisions are in it twice."""


def example(path: Path) -> dict[str, Any]:
    """Put the file at `path`; what is in it."""
    path.write_bytes(gzip.decompress((FOLDER / "counters.gz").read_bytes()))
    content: dict[str, Any] = json.loads((FOLDER / "content.json").read_text())
    return content


def write(path: Path, contents: Iterable[Mapping[str, Any]]) -> None:
    """Write a file whose frames have these contents."""
    written = b"".join(frame(number, json.dumps(one).encode()) for number, one in enumerate(contents))
    size = HEADER.size + len(written) + 100
    path.write_bytes(header(size, HEADER.size) + written + bytes(100))
