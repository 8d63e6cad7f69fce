"""The scope of a key: a sidecar key can be bound to agents or to tags; every other key is unrestricted.

Organisation policies and MCP servers are part of every scope.
"""

from collections.abc import Set

from sqlalchemy import Text, cast, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.fields import quote
from pdp.core.model import RecordKind
from registry_store.access.keys import Caller
from registry_store.database.tables import AgentTag, Change
from registry_store.errors import NotAllowedError
from registry_store.sync.subscriptions import Subscription


def narrowed(caller: Caller, wanted: Subscription) -> Subscription:
    """The requested subscription within the scope of the caller's key; `NotAllowedError` if it exceeds the scope.

    A key bound to tags may request agents by id. Because tags change, it gets an agent only while the agent has one of
    its tags.
    """
    if caller.agents is not None:
        if wanted.agent_ids is None:
            raise NotAllowedError("the key is bound to agents: it may subscribe only to these agents, by id")
        _check_within(caller.agents, wanted.agent_ids, "agent")
    if caller.tags is None:
        return wanted
    if wanted.agent_ids is not None:
        return Subscription(wanted.agent_ids, caller.tags)
    if wanted.tags is None:
        raise NotAllowedError("the key is bound to tags: it may not subscribe to all agents")
    _check_within(caller.tags, wanted.tags, "tag")
    return wanted


async def may_sync(session: AsyncSession, caller: Caller, agent_id: str) -> bool:
    """Whether the agent is in the scope of the caller's key now."""
    return not await outside(session, caller, {agent_id})


async def outside(session: AsyncSession, caller: Caller, agent_ids: Set[str]) -> Set[str]:
    """The agents that are outside the scope of the caller's key now."""
    if caller.agents is not None:
        return agent_ids - caller.agents
    if caller.tags is None:
        return frozenset()
    tagged = select(AgentTag.agent_id).where(AgentTag.agent_id.in_(agent_ids), AgentTag.tag.in_(caller.tags))
    return agent_ids - set(await session.scalars(tagged))


async def outside_recently(session: AsyncSession, caller: Caller, agent_ids: Set[str]) -> Set[str]:
    """The agents that are outside the scope now and were outside in all kept changes: reports may arrive late."""
    left = await outside(session, caller, agent_ids)
    if not left or caller.tags is None:
        return left
    lost = select(Change.record_id, Change.former_tags).where(
        Change.kind == RecordKind.AGENT, Change.record_id.in_(left), cast(Change.former_tags, Text) != "[]"
    )
    former = {agent_id for agent_id, tags in await session.execute(lost) if not caller.tags.isdisjoint(tags)}
    return left - former


def _check_within(scope: Set[str], wanted: Set[str], what: str) -> None:
    if beyond := sorted(wanted - scope):
        raise NotAllowedError(f"the key may not sync {what} {quote(beyond[0])}")
