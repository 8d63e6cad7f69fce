"""Keeps the state in force a copy of the registry: whole snapshots, then each change in order."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pdp.core.fields import quote
from pdp.core.model import RecordKind, Source
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, RefusedRecord, State, apply, build

MAX_LOGGED = 100
MANY_RECORDS = 10_000

logger = logging.getLogger(__name__)

OnState = Callable[[State, bool], None]


class BrokenStreamError(Exception):
    """The stream is unusable; the state in force stays valid."""


class OutOfOrderError(BrokenStreamError):
    """A message does not follow the state in force; only a new snapshot helps."""


class Refusal(NamedTuple):
    """A record that this sidecar does not apply, with every reason; `kind` may be one that only newer sidecars know."""

    kind: int
    id: str
    problems: tuple[str, ...]

    @property
    def kind_name(self) -> str:
        """Its kind in lower case."""
        return _KINDS[self.kind].name.lower() if self.kind in _KINDS else "unknown"


class Records:
    """Records as received: those of a known kind, and refusals of the others."""

    def __init__(self) -> None:
        self.known: list[RawRecord] = []
        self.unknown: list[Refusal] = []

    def __len__(self) -> int:
        return len(self.known) + len(self.unknown)

    def add(self, kind: int, name: str, document: bytes) -> None:
        """Add a record; an empty document deletes it."""
        if kind in _KINDS:
            self.known.append(RawRecord(_KINDS[kind], name, document))
        else:
            self.unknown.append(Refusal(kind, name, (f"this sidecar knows no records of kind {kind}",)))


class Replica:
    """Keeps `holder` at what the store sends.

    `on_state(state, complete)` is called for each new state; it is `complete` if the newest version of every record
    compiles here. While `needs_snapshot` is true, the next stream must begin with a snapshot.
    """

    def __init__(self, holder: Holder, metrics: Metrics, on_state: OnState) -> None:
        self.needs_snapshot = False
        self._holder = holder
        self._metrics = metrics
        self._on_state = on_state
        self._outdated: set[tuple[int, str]] = set()

    @property
    def position(self) -> tuple[str, int]:
        """The epoch and revision to resume from; ("", 0) asks for a snapshot."""
        state = self._holder.current
        return ("", 0) if self.needs_snapshot or state is None else (state.epoch, state.revision)

    @property
    def revision(self) -> int:
        """The revision in force; 0: none."""
        return self._holder.revision

    async def replace(self, records: Records, epoch: str, revision: int) -> Sequence[Refusal]:
        """Puts a snapshot in force and returns the refusals; a refused record keeps its last good state, if any."""
        state, refused = await build_in_thread(records.known, epoch, revision, self._holder.current)
        self.needs_snapshot = False
        self._outdated.clear()
        self._metrics.snapshot()
        return self._put_in_force(state, records, refused)

    async def advance(self, before: int, after: int, records: Records) -> Sequence[Refusal]:
        """Puts a change in force and returns the refusals; `OutOfOrderError` if it does not follow."""
        state = self._holder.current
        if state is None or before != state.revision or after <= before:
            raise OutOfOrderError(
                f"a change from revision {before} to {after} does not follow revision {self.revision}"
            )
        changed, refused = await asyncio.to_thread(apply, state, records.known, after)
        self._metrics.change()
        return self._put_in_force(changed, records, refused)

    def confirm(self, boot: float) -> None:
        """Notes that the store had exactly this revision at `boot`, and that its stream is open."""
        self._holder.confirm(boot)
        self._holder.source = Source.LIVE
        self._metrics.sync_state("live")

    def disconnected(self) -> None:
        """Notes that no stream confirms the state in force any more."""
        self._holder.source = Source.CACHED

    def key_revoked(self, why: str) -> None:
        """Notes that the store refuses the key; logged once, until it accepts a key again."""
        if not self._holder.key_revoked:
            self._holder.key_revoked = True
            logger.error(
                "the store refuses the key in `--key-file` (%s): until there is a new key, no change and no emergency "
                "stop arrives, and revision %d stays in force",
                why,
                self.revision,
            )

    def key_accepted(self) -> None:
        """Notes that the store accepts the key."""
        if self._holder.key_revoked:
            self._holder.key_revoked = False
            logger.info("the store accepts the key in `--key-file` again")

    def _put_in_force(self, state: State, records: Records, refused: Iterable[RefusedRecord]) -> Sequence[Refusal]:
        refusals = [*records.unknown, *(Refusal(*one) for one in refused)]
        self._outdated -= {(record.kind, record.id) for record in records.known}
        self._outdated |= {(one.kind, one.id) for one in refusals}
        self._holder.swap(state, self._holder.source)
        self._on_state(state, not self._outdated)
        for one in refusals:
            self._metrics.refused_record(one.kind_name)
        for one in refusals[:MAX_LOGGED]:
            logger.error(
                "refused %s %s, its last good state stays in force: %s",
                one.kind_name,
                quote(one.id),
                "; ".join(one.problems),
            )
        return refusals


async def build_in_thread(
    records: Sequence[RawRecord], epoch: str, revision: int, last: State | None = None
) -> tuple[State, tuple[RefusedRecord, ...]]:
    """`build` in a thread: a hundred thousand records take seconds, and decisions continue meanwhile."""
    if len(records) < MANY_RECORDS:
        return await asyncio.to_thread(build, records, epoch, revision, last)
    # The garbage collector would pause decisions to traverse the new state again and again, and need not do so later.
    gc.disable()
    try:
        return await asyncio.to_thread(build, records, epoch, revision, last)
    finally:
        gc.enable()
        gc.freeze()


_KINDS = {kind.value: kind for kind in RecordKind}
