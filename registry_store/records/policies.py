"""Policies of agents, and policies of the organisation for the agents of a selector."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.model import RecordKind
from pdp.core.records import (
    APPLIES_TO,
    MAX_POLICIES,
    POLICY_BODY,
    read_organisation_policy,
    read_organisation_policy_body,
    read_policy,
    read_policy_body,
)
from registry_store.database.tables import Policy
from registry_store.documents import Document, check_synced, synced_size, to_json
from registry_store.errors import ConflictError, NotFoundError
from registry_store.journal import activity, revisions
from registry_store.journal.activity import Actor, Subject
from registry_store.records import agents, versions

MAX_BYTES = 8 * 1024 * 1024
"""Maximum total size of the policies of one owner: a sidecar gets them in one message."""

BODY_OF_AGENT = POLICY_BODY
BODY_OF_ORGANISATION = POLICY_BODY | {"applies_to": APPLIES_TO}


async def add(session: AsyncSession, agent_id: str | None, body: Any, actor: Actor) -> Policy:
    """Adds a policy to an agent, or to the organisation if `agent_id` is None; `ConflictError` if the name is taken."""
    values = to_json(_reader(agent_id)(body))
    policy = Policy(policy_id=f"pol_{uuid4().hex}", agent_id=agent_id, created_at=actor.at, updated_at=actor.at, size=0)
    await _check_name(session, policy, values["policy_name"])
    _fill(policy, values)
    await _check_room(session, policy)
    await _touch(session, policy, actor)
    session.add(policy)
    await activity.append(
        session, actor, "policy_added", f"policy `{policy.policy_name}` added", _subject(policy), new=values
    )
    return policy


async def get(session: AsyncSession, agent_id: str | None, policy_id: str) -> Policy:
    """The policy of this owner; `NotFoundError` if the owner has no policy with this id."""
    policy = await session.get(Policy, policy_id)
    if policy is None or policy.agent_id != agent_id:
        raise NotFoundError(f"no policy `{policy_id}`" + (f" of agent `{agent_id}`" if agent_id else ""))
    return policy


async def page(session: AsyncSession, agent_id: str | None, limit: int, offset: int) -> tuple[Sequence[Policy], int]:
    """A page of the owner's policies, in the order of evaluation, and the total count."""
    total = await session.scalar(select(func.count()).select_from(Policy).where(_owned(agent_id)))
    rows = await session.scalars(
        select(Policy)
        .where(_owned(agent_id))
        .order_by(Policy.priority, Policy.created_at, Policy.policy_id)
        .limit(limit)
        .offset(offset)
    )
    return rows.all(), total or 0


async def change(session: AsyncSession, policy: Policy, body: Any, actor: Actor) -> None:
    """Changes the fields in `body`."""
    before = body_of(policy)
    if not isinstance(body, Mapping):
        raise InvalidRecordError([Problem("", "the body is not an object")])
    after = to_json(_reader(policy.agent_id)({**before, **body}))
    fields = versions.changed_fields(before, after)
    if not fields:
        return
    await _check_name(session, policy, after["policy_name"])
    _fill(policy, after)
    await _check_room(session, policy)
    await _touch(session, policy, actor)
    await activity.append(
        session,
        actor,
        "policy_updated",
        f"policy `{policy.policy_name}` updated: {', '.join(fields)}",
        _subject(policy),
        previous={name: before[name] for name in fields},
        new={name: after[name] for name in fields},
    )


async def remove(session: AsyncSession, policy: Policy, reason: str, actor: Actor) -> None:
    """Deletes the policy; the activity log keeps its content."""
    await _touch(session, policy, actor)
    await session.delete(policy)
    described = reason or f"policy `{policy.policy_name}` removed"
    await activity.append(session, actor, "policy_removed", described, _subject(policy), previous=body_of(policy))


def body_of(policy: Policy) -> Document:
    """Every field that a caller may write; fields that are newer than the stored row have their defaults."""
    fields = BODY_OF_AGENT if policy.agent_id else BODY_OF_ORGANISATION
    return {name: to_json(field.default) for name, field in fields.items()} | policy.body


def document(policy: Policy) -> Document:
    """The policy in the form of the REST interface."""
    state = {
        "policy_id": policy.policy_id,
        "agent_id": policy.agent_id,
        "revision": policy.revision,
        "created_at": policy.created_at,
        "updated_at": policy.updated_at,
    }
    return body_of(policy) | Document(to_json(state))


def synced_document(policy: Policy) -> Document:
    """The policy in the form that sidecars receive."""
    return body_of(policy) | {"policy_id": policy.policy_id, "created_at": to_json(policy.created_at)}


def _reader(agent_id: str | None) -> Callable[[Any], dict[str, Any]]:
    return read_policy_body if agent_id else read_organisation_policy_body


def _owned(agent_id: str | None) -> Any:
    return Policy.agent_id == agent_id if agent_id else Policy.agent_id.is_(None)


def _fill(policy: Policy, values: Document) -> None:
    policy.policy_name = values["policy_name"]
    policy.priority = values["priority"]
    policy.body = values
    policy.size = synced_size(values)
    check_synced(synced_document(policy), read_policy if policy.agent_id else read_organisation_policy)


async def _check_name(session: AsyncSession, policy: Policy, name: str) -> None:
    holder = await session.scalar(select(Policy.policy_id).where(_owned(policy.agent_id), Policy.policy_name == name))
    if holder not in (None, policy.policy_id):
        raise ConflictError(f"policy name `{name}` is taken by `{holder}`")


async def _check_room(session: AsyncSession, policy: Policy) -> None:
    count, size = (
        await session.execute(
            select(func.count(), func.coalesce(func.sum(Policy.size), 0)).where(
                _owned(policy.agent_id), Policy.policy_id != policy.policy_id
            )
        )
    ).one()
    if count >= MAX_POLICIES:
        raise ConflictError(f"there are already {count} policies; the maximum is {MAX_POLICIES}")
    if size + policy.size > MAX_BYTES:
        raise ConflictError(f"the policies together would be larger than {MAX_BYTES} bytes")


async def _touch(session: AsyncSession, policy: Policy, actor: Actor) -> None:
    if policy.agent_id:
        await agents.get_changeable(session, policy.agent_id)
        policy.revision = await revisions.advance(session, RecordKind.AGENT, policy.agent_id, actor.at)
    else:
        policy.revision = await revisions.advance(session, RecordKind.ORGANISATION_POLICY, policy.policy_id, actor.at)
    policy.updated_at = actor.at


def _subject(policy: Policy) -> Subject:
    return Subject("policy" if policy.agent_id else "organisation_policy", policy.policy_id, policy.agent_id)
