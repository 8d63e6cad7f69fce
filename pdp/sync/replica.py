"""The state in force as a copy of the registry: whole snapshots, and then each change in its order."""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pdp.core.fields import quote
from pdp.core.model import RecordKind, Source
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, RefusedError, State, apply, build

MAX_LOGGED = 100
MANY_RECORDS = 10_000

logger = logging.getLogger(__name__)

OnState = Callable[[State, bool], None]


class BrokenStreamError(Exception):
    """The stream is of no more use; the state in force still is."""


class OutOfOrderError(BrokenStreamError):
    """What came does not follow what is in force; only a fresh snapshot helps."""


class NotTaken(NamedTuple):
    """A record that has no effect here, and every reason; `kind` may be one that only newer sidecars know."""

    kind: int
    id: str
    problems: tuple[str, ...]

    @property
    def kind_name(self) -> str:
        """Its kind in lower case."""
        return _KINDS[self.kind].name.lower() if self.kind in _KINDS else "unknown"


class Records:
    """Records as they came: those of a kind that this sidecar knows, and those that it has to refuse."""

    def __init__(self) -> None:
        self.known: list[RawRecord] = []
        self.strange: list[NotTaken] = []

    def __len__(self) -> int:
        return len(self.known) + len(self.strange)

    def add(self, kind: int, name: str, document: bytes) -> None:
        """One more; an empty document: it is gone."""
        if kind in _KINDS:
            self.known.append(RawRecord(_KINDS[kind], name, document))
        else:
            self.strange.append(NotTaken(kind, name, (f"this sidecar knows no records of kind {kind}",)))


class Replica:
    """Keeps `holder` at what the store sends.

    `on_state(state, complete)` is told of each new state; `complete` unless some record in it is not at its newest
    because that does not compile here. While `fresh` is true, only a snapshot will do.
    """

    def __init__(self, holder: Holder, metrics: Metrics, on_state: OnState) -> None:
        self.fresh = False
        self._holder = holder
        self._metrics = metrics
        self._on_state = on_state
        self._held_back: set[tuple[int, str]] = set()

    @property
    def position(self) -> tuple[str, int]:
        """The epoch and revision to resume from; ("", 0) asks for a snapshot."""
        state = self._holder.current
        return ("", 0) if self.fresh or state is None else (state.epoch, state.revision)

    @property
    def revision(self) -> int:
        """The revision in force; 0: none."""
        return self._holder.current.revision if self._holder.current else 0

    async def replace(self, records: Records, epoch: str, revision: int) -> Sequence[NotTaken]:
        """Puts a snapshot in force. What of it has no effect comes back; its last good state, if any, stays."""
        state, refused = await built(records.known, epoch, revision, self._holder.current)
        self.fresh = False
        self._held_back.clear()
        self._metrics.snapshot()
        return self._put_in_force(state, records, refused)

    async def advance(self, before: int, after: int, records: Records) -> Sequence[NotTaken]:
        """Puts a change in force, or raises `OutOfOrderError` if it does not follow. What has no effect comes back."""
        state = self._holder.current
        if state is None or before != state.revision or after <= before:
            raise OutOfOrderError(
                f"a change from revision {before} to {after} does not follow revision {self.revision}"
            )
        changed, refused = await asyncio.to_thread(apply, state, records.known, after)
        self._metrics.change()
        return self._put_in_force(changed, records, refused)

    def confirm(self, boot: float) -> None:
        """Notes that the store held just this revision at `boot`, and that its stream is open."""
        self._holder.confirm(boot)
        self._holder.source = Source.LIVE
        self._metrics.sync_state("live")

    def disconnected(self) -> None:
        """Notes that nothing confirms what is in force any more."""
        self._holder.source = Source.CACHED

    def key_revoked(self, why: str) -> None:
        """Notes that the store refuses the key; said once, until it takes the key again."""
        if not self._holder.key_revoked:
            self._holder.key_revoked = True
            logger.error(
                "the store refuses the key in `--key-file` (%s): until there is a new key, no change and no emergency "
                "stop arrives, and revision %d stays in force",
                why,
                self.revision,
            )

    def key_accepted(self) -> None:
        """Notes that the store takes the key."""
        if self._holder.key_revoked:
            self._holder.key_revoked = False
            logger.info("the store accepts the key in `--key-file` again")

    def _put_in_force(self, state: State, records: Records, refused: Iterable[RefusedError]) -> Sequence[NotTaken]:
        not_taken = [*records.strange, *(NotTaken(*one) for one in refused)]
        self._held_back -= {(record.kind, record.id) for record in records.known}
        self._held_back |= {(one.kind, one.id) for one in not_taken}
        self._holder.swap(state, self._holder.source)
        self._on_state(state, not self._held_back)
        for one in not_taken:
            self._metrics.refused_record(one.kind_name)
        for one in not_taken[:MAX_LOGGED]:
            logger.error(
                "refused %s %s, its last good state stays in force: %s",
                one.kind_name,
                quote(one.id),
                "; ".join(one.problems),
            )
        return not_taken


async def built(
    records: Sequence[RawRecord], epoch: str, revision: int, last: State | None = None
) -> tuple[State, tuple[RefusedError, ...]]:
    """`build`, on a thread: a hundred thousand records take seconds, in which decisions go on."""
    if len(records) < MANY_RECORDS:
        return await asyncio.to_thread(build, records, epoch, revision, last)
    # The collector would hold up decisions to walk what is being built, again and again; nor need it walk it later.
    gc.disable()
    try:
        return await asyncio.to_thread(build, records, epoch, revision, last)
    finally:
        gc.enable()
        gc.freeze()


_KINDS = {kind.value: kind for kind in RecordKind}
