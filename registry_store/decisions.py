"""The decisions that sidecars report: each kept once, in a log that is followed by its hashes."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store import approvals, decision_ids, usage
from registry_store.database import inserting
from registry_store.decision_reports import MOST_SEQUENCE, Gap, Report
from registry_store.decision_reports import Decision as Reported
from registry_store.documents import instant
from registry_store.errors import NotFound
from registry_store.tables import Decision, DecisionLog

GENESIS = "0" * 64
MOST_COUNTED = 10_000
"""So many a list counts; it says whether there are more."""


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
class Filter:
    """Which decisions a list shows; None: any. `since` is included, `until` and `before` (a decision id) are not."""

    agent_id: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions, newest first; `total` counts up to `MOST_COUNTED`, and is `exact` where there are no more."""

    rows: Sequence[Decision]
    total: int
    exact: bool


async def receive(session: AsyncSession, report: Report, at: datetime) -> Received:
    """Keep what is new of a report, count it, and open the approvals that it asks for.

    Where it `asks` for any, the session is one that `writing` gives.
    """
    log = await _locked(session, report.node_id, at)
    new = await _insert(session, report, at)
    by_id: dict[str, Reported] = {}
    for decision in report.decisions:
        by_id.setdefault(decision.decision_id, decision)
    kept = [decision for decision_id, decision in by_id.items() if decision_id in new]
    received = _follow(log, report, new)
    received.kept = Counter(decision.outcome for decision in kept)
    log.missing = min(log.missing + received.missing, MOST_SEQUENCE)
    log.breaks += len(received.breaks)
    log.updated_at = at
    await usage.count(session, kept)
    if asked := [decision.opens for decision in kept if decision.opens is not None]:
        opened = await approvals.open_requested(session, report.node_id, asked, at)
        received.opened = [approval.status for approval in opened]
    return received


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> Page:
    """A page of decisions."""
    conditions = _conditions(wanted)
    found = select(Decision.decision_id).where(*conditions).limit(MOST_COUNTED + 1).subquery()
    total = await session.scalar(select(func.count()).select_from(found)) or 0
    newest_first = select(Decision).where(*conditions).order_by(Decision.decision_id.desc())
    rows = (await session.scalars(newest_first.limit(limit).offset(offset))).all()
    return Page(rows, min(total, MOST_COUNTED), total <= MOST_COUNTED)


async def faults(session: AsyncSession) -> tuple[int, int]:
    """Of the logs of all sidecars: how many records are missing, and how many do not follow from those before."""
    sums = select(func.sum(DecisionLog.missing), func.sum(DecisionLog.breaks))
    missing, breaks = (await session.execute(sums)).one()
    return int(missing or 0), int(breaks or 0)


async def get(session: AsyncSession, decision_id: str) -> Decision:
    """The decision; `NotFound` if there is none of that id."""
    decision = await session.get(Decision, decision_id)
    if decision is None:
        raise NotFound(f"no decision `{decision_id}`")
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
    """Forget the sidecars that have reported nothing since."""
    await session.execute(delete(DecisionLog).where(DecisionLog.updated_at < moment))


def document(decision: Decision) -> dict[str, Any]:
    """The decision as REST shows it: what the sidecar wrote, and how it came here."""
    came = {
        "node_id": decision.node_id,
        "sequence": decision.sequence,
        "received_at": instant(decision.received_at),
    }
    return decision.document | came


async def _locked(session: AsyncSession, node_id: str, at: datetime) -> DecisionLog:
    """The sidecar's log; whoever else receives of it waits until this transaction ends."""
    wanted = select(DecisionLog).where(DecisionLog.node_id == node_id).with_for_update()
    found = await session.scalar(wanted)
    if found is None:
        start = {"node_id": node_id, "sequence": 0, "hash": GENESIS, "missing": 0, "breaks": 0, "updated_at": at}
        await (await session.connection()).execute(inserting(session, DecisionLog).on_conflict_do_nothing(), [start])
        found = (await session.scalars(wanted)).one()
    return found


async def _insert(session: AsyncSession, report: Report, at: datetime) -> Set[str]:
    """Keep the decisions that are not kept yet; returns their ids."""
    rows = [
        {
            "decision_id": entry.content.decision_id,
            "node_id": report.node_id,
            "sequence": entry.sequence,
            "agent_id": entry.content.agent_id,
            "outcome": entry.content.outcome,
            "dry_run": entry.content.dry_run,
            "decided_at": entry.content.decided_at,
            "received_at": at,
            "document": entry.content.document,
        }
        for entry in report.entries
        if isinstance(entry.content, Reported)
    ]
    if not rows:
        return frozenset()
    adding = inserting(session, Decision).on_conflict_do_nothing().returning(Decision.decision_id)
    return frozenset((await (await session.connection()).execute(adding, rows)).scalars())


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


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.agent_id is not None:
        found.append(Decision.agent_id == wanted.agent_id)
    if wanted.outcome is not None:
        found.append(Decision.outcome == wanted.outcome)
    if wanted.since is not None:
        found.append(Decision.decision_id >= decision_ids.first(wanted.since))
    if wanted.until is not None:
        found.append(Decision.decision_id < decision_ids.first(wanted.until))
    if wanted.before is not None:
        found.append(Decision.decision_id < wanted.before)
    return found
