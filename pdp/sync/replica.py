"""Keeps the state in force a copy of the registry: whole snapshots, then each change in order."""

import asyncio
import gc
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from pdp.core.fields import quote
from pdp.core.model import RecordKind, Source
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, RefusedRecord, State, applying, building

MAX_LOGGED = 100
MANY_RECORDS = 10_000
MIN_SLICE_SECONDS, MAX_SLICE_SECONDS = 0.0005, 0.0025
MAX_WEIGHT = 16 * 1024
"""Bytes of a record that is compiled on the event loop: in about a millisecond."""

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
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
        state, refused = await built(records.known, epoch, revision, self._holder.current)
        self.needs_snapshot = False
        self._outdated.clear()
        self._metrics.snapshot()
        return await self._put_in_force(state, records, refused)

    async def advance(self, before: int, after: int, records: Records) -> Sequence[Refusal]:
        """Puts a change in force and returns the refusals; `OutOfOrderError` if it does not follow."""
        state = self._holder.current
        if state is None or before != state.revision or after <= before:
            raise OutOfOrderError(
                f"a change from revision {before} to {after} does not follow revision {self.revision}"
            )
        with collector_paused() if self._large(records) else nullcontext():
            changed, refused = await in_slices(applying(state, records.known, after))
        del state  # so that it is freed in pieces below
        self._metrics.change()
        return await self._put_in_force(changed, records, refused)

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

    def _large(self, records: Records) -> bool:
        """Whether the records make many agents anew, as a policy of the organisation may."""
        if len(records) >= MANY_RECORDS:
            return True
        agents = 0 if self._holder.current is None else len(self._holder.current.agents)
        return agents >= MANY_RECORDS and any(one.kind is RecordKind.ORGANISATION_POLICY for one in records.known)

    async def _put_in_force(
        self, state: State, records: Records, refused: Iterable[RefusedRecord]
    ) -> Sequence[Refusal]:
        refusals = [*records.unknown, *(Refusal(*one) for one in refused)]
        if self._outdated:
            self._outdated -= {(record.kind, record.id) for record in records.known}
        self._outdated |= {(one.kind, one.id) for one in refusals}
        replaced = [self._holder.current]
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
        if self._large(records):
            await in_slices(_taking_apart(replaced, records.known))
        return refusals


async def built(
    records: Sequence[RawRecord], epoch: str, revision: int, last: State | None = None
) -> tuple[State, tuple[RefusedRecord, ...]]:
    """The state of a snapshot. A hundred thousand records take seconds, and decisions continue meanwhile."""
    with collector_paused() if len(records) >= MANY_RECORDS else nullcontext():
        return await in_slices(building(records, epoch, revision, last))


async def in_slices(steps: Generator[int, None, Made]) -> Made:
    """The result of the steps, between which the event loop does its other work.

    They take half of its time, and at most `MAX_SLICE_SECONDS` at once. A thread would hold up decisions for longer:
    each of them would wait for the interpreter, and then for a processor. Only what cannot be divided goes into one.
    """
    ended, weight = perf_counter(), 0
    try:
        while True:
            began = perf_counter()
            until = began + min(max(began - ended, MIN_SLICE_SECONDS), MAX_SLICE_SECONDS)
            while weight <= MAX_WEIGHT:
                weight = next(steps)
                if perf_counter() >= until:
                    break
            ended = perf_counter()
            if weight > MAX_WEIGHT:
                weight = await asyncio.to_thread(_next, steps)
            else:
                await asyncio.sleep(0)
    except StopIteration as end:
        made: Made = end.value
        return made
    except _EndedError as end:
        returned: Made = end.args[0]
        return returned


class _EndedError(Exception):
    """The steps have ended in a thread, from which `StopIteration` cannot come."""


def _next(steps: Generator[int, None, object]) -> int:
    try:
        return next(steps)
    except StopIteration as end:
        raise _EndedError(end.value) from None


@contextmanager
def collector_paused() -> Iterator[None]:
    """While many objects are made, and for ever for these.

    The garbage collector would pause decisions to traverse the new state again and again, and need not do so later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def _taking_apart(replaced: list[State | None], records: list[RawRecord]) -> Generator[int, None, None]:
    """Frees a state that is no longer in force, and records, piece by piece: at once, it would pause decisions."""
    state = replaced.pop()
    pieces = [] if state is None else state.pieces()
    del state
    lists: tuple[list[Any], ...] = (pieces, records)
    for some in lists:
        while some:
            some.pop()
            yield 0


_KINDS = {kind.value: kind for kind in RecordKind}
