"""A decision log in the old form, as a sidecar of the earlier version wrote it, and what is written in it."""

import json
import shutil
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "of_version_1"
"""30 records in files of about 9 KB; those up to the fourth are sent."""


def documents_of(folder: Path) -> list[dict[str, Any]]:
    """The documents of all files, oldest first."""
    lines = [line for path in sorted(folder.glob("*.log")) for line in path.read_bytes().splitlines()[1:]]
    return [json.loads(line.split(b" ", 2)[2]) for line in lines]


def copied(folder: Path) -> Path:
    """A copy of the log as the log of the data folder `folder`; its folder."""
    return Path(shutil.copytree(FOLDER, folder / "decisions"))
