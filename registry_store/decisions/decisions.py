"""Receives what sidecars report: keeps each batch, decision and outcome once, and checks the hash chain of each log."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem
from registry_store.alerts import causes
from registry_store.approvals import opening
from registry_store.database.decision_tables import DecisionLog
from registry_store.decisions import batches, conversion, usage
from registry_store.decisions.batches import Kept, Known
from registry_store.decisions.records import MAX_SEQUENCE
from registry_store.decisions.reports import Batch, Report
from registry_store.sync import nodes

MAX_FIRST = 2**40
"""The maximum sequence in the first report of a sidecar: a thousand decisions per second for 35 years."""
MAX_AHEAD, MAX_AHEAD_PER_SECOND = 2**20, 2**17
"""How far a later sequence may be ahead of the stored ones: a constant, plus a rate since the last report.

A sidecar that dropped records leaves a gap in its sequences, but no larger than what it can have decided meanwhile.
"""


@dataclass(slots=True)
class Received:
    """The result of a report; `sequence` is the newest sequence that is stored for this node id."""

    sequence: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    """New decisions by outcome."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """New outcomes of actions by result."""
    repeats: int = 0
    missing: int = 0
    breaks: list[int] = field(default_factory=list)
    """First sequences of the batches, and sequences of the records of older sidecars, that break the hash chain."""
    opened: list[str] = field(default_factory=list)
    """States of the new approvals."""


async def receive(
    session: AsyncSession, report: Report, owner: str, at: datetime, escalation_team: str = ""
) -> Received:
    """Store the new decisions and outcomes of a report, count them, and open the approvals that they request.

    `owner` is the name of the key of the call, `escalation_team` the team of escalations that name none.
    `NotAllowedError` if the node id belongs to another name, `InvalidRecordError` if the sequences are too far ahead.
    If the report requests approvals, the session must come from `writing`.
    """
    log = await nodes.locked(session, report.node_id, at)
    nodes.assign(log, owner)
    _check_sequences(log, report, at)
    received = Received()
    at = max(at, log.updated_at)  # so that the batches of a sidecar were received in their order
    if report.entries:
        kept = await _keep_entries(session, log, report, at, received)
    else:
        kept = await batches.keep(session, log, await _advance(session, log, report, received), at)
    received.sequence = log.sequence
    received.kept = Counter(decision.outcome for decision in kept.decisions)
    received.outcomes = Counter(outcome.result.name.lower() for outcome in kept.outcomes)
    log.missing = min(log.missing + received.missing, MAX_SEQUENCE)
    log.breaks += len(received.breaks)
    log.updated_at = at
    counted = await usage.count(session, kept.decisions, kept.outcomes)
    await causes.decided(session, kept.decisions, at, counted)
    await causes.records_lost(session, report.node_id, received.missing, at)
    if requested := [decision.opens for decision in kept.decisions if decision.opens is not None]:
        opened = await opening.open_requested(session, report.node_id, requested, at, escalation_team)
        received.opened = [approval.status for approval in opened]
    return received


def _check_sequences(log: DecisionLog, report: Report, at: datetime) -> None:
    """Raise `InvalidRecordError` if a sequence is too far ahead; accepting it would use up the sequences."""
    seconds = max(0.0, (at - log.updated_at).total_seconds())
    bound = log.sequence + MAX_AHEAD + int(MAX_AHEAD_PER_SECOND * seconds) if log.sequence else MAX_FIRST
    named = [(f"batches[{index}].content", batch.last) for index, batch in enumerate(report.batches)]
    named += [(f"records[{index}].sequence", entry.sequence) for index, entry in enumerate(report.entries)]
    if named[-1][1] <= bound:
        return
    path, sequence = next((path, sequence) for path, sequence in named if sequence > bound)
    message = f"`{sequence}` is too far ahead of `{log.sequence}`, the newest stored sequence"
    raise InvalidRecordError([Problem(path, message)])


async def _advance(session: AsyncSession, log: DecisionLog, report: Report, received: Received) -> list[Batch]:
    """Advance the log to the end of the report, and note what breaks the hash chain; returns the new batches.

    A new batch with sequences that are known comes from another log with the same node id: a data folder was copied or
    restored from a backup.
    """
    again = [batch for batch in report.batches if batch.first <= log.sequence]
    stored = await batches.repeated(session, report.node_id, again) if again else ()
    new = []
    for batch in report.batches:
        if (batch.last, batch.hash) in stored:
            received.repeats += batch.last - batch.first + 1
            continue
        new.append(batch)
        skipped = batch.first - log.sequence - 1
        if skipped < 0 or (not skipped and batch.previous_hash.hex() != log.hash):
            received.breaks.append(batch.first)
        if batch.last > log.sequence:
            received.missing += max(skipped, 0) + sum(gap.unnumbered for gap in batch.gaps)
            log.sequence, log.hash = batch.last, batch.hash.hex()
    return new


async def _keep_entries(
    session: AsyncSession, log: DecisionLog, report: Report, at: datetime, received: Received
) -> Kept:
    """Keep what is new of a report of a sidecar from before there were batches."""
    decided, ended = conversion.ids_of(report.entries)
    known: Known = await batches.known(session, decided, ended)
    progress = conversion.advanced(log, report.entries, known)
    received.repeats, received.missing = progress.repeats, progress.missing
    received.breaks = progress.breaks
    return await batches.keep(session, log, conversion.batches_of(progress.entries), at, known)
