"""Versions of a policy: its whole content after each change, readable also after the policy is removed."""

from collections.abc import Sequence

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.fields import quote
from registry_store.database.tables import Policy, PolicyVersion
from registry_store.errors import NotFoundError
from registry_store.journal.activity import Actor
from registry_store.records import versions

INITIAL_NOTE = "Initial version"


def add(session: AsyncSession, policy: Policy, minor: int, notes: str, actor: Actor) -> None:
    """Stores the policy's content as its version with this number, and activates it."""
    policy.version = versions.version_of(minor)
    session.add(
        PolicyVersion(
            policy_id=policy.policy_id,
            minor=minor,
            agent_id=policy.agent_id,
            policy_created_at=policy.created_at,
            version_notes=notes,
            configuration=policy.body,
            created_at=actor.at,
            created_by=actor.name,
        )
    )


async def next_minor(session: AsyncSession, policy_id: str) -> int:
    """The number after the highest that the policy ever used.

    A policy has no version yet if a store from before versions added it, which may run until it is restarted.
    """
    of_policy = PolicyVersion.policy_id == policy_id
    return (await session.scalar(select(func.max(PolicyVersion.minor)).where(of_policy)) or 0) + 1


async def page(
    session: AsyncSession, agent_id: str | None, policy_id: str, limit: int, offset: int
) -> tuple[Sequence[PolicyVersion], int]:
    """A page of the policy's versions, newest first and without configurations, and the total count."""
    owner = PolicyVersion.agent_id == agent_id if agent_id else PolicyVersion.agent_id.is_(None)
    return await versions.page(session, PolicyVersion, and_(PolicyVersion.policy_id == policy_id, owner), limit, offset)


async def get(session: AsyncSession, agent_id: str | None, policy_id: str, version: str) -> PolicyVersion:
    """The version with this name; `NotFoundError` if the owner never had this policy, or the policy this version."""
    minor = versions.minor_of(version)
    found = None if minor is None else await session.get(PolicyVersion, (policy_id, minor))
    if found is None or found.agent_id != agent_id:
        raise NotFoundError(f"no version {quote(version)} of policy {quote(policy_id)}")
    return found
