"""Records of sidecars from before there were batches → batches of the store's own making."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pdp.log_format import batches as log_format
from registry_store.database.decision_tables import DecisionLog
from registry_store.decisions.batches import Known
from registry_store.decisions.notes import Outcome
from registry_store.decisions.records import Decision, Gap
from registry_store.decisions.reports import Batch, Entry


@dataclass(slots=True)
class Progress:
    """What a report says: the entries to keep, and what repeats, is missing, or breaks the hash chain."""

    entries: list[Entry] = field(default_factory=list)
    repeats: int = 0
    missing: int = 0
    breaks: list[int] = field(default_factory=list)


def ids_of(entries: Iterable[Entry]) -> tuple[list[str], list[str]]:
    """The ids of the decisions, and of those with an outcome."""
    contents = [entry.content for entry in entries]
    decided = [content.decision_id for content in contents if isinstance(content, Decision)]
    return decided, [content.decision_id for content in contents if isinstance(content, Outcome)]


def advanced(log: DecisionLog, entries: Iterable[Entry], known: Known) -> Progress:
    """Advance the log to the end of a report, and note what breaks the hash chain.

    A repeated sequence with a new decision or outcome, or the last sequence with another hash, comes from another log
    with the same node id: a data folder was copied or restored from a backup.
    """
    progress = Progress()
    for entry in entries:
        is_new = _is_new(entry, known)
        if entry.sequence <= log.sequence:
            forked = is_new or (entry.sequence == log.sequence and entry.hash.hex() != log.hash)
            progress.repeats += not is_new
        else:
            skipped = entry.sequence - log.sequence - 1
            forked = not entry.intact or (not skipped and entry.previous_hash.hex() != log.hash)
            progress.missing += skipped
            if isinstance(entry.content, Gap):
                progress.missing += entry.content.unnumbered
            is_new = True
            log.sequence, log.hash = entry.sequence, entry.hash.hex()
        if is_new:
            progress.entries.append(entry)
        if forked:
            progress.breaks.append(entry.sequence)
    return progress


def batches_of(entries: Iterable[Entry]) -> list[Batch]:
    """The entries as batches: one for each run of sequences without a gap."""
    return [_batch(run) for run in _runs(entries)]


def _batch(run: Sequence[Entry]) -> Batch:
    first, last = run[0], run[-1]
    content = log_format.sealed(first.previous_hash, first.sequence, [entry.record for entry in run]).content
    batch = Batch(first.sequence, last.sequence, content, first.previous_hash, last.hash, is_converted=True)
    for entry in run:
        batch.add(entry.sequence, entry.content)
    return batch


def _runs(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    run: list[Entry] = []
    for entry in entries:
        if run and entry.sequence != run[-1].sequence + 1:
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


def _is_new(entry: Entry, known: Known) -> bool:
    content = entry.content
    if isinstance(content, Decision):
        return content.decision_id not in known.decided
    return isinstance(content, Outcome) and content.decision_id not in known.ended
