"""Files of an earlier version, one line for each record, become files of batches when a sidecar starts.

Unsent records keep their sequences. Their chain goes on from the hash that the store has last of this sidecar.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pdp.decision_log import refused, segments
from pdp.decision_log.record import gap
from pdp.decision_log.sealing import Sealing
from pdp.decision_log.segments import Segment
from pdp.log_format import old_lines
from pdp.log_format.frames import MAX_BATCH_BYTES, Head
from pdp.log_format.old_documents import BadDocumentError, from_json
from pdp.log_format.old_lines import OldFile, OldRecord

logger = logging.getLogger(__name__)


_NOTHING = (1, 0)
"""The first and the last of no sequences."""


class Upgraded(NamedTuple):
    """How many damaged files there were, and how many records were lost where nothing that follows them shows it."""

    damaged: int = 0
    lost: int = 0


class _Place(NamedTuple):
    """The end of what is upgraded: the head of the new chain, and that of the old one (None: not known any more)."""

    new: Head
    old: Head | None


def upgraded(folder: Path, kept: int, clock: Callable[[], float]) -> Upgraded:
    """Convert the files of the log in `folder` that are in the old form; the store has every record up to `kept`.

    Each file is replaced at once, so after a crash the next start goes on.
    """
    upgrade = _Upgrade(folder, kept, clock)
    paths = segments.paths(folder)
    old = {path for path in paths if _is_old(path)}
    for path in paths if old else ():
        if path in old:
            upgrade.convert(path, old_lines.read(path.read_bytes()), is_newest=path == paths[-1])
        else:
            upgrade.pass_by(path)
    if upgrade.records:
        logger.info(
            "the decision log is in a new form; %d unsent decisions of an earlier version stay", upgrade.records
        )
    return Upgraded(upgrade.damaged, upgrade.lost)


def _is_old(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(len(segments.MAGIC))
        return begin != segments.MAGIC and old_lines.is_old(begin + file.read(), segments.MAGIC)


class _Upgrade:
    def __init__(self, folder: Path, kept: int, clock: Callable[[], float]) -> None:
        self.damaged = self.lost = self.records = 0
        self._folder = folder
        self._kept = kept
        self._clock = clock
        self._before: _Place | None = None

    def pass_by(self, path: Path) -> None:
        """Note the end of a file that is in the form of today."""
        found = segments.scan(path)
        if found.segment is not None:
            self._before = _Place(found.segment.end, None)

    def convert(self, path: Path, old: OldFile, *, is_newest: bool) -> None:
        """Replace a file in the old form, or delete it if the store has all of it and another one follows."""
        rest = b"" if is_newest and old.is_torn else old.rest
        if rest:
            self.damaged += 1
            segments.copy_aside(path)
        last = old.end.sequence if old.end else int(path.stem) - 1
        taken = old.taken(last) if rest else last
        unsent = [record for record in old.records if record.sequence > self._kept]
        if old.start is not None and (unsent or is_newest):
            lost = (last + 1, taken) if is_newest else _NOTHING
            end: Head | None = self._write(path, self._start(old.start, old.records), unsent, lost)
        elif old.start is None and is_newest:
            before = self._before.new if self._before else Head(self._kept)
            end = self._write(path, Head(taken, before.hash), [], (before.sequence + 1, taken))
        else:
            path.unlink()
            end = old.end
        if end is not None:
            self._before = _Place(end, old.end)

    def _start(self, start: Head, records: list[OldRecord]) -> Head:
        """What the new file continues: the last record that the store has, or the file before if nothing is missing."""
        if start.sequence <= self._kept:
            sent = [record for record in records if record.sequence <= self._kept]
            return Head(sent[-1].sequence, sent[-1].hash) if sent else start
        before = self._before
        if before is not None and (
            before.old == start or (before.old is None and before.new.sequence == start.sequence)
        ):
            return before.new
        return start

    def _write(self, path: Path, start: Head, records: list[OldRecord], lost: tuple[int, int]) -> Head:
        """The new file, with a gap record at its end for what is lost there."""
        sealing = Sealing(start, self._clock())
        for record in records:
            sealing.skip_to(record.sequence)
            sealing.add(self._converted(record))
        first, last = max(lost[0], self._kept + 1), lost[1]
        if first <= last:
            self.lost += last - first + 1
            sealing.skip_to(last + 1)
            sealing.add(gap(first, last, self._clock()))
        new = Segment.create(self._folder, start, sealing.batches())
        if new.path != path:
            path.unlink()
            segments.sync_folder(self._folder)
        self.records += len(records)
        return new.end

    def _converted(self, record: OldRecord) -> bytes:
        """The record in the form of today. A gap record replaces one that cannot be converted; that is set aside."""
        try:
            converted = from_json(json.loads(record.document)).SerializeToString()
            if len(converted) <= MAX_BATCH_BYTES:
                return converted
            why = f"has {len(converted)} bytes"
        except (BadDocumentError, ValueError) as error:
            why = str(error)
        logger.error("record %d of the decision log cannot be converted: it %s", record.sequence, why)
        refused.set_aside(self._folder, [record.document])
        self.lost += 1
        return gap(record.sequence, record.sequence, self._clock())
