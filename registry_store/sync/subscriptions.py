"""Subscriptions of sidecars, and the records that each sees."""

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import RecordKind
from registry_store.database.tables import Agent, AgentTag, Change, McpServer, Policy
from registry_store.documents import compact
from registry_store.journal.revisions import Touched
from registry_store.records import agents, mcp_servers, policies

PAGE = 500
DELETED = b""


@dataclass(frozen=True, slots=True)
class Record:
    """The whole state of a record as sidecars get it; an empty document if the record was deleted."""

    kind: RecordKind
    id: str
    document: bytes
    tags: frozenset[str] = frozenset()
    former_tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Subscription:
    """Agents by id, by tag, by both, or all (both None); organisation policies and MCP servers always belong to it."""

    agent_ids: frozenset[str] | None = None
    tags: frozenset[str] | None = None

    @property
    def is_narrowed(self) -> bool:
        """Whether a key narrowed it: a sidecar itself requests ids or tags, never both."""
        return self.agent_ids is not None and self.tags is not None

    def view(self, record: Record) -> bytes | None:
        """The document to send for a changed record, `DELETED`, or None if nothing is sent."""
        if record.kind is not RecordKind.AGENT:
            return record.document
        if self.agent_ids is not None and record.id not in self.agent_ids:
            return None
        if self.tags is None or not self.tags.isdisjoint(record.tags):
            return record.document
        return None if self.tags.isdisjoint(record.former_tags) else DELETED

    def change_condition(self) -> ColumnElement[bool] | None:
        """A condition for the rows of `Change` that may be relevant; the view decides exactly."""
        if self.agent_ids is None:
            return None
        return or_(Change.kind != RecordKind.AGENT, Change.record_id.in_(self.agent_ids))

    def covers(self, agent_id: str, tags: Collection[str]) -> bool:
        """Whether it includes an agent with this id and these tags."""
        if self.agent_ids is not None and agent_id not in self.agent_ids:
            return False
        return self.tags is None or not self.tags.isdisjoint(tags)

    def describe(self) -> dict[str, Any]:
        """The subscription as REST shows it."""
        parts = {"agents": self.agent_ids, "tags": self.tags}
        return {name: sorted(part) for name, part in parts.items() if part is not None} or {"all": True}


async def count(session: AsyncSession, subscription: Subscription) -> int:
    """The number of records in its snapshot."""
    counts = [
        await session.scalar(select(func.count()).select_from(Agent).where(_of_agents(subscription))),
        await session.scalar(select(func.count()).select_from(Policy).where(Policy.agent_id.is_(None))),
        await session.scalar(select(func.count()).select_from(McpServer)),
    ]
    return sum(number or 0 for number in counts)


async def snapshot(session: AsyncSession, subscription: Subscription) -> AsyncGenerator[Record]:
    """Every record of the subscription, read in pages to limit memory."""
    for record in await _organisation(session, None):
        yield record
    for record in await _servers(session, None):
        yield record
    last = ""
    while page := await _agents(session, and_(_of_agents(subscription), Agent.agent_id > last)):
        for record in page:
            yield record
        last = page[-1].id
        session.expunge_all()


async def records(session: AsyncSession, touched: Sequence[Touched]) -> list[Record]:
    """The current state of the changed records; a deleted record has the document `DELETED`."""
    ids: dict[RecordKind, list[str]] = {kind: [] for kind in RecordKind}
    for one in touched:
        ids[one.kind].append(one.record_id)
    found = [
        *await _organisation(session, ids[RecordKind.ORGANISATION_POLICY]),
        *await _servers(session, ids[RecordKind.MCP_SERVER]),
        *await _named_agents(session, ids[RecordKind.AGENT]),
    ]
    by_key = {(record.kind, record.id): record for record in found}
    return [
        _with_former(by_key.get((one.kind, one.record_id), Record(one.kind, one.record_id, DELETED)), one)
        for one in touched
    ]


async def among(
    session: AsyncSession, subscription: Subscription, keys: Collection[tuple[RecordKind, str]]
) -> set[tuple[RecordKind, str]]:
    """Those of these records that exist and that the subscription includes."""
    ids = {kind: [name for each, name in keys if each is kind] for kind in RecordKind}
    agent_ids, policy_ids, names = (
        ids[kind] for kind in (RecordKind.AGENT, RecordKind.ORGANISATION_POLICY, RecordKind.MCP_SERVER)
    )
    queries = {
        RecordKind.AGENT: select(Agent.agent_id).where(_of_agents(subscription), Agent.agent_id.in_(agent_ids)),
        RecordKind.ORGANISATION_POLICY: select(Policy.policy_id).where(
            Policy.agent_id.is_(None), Policy.policy_id.in_(policy_ids)
        ),
        RecordKind.MCP_SERVER: select(McpServer.server_name).where(McpServer.server_name.in_(names)),
    }
    return {(kind, name) for kind, query in queries.items() if ids[kind] for name in await session.scalars(query)}


def _with_former(record: Record, touched: Touched) -> Record:
    return Record(record.kind, record.id, record.document, record.tags, touched.former_tags)


def _of_agents(subscription: Subscription) -> Any:
    condition = Agent.agent_id != ""
    if subscription.agent_ids is not None:
        condition = Agent.agent_id.in_(subscription.agent_ids)
    if subscription.tags is not None:
        tagged = exists().where(AgentTag.agent_id == Agent.agent_id, AgentTag.tag.in_(subscription.tags))
        condition = and_(condition, tagged)
    return condition


async def _named_agents(session: AsyncSession, agent_ids: Sequence[str]) -> list[Record]:
    found: list[Record] = []
    for start in range(0, len(agent_ids), PAGE):
        found += await _agents(session, Agent.agent_id.in_(agent_ids[start : start + PAGE]))
    return found


async def _agents(session: AsyncSession, condition: Any) -> list[Record]:
    rows = (await session.scalars(select(Agent).where(condition).order_by(Agent.agent_id).limit(PAGE))).all()
    owned = await _policies_of(session, [row.agent_id for row in rows])
    return [
        Record(
            RecordKind.AGENT,
            row.agent_id,
            compact(agents.synced_document(row, owned.get(row.agent_id, []))),
            frozenset(row.configuration.get("tags", ())),
        )
        for row in rows
    ]


async def _policies_of(session: AsyncSession, agent_ids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    if not agent_ids:
        return {}
    rows = await session.scalars(
        select(Policy)
        .where(Policy.agent_id.in_(agent_ids))
        .order_by(Policy.agent_id, Policy.priority, Policy.created_at, Policy.policy_id)
    )
    return {
        str(agent_id): [policies.synced_document(row) for row in group]
        for agent_id, group in groupby(rows, lambda row: row.agent_id)
    }


async def _organisation(session: AsyncSession, policy_ids: Iterable[str] | None) -> list[Record]:
    statement = select(Policy).where(Policy.agent_id.is_(None)).order_by(Policy.policy_id)
    if policy_ids is not None:
        statement = statement.where(Policy.policy_id.in_(policy_ids))
    rows = await session.scalars(statement)
    return [
        Record(RecordKind.ORGANISATION_POLICY, row.policy_id, compact(policies.synced_document(row))) for row in rows
    ]


async def _servers(session: AsyncSession, names: Iterable[str] | None) -> list[Record]:
    statement = select(McpServer).order_by(McpServer.server_name)
    if names is not None:
        statement = statement.where(McpServer.server_name.in_(names))
    rows = await session.scalars(statement)
    return [Record(RecordKind.MCP_SERVER, row.server_name, compact(mcp_servers.body_of(row))) for row in rows]
