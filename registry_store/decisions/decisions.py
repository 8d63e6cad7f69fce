"""The decisions that sidecars report: each kept once, in a log that is followed by its hashes."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem
from registry_store.approvals import approvals
from registry_store.database.tables import Decision, DecisionLog
from registry_store.database.transactions import inserting
from registry_store.decisions import filters, usage
from registry_store.decisions.filters import Filter
from registry_store.decisions.reports import MAX_SEQUENCE, Gap, Report
from registry_store.decisions.reports import Decision as Reported
from registry_store.documents import instant
from registry_store.errors import NotFoundError
from registry_store.sync import nodes

MAX_COUNTED = 10_000
"""So many a list counts; it says whether there are more."""
MAX_FIRST = 2**40
"""The highest sequence that the first report of a sidecar may have: a thousand decisions a second for 35 years."""
MAX_AHEAD, MAX_AHEAD_PER_SECOND = 2**20, 2**17
"""How far a later one may run ahead of what is kept: so far, and more for each second since the last report.

A sidecar that had to give up records leaves a hole in its sequences, but only of what it can have decided meanwhile.
"""

ROWS_AT_ONCE = 100
"""Of one statement: the event loop makes ready no more than these in one turn."""


@dataclass(slots=True)
class Received:
    """What a report brought: `sequence` is the newest that is kept now of a log of this name."""

    sequence: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    """New decisions by outcome."""
    repeats: int = 0
    missing: int = 0
    breaks: list[int] = field(default_factory=list)
    """Sequences of the records that do not follow from what was kept before."""
    opened: list[str] = field(default_factory=list)
    """States of the approvals that were opened."""


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions, newest first; `total` counts up to `MAX_COUNTED`, and is `exact` where there are no more."""

    rows: Sequence[Decision]
    total: int
    exact: bool


async def receive(session: AsyncSession, report: Report, owner: str, at: datetime) -> Received:
    """Keep what is new of a report, count it, and open the approvals that it asks for.

    `owner` is the name of the key that it came with: `NotAllowedError` if the sidecar's node id is not that name's.
    `InvalidRecordError` where its sequences are too far ahead. Where it `asks` for any approvals, the session is one
    that `writing` gives.
    """
    log = await nodes.locked(session, report.node_id, at)
    nodes.assign(log, owner)
    _check_sequences(log, report, at)
    new = await _insert(session, report, at)
    by_id: dict[str, Reported] = {}
    for decision in report.decisions:
        by_id.setdefault(decision.decision_id, decision)
    kept = [decision for decision_id, decision in by_id.items() if decision_id in new]
    received = _follow(log, report, new)
    received.kept = Counter(decision.outcome for decision in kept)
    log.missing = min(log.missing + received.missing, MAX_SEQUENCE)
    log.breaks += len(received.breaks)
    log.updated_at = at
    await usage.count(session, kept)
    if asked := [decision.opens for decision in kept if decision.opens is not None]:
        opened = await approvals.open_requested(session, report.node_id, asked, at)
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
    """Of the logs of all sidecars: how many records are missing, and how many do not follow from those before."""
    sums = select(func.sum(DecisionLog.missing), func.sum(DecisionLog.breaks))
    missing, breaks = (await session.execute(sums)).one()
    return int(missing or 0), int(breaks or 0)


async def get(session: AsyncSession, decision_id: str) -> Decision:
    """The decision; `NotFoundError` if there is none of that id."""
    decision = await session.get(Decision, decision_id)
    if decision is None:
        raise NotFoundError(f"no decision `{decision_id}`")
    return decision


async def delete_before(session: AsyncSession, most: int, moment: datetime) -> int:
    """Delete at most so many of those that came in before, the oldest first; returns how many there were."""
    oldest = select(Decision.decision_id).where(Decision.received_at < moment).order_by(Decision.received_at)
    deleted = await session.execute(
        delete(Decision).where(Decision.decision_id.in_(oldest.limit(most))).returning(Decision.decision_id),
        execution_options={"synchronize_session": False},
    )
    return len(deleted.all())


async def forget_logs(session: AsyncSession, moment: datetime) -> None:
    """Forget the sidecars that have neither reported nor connected since."""
    unseen = or_(DecisionLog.seen_at.is_(None), DecisionLog.seen_at < moment)
    await session.execute(delete(DecisionLog).where(DecisionLog.updated_at < moment, unseen))


def document(decision: Decision) -> dict[str, Any]:
    """The decision as REST shows it: what the sidecar wrote, and how it came here."""
    came = {
        "repeat_of": decision.repeat_of,  # of which older sidecars say nothing
        "node_id": decision.node_id,
        "sequence": decision.sequence,
        "received_at": instant(decision.received_at),
    }
    return decision.document | came


def _check_sequences(log: DecisionLog, report: Report, at: datetime) -> None:
    """Raise `InvalidRecordError` where the sequences are so far ahead that few would be left for the sidecar."""
    seconds = max(0.0, (at - log.updated_at).total_seconds())
    bound = log.sequence + MAX_AHEAD + int(MAX_AHEAD_PER_SECOND * seconds) if log.sequence else MAX_FIRST
    if report.entries[-1].sequence <= bound:
        return
    index, entry = next((index, entry) for index, entry in enumerate(report.entries) if entry.sequence > bound)
    said = f"`{entry.sequence}` is too far ahead of `{log.sequence}`, up to which records are kept"
    raise InvalidRecordError([Problem(f"records[{index}].sequence", said)])


async def _insert(session: AsyncSession, report: Report, at: datetime) -> Set[str]:
    """Keep the decisions that are not kept yet; returns their ids."""
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
    adding = inserting(session, Decision).on_conflict_do_nothing().returning(Decision.decision_id)
    connection = await session.connection()
    added: set[str] = set()
    for first in range(0, len(rows), ROWS_AT_ONCE):
        added.update((await connection.execute(adding, rows[first : first + ROWS_AT_ONCE])).scalars())
    return added


def _follow(log: DecisionLog, report: Report, new: Set[str]) -> Received:
    """Bring the log to where the report ends, noting what does not follow.

    A repeat whose decision was not kept, or the last record with another hash, is of another log under the same name:
    that of a folder that was copied, or set back.
    """
    received = Received()
    for entry in report.entries:
        is_new = isinstance(entry.content, Reported) and entry.content.decision_id in new
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
