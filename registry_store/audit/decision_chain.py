"""Verification of the store's chain of one sidecar's batches: one after the other, then its end."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from pdp.log_format import batches as log_format
from registry_store.audit.marks import Mark, Signed
from registry_store.database.decision_tables import NO_HEAD, DecisionBatch
from registry_store.decisions import chain
from registry_store.documents import instant, read_instant

NOTHING = Mark(0, NO_HEAD, 0, NO_HEAD)


@dataclass(slots=True)
class LogChain:
    """Checks the batches of a sidecar in the order of their numbers; each step yields what it found.

    `recorded` is what the sidecar's log says, None without one; `signed` is what the checkpoints say.
    """

    node_id: str
    recorded: Mark | None
    signed: Signed | None = None
    number: int = field(init=False)
    head: str = field(init=False)
    last_sequence: int = 0

    def __post_init__(self) -> None:
        start = self.recorded or (self.signed.mark if self.signed is not None else NOTHING)
        self.number, self.head = start.deleted_batches, start.deleted_head

    def start(self, last_deleted: int, deleted_received_at: datetime | None, cutoff: datetime) -> Iterator[str]:
        """Checks what the log says of retention, which deletes what was received before `cutoff`."""
        self.last_sequence = last_deleted
        if self.recorded is None or not self.number:
            return
        before = f"the note that retention deleted its batches up to {self.number} is forged"
        if deleted_received_at is None or deleted_received_at >= cutoff:
            yield f"{before}: what was received since {instant(cutoff)} is kept"
        elif self.signed is not None and _is_since(self.signed.absent_at, cutoff):
            yield f"{before}: batch {self.number} was received after {self.signed.absent_at}"

    def take(self, batch: DecisionBatch, content: bytes | None) -> Iterator[str]:
        """Checks the next batch; `content` is None if it cannot be read."""
        if batch.number <= self.number:
            yield f"{_named(batch)} was inserted"
            return
        follows = batch.number == self.number + 1
        if not follows:
            yield self._missing(self.number + 1, batch.number - 1, batch.first_sequence - 1)
        if content is None:
            yield f"{_named(batch)} was changed: it cannot be read"
        elif follows:
            yield from self._check(batch, content)
        self.number, self.head, self.last_sequence = batch.number, batch.head.hex(), batch.last_sequence
        yield from self._check_signed()

    def end(self) -> Iterator[str]:
        """Checks the end of the chain."""
        recorded, signed = self.recorded, self.signed
        upto = max(recorded.batches if recorded else 0, self._signed_batches())
        if recorded is None and self.number:
            yield "its log was deleted: up to where its batches were received is not known"
        if upto > self.number:
            yield self._missing(self.number + 1, upto, None)
        elif recorded is not None and (recorded.batches, recorded.head) != (self.number, self.head):
            yield f"its batches were changed: its log ends at batch {recorded.batches} with another head"
        if signed is not None and signed.set_back_at is not None:
            yield f"its log was set back between the checkpoints of {signed.at} and {signed.set_back_at}"
        elif signed is not None and recorded is not None and not signed.mark.is_followed_by(recorded):
            yield f"its log was set back, or made anew: the checkpoint of {signed.at} says otherwise"

    def _check(self, batch: DecisionBatch, content: bytes) -> Iterator[str]:
        expected = chain.head_after(bytes.fromhex(self.head), chain.link_of(batch, content))
        if expected != batch.head:
            yield f"{_named(batch)} was changed, or moved"
        elif not batch.is_converted and log_format.chained(batch.previous_hash, content) != batch.hash:
            yield f"{_named(batch)} was changed: its hash is not that of its content"

    def _check_signed(self) -> Iterator[str]:
        signed = self.signed
        if signed is not None and signed.mark.batches == self.number and signed.mark.head != self.head:
            yield f"its batches up to {self.number} were made anew: the checkpoint of {signed.at} differs"

    def _missing(self, first: int, last: int, last_sequence: int | None) -> str:
        which = f"batch {first} was" if first == last else f"batches {first} to {last} were"
        records = f"records {self.last_sequence + 1} to {last_sequence}" if last_sequence else ""
        if last_sequence is None:
            records = f"the records after {self.last_sequence}: it was cut at the end"
        signed = f"; the checkpoint of {self.signed.at} has them" if self.signed and self._is_signed(last) else ""
        return f"{which} deleted, with {records}{signed}"

    def _is_signed(self, number: int) -> bool:
        return self._signed_batches() >= number

    def _signed_batches(self) -> int:
        """Number of the last signed batch that must be there; 0 where all that were signed had been deleted."""
        if self.signed is None or self.signed.mark.batches == self.signed.mark.deleted_batches:
            return 0
        return self.signed.mark.batches


def _named(batch: DecisionBatch) -> str:
    return f"batch {batch.number} (records {batch.first_sequence} to {batch.last_sequence})"


def _is_since(moment: str | None, cutoff: datetime) -> bool:
    return bool(moment) and read_instant(moment) >= cutoff
