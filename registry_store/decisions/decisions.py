"""The decisions that sidecars report: stores each once, and checks the hash chain of each log."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem
from registry_store.alerts import causes
from registry_store.approvals import opening
from registry_store.database.bulk import delete_oldest, insert_new
from registry_store.database.tables import Decision, DecisionLog
from registry_store.database.tables import Outcome as OutcomeRow
from registry_store.decisions import filters, outcomes, usage
from registry_store.decisions.filters import Filter
from registry_store.decisions.notes import Outcome
from registry_store.decisions.reports import MAX_SEQUENCE, Gap, Report
from registry_store.decisions.reports import Decision as Reported
from registry_store.documents import instant
from registry_store.errors import NotFoundError
from registry_store.sync import nodes

MAX_COUNTED = 10_000
"""A list counts up to this number, and reports whether there are more."""
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
    """Sequences of the records that break the hash chain."""
    opened: list[str] = field(default_factory=list)
    """States of the new approvals."""


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions, newest first; `total` counts up to `MAX_COUNTED`, and is `exact` if there are no more."""

    rows: Sequence[Decision]
    total: int
    exact: bool


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
    new = await _insert(session, report, at)
    settled = await outcomes.insert(session, report.node_id, report.outcomes, at)
    by_id: dict[str, Reported] = {}
    for decision in report.decisions:
        by_id.setdefault(decision.decision_id, decision)
    kept = [decision for decision_id, decision in by_id.items() if decision_id in new]
    first_of_each = {outcome.decision_id: outcome for _, outcome in reversed(report.outcomes)}
    ended = {decision_id: first_of_each[decision_id] for decision_id in sorted(settled)}
    received = _advance(log, report, new | settled)
    received.kept = Counter(decision.outcome for decision in kept)
    received.outcomes = Counter(outcome.result.name.lower() for outcome in ended.values())
    log.missing = min(log.missing + received.missing, MAX_SEQUENCE)
    log.breaks += len(received.breaks)
    log.updated_at = at
    await usage.count(session, kept, ended.values())
    await causes.decided(session, kept, at, ended.values())
    await causes.records_lost(session, report.node_id, received.missing, at)
    if requested := [decision.opens for decision in kept if decision.opens is not None]:
        opened = await opening.open_requested(session, report.node_id, requested, at, escalation_team)
        received.opened = [approval.status for approval in opened]
    return received


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> Page:
    """A page of decisions."""
    conditions = list(filters.conditions(wanted))
    found = select(Decision.decision_id).where(*conditions).limit(MAX_COUNTED + 1).subquery()
    total = await session.scalar(select(func.count()).select_from(found)) or 0
    newest_first = select(Decision).where(*conditions).order_by(Decision.decision_id.desc())
    rows = (await session.scalars(newest_first.limit(limit).offset(offset))).all()
    return Page(rows, min(total, MAX_COUNTED), total <= MAX_COUNTED)


async def faults(session: AsyncSession) -> tuple[int, int]:
    """The number of missing records, and of records that break the hash chain, in the logs of all sidecars."""
    sums = select(func.sum(DecisionLog.missing), func.sum(DecisionLog.breaks))
    missing, breaks = (await session.execute(sums)).one()
    return int(missing or 0), int(breaks or 0)


async def get(session: AsyncSession, decision_id: str) -> Decision:
    """The decision with this id; `NotFoundError` if there is none."""
    decision = await session.get(Decision, decision_id)
    if decision is None:
        raise NotFoundError(f"no decision `{decision_id}`")
    return decision


async def delete_before(session: AsyncSession, maximum: int, moment: datetime) -> int:
    """Delete at most `maximum` decisions received before `moment`, oldest first; returns the number deleted."""
    return await delete_oldest(session, Decision, maximum, Decision.received_at < moment, by=Decision.received_at)


async def forget_logs(session: AsyncSession, moment: datetime) -> None:
    """Delete the logs of sidecars that have neither reported nor connected since `moment`."""
    unseen = or_(DecisionLog.seen_at.is_(None), DecisionLog.seen_at < moment)
    await session.execute(delete(DecisionLog).where(DecisionLog.updated_at < moment, unseen))


def document(decision: Decision, outcome: OutcomeRow | None) -> dict[str, Any]:
    """The decision as REST shows it: the sidecar's document, how its action ended, and where it was received."""
    origin = {
        "repeat_of": decision.repeat_of,  # older sidecars do not send it
        "node_id": decision.node_id,
        "sequence": decision.sequence,
        "received_at": instant(decision.received_at),
        "outcome": outcomes.document(outcome),
    }
    return decision.document | origin


def _check_sequences(log: DecisionLog, report: Report, at: datetime) -> None:
    """Raise `InvalidRecordError` if a sequence is too far ahead; accepting it would use up the sequences."""
    seconds = max(0.0, (at - log.updated_at).total_seconds())
    bound = log.sequence + MAX_AHEAD + int(MAX_AHEAD_PER_SECOND * seconds) if log.sequence else MAX_FIRST
    if report.entries[-1].sequence <= bound:
        return
    index, entry = next((index, entry) for index, entry in enumerate(report.entries) if entry.sequence > bound)
    message = f"`{entry.sequence}` is too far ahead of `{log.sequence}`, the newest stored sequence"
    raise InvalidRecordError([Problem(f"records[{index}].sequence", message)])


async def _insert(session: AsyncSession, report: Report, at: datetime) -> Set[str]:
    """Insert the decisions that are not stored yet; returns their ids."""
    rows = [
        {
            "decision_id": entry.content.decision_id,
            "repeat_of": entry.content.repeat_of,
            "node_id": report.node_id,
            "sequence": entry.sequence,
            "agent_id": entry.content.agent_id,
            "outcome": entry.content.outcome,
            "dry_run": entry.content.dry_run,
            "decided_at": entry.content.decided_at,
            "received_at": at,
            "document": entry.content.written,
            **filters.columns(entry.content.document),
        }
        for entry in report.entries
        if isinstance(entry.content, Reported)
    ]
    return await insert_new(session, Decision, rows)


def _advance(log: DecisionLog, report: Report, new: Set[str]) -> Received:
    """Advance the log to the end of the report, and note what breaks the hash chain; `new` are ids of decisions.

    A repeated sequence with a new decision or outcome, or the last sequence with another hash, comes from another log
    with the same node id: a data folder was copied or restored from a backup.
    """
    received = Received()
    for entry in report.entries:
        is_new = isinstance(entry.content, Reported | Outcome) and entry.content.decision_id in new
        if entry.sequence <= log.sequence:
            forked = is_new or (entry.sequence == log.sequence and entry.hash != log.hash)
            received.repeats += not is_new
        else:
            skipped = entry.sequence - log.sequence - 1
            forked = not entry.intact or (not skipped and entry.previous_hash != log.hash)
            received.missing += skipped
            if isinstance(entry.content, Gap):
                received.missing += entry.content.unnumbered
            log.sequence, log.hash = entry.sequence, entry.hash
        if forked:
            received.breaks.append(entry.sequence)
    received.sequence = log.sequence
    return received
