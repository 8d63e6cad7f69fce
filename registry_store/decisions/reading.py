"""Decisions as people read them: pages of a list, and single ones, with the documents of their records."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.log_format import batches as log_format
from pdp.log_format import documents
from registry_store.database.bulk import chunks
from registry_store.database.decision_tables import Decision, DecisionBatch, DecisionLog
from registry_store.database.decision_tables import Outcome as OutcomeRow
from registry_store.decisions import batches, filters, outcomes
from registry_store.decisions.filters import Filter
from registry_store.decisions.reports import MAX_MESSAGE_BYTES
from registry_store.documents import Document, instant
from registry_store.errors import NotFoundError

logger = logging.getLogger(__name__)

MAX_COUNTED = 10_000
"""A list counts up to this number, and reports whether there are more."""
BATCHES_PER_QUERY = 20
"""Contents of batches that are in memory at once: at most 4 MiB each, and mostly some 10 KiB."""


class Stored(NamedTuple):
    """A decision, and its document: what its sidecar wrote."""

    row: Decision
    node_id: str
    sequence: int
    received_at: datetime
    document: Document


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions, newest first; `total` counts up to `MAX_COUNTED`, and is `exact` if there are no more."""

    rows: Sequence[Stored]
    total: int
    exact: bool


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> Page:
    """A page of decisions."""
    conditions = list(filters.conditions(wanted))
    found = select(Decision.decision_id).where(*conditions).limit(MAX_COUNTED + 1).subquery()
    total = await session.scalar(select(func.count()).select_from(found)) or 0
    newest_first = _PLACED.where(*conditions).order_by(Decision.decision_id.desc())
    rows = await _stored(session, newest_first.limit(limit).offset(offset))
    return Page(rows, min(total, MAX_COUNTED), total <= MAX_COUNTED)


async def get(session: AsyncSession, decision_id: str) -> Stored:
    """The decision with this id; `NotFoundError` if there is none."""
    found = await _stored(session, _PLACED.where(Decision.decision_id == decision_id))
    if not found:
        raise NotFoundError(f"no decision `{decision_id}`")
    return found[0]


async def faults(session: AsyncSession) -> tuple[int, int]:
    """The number of missing records, and of batches that break the hash chain, in the logs of all sidecars."""
    sums = select(func.sum(DecisionLog.missing), func.sum(DecisionLog.breaks))
    missing, breaks = (await session.execute(sums)).one()
    return int(missing or 0), int(breaks or 0)


def document(stored: Stored, outcome: OutcomeRow | None) -> Document:
    """The decision as REST shows it: the sidecar's document, how its action ended, and where it was received."""
    origin = {
        "repeat_of": stored.row.repeat_of,  # older sidecars do not send it
        "node_id": stored.node_id,
        "sequence": stored.sequence,
        "received_at": instant(stored.received_at),
        "outcome": outcomes.document(outcome),
    }
    return stored.document | origin


async def _stored(session: AsyncSession, query: Select[Decision, str, int, datetime]) -> list[Stored]:
    """The decisions of a query for `_PLACED`."""
    found = (await session.execute(query)).all()
    places: dict[int, list[int]] = {}
    for row, *_ in found:
        if row.batch_id is not None and row.position is not None:
            places.setdefault(row.batch_id, []).append(row.position)
    made = await _documents(session, places)
    return [
        Stored(
            row, node_id, sequence, received_at, row.document or made.get((row.batch_id, row.position)) or _rest(row)
        )
        for row, node_id, sequence, received_at in found
    ]


async def _documents(
    session: AsyncSession, places: Mapping[int, Iterable[int]]
) -> dict[tuple[int | None, int | None], Document]:
    """The documents of records by batch and position."""
    made: dict[tuple[int | None, int | None], Document] = {}
    for batch_ids in chunks(places, BATCHES_PER_QUERY):
        wanted = select(DecisionBatch.batch_id, DecisionBatch.content).where(DecisionBatch.batch_id.in_(batch_ids))
        contents = [(batch_id, content) for batch_id, content in await session.execute(wanted)]
        made |= await asyncio.to_thread(_read, contents, places)  # a batch is parsed for a millisecond
    return made


def _read(
    contents: Iterable[tuple[int, bytes]], places: Mapping[int, Iterable[int]]
) -> dict[tuple[int | None, int | None], Document]:
    made: dict[tuple[int | None, int | None], Document] = {}
    for batch_id, content in contents:
        try:
            records = log_format.opened(batches.unpacked(content, MAX_MESSAGE_BYTES)).records
            for position in places[batch_id]:
                made[batch_id, position] = documents.document(records[position])
        except (ValueError, IndexError) as error:
            logger.critical("a batch of decisions was changed: %s; run `registry-store verify-decisions`", error)
    return made


def _rest(row: Decision) -> Document:
    """What is left of a decision whose record cannot be read."""
    return {
        "decision_id": row.decision_id,
        "decided_at": instant(row.decided_at),
        "dry_run": row.dry_run,
        "action": {"agent_id": row.agent_id, "tool": row.tool},
        "answer": {"outcome": row.outcome, "reason": row.reason},
    }


_PLACED = select(
    Decision,
    func.coalesce(DecisionBatch.node_id, Decision.node_id),
    func.coalesce(DecisionBatch.first_sequence + Decision.position, Decision.sequence),
    func.coalesce(DecisionBatch.received_at, Decision.received_at),
).outerjoin(DecisionBatch, DecisionBatch.batch_id == Decision.batch_id)
