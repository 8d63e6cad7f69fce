"""Policies of agents, and policies of the organisation for the agents of a selector."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.kinds import ObjectOf
from pdp.core.model import RecordKind
from pdp.core.records import (
    APPLIES_TO,
    MAX_POLICIES,
    ORGANISATION_POLICY_BODY_KIND,
    POLICY_BODY,
    POLICY_BODY_KIND,
    read_organisation_policy,
    read_policy,
)
from registry_store.database import paging
from registry_store.database.tables import Policy, PolicyVersion
from registry_store.documents import Document, check_synced, synced_size, to_json
from registry_store.errors import ConflictError, NotFoundError
from registry_store.journal import activity, revisions
from registry_store.journal.activity import Actor, Subject
from registry_store.records import agents, policy_versions, versions

MAX_BYTES = 8 * 1024 * 1024
"""Maximum total size of the policies of one owner: a sidecar gets them in one message."""

BODY_OF_AGENT = POLICY_BODY
BODY_OF_ORGANISATION = POLICY_BODY | {"applies_to": APPLIES_TO}
REQUEST_OF_AGENT = BODY_OF_AGENT | versions.NOTES
REQUEST_OF_ORGANISATION = BODY_OF_ORGANISATION | versions.NOTES
"""The fields of a request that adds or changes a policy."""
_REQUEST_OF_AGENT_KIND = ObjectOf(REQUEST_OF_AGENT, POLICY_BODY_KIND.check)
_REQUEST_OF_ORGANISATION_KIND = ObjectOf(REQUEST_OF_ORGANISATION, ORGANISATION_POLICY_BODY_KIND.check)


async def add(session: AsyncSession, agent_id: str | None, body: Any, actor: Actor) -> Policy:
    """Adds a policy, version 1.0.0, to an agent, or to the organisation if `agent_id` is None.

    `ConflictError` if the name is taken.
    """
    values, notes = _read_request(agent_id, body)
    policy = Policy(policy_id=f"pol_{uuid4().hex}", agent_id=agent_id, created_at=actor.at, size=0)
    await _write(session, policy, values, actor)
    policy_versions.add(session, policy, 0, notes or policy_versions.INITIAL_NOTE, actor)
    session.add(policy)
    described = f"policy `{policy.policy_name}` added" + (f": {notes}" if notes else "")
    await activity.append(session, actor, "policy_added", described, _subject(policy), new=values)
    return policy


async def get(session: AsyncSession, agent_id: str | None, policy_id: str) -> Policy:
    """The policy of this owner; `NotFoundError` if the owner has no policy with this id."""
    policy = await find(session, agent_id, policy_id)
    if policy is None:
        raise NotFoundError(f"no policy `{policy_id}`" + (f" of agent `{agent_id}`" if agent_id else ""))
    return policy


async def find(session: AsyncSession, agent_id: str | None, policy_id: str) -> Policy | None:
    """The policy of this owner; None if it has no policy with this id, or no longer."""
    policy = await session.get(Policy, policy_id)
    return policy if policy is not None and policy.agent_id == agent_id else None


async def page(session: AsyncSession, agent_id: str | None, limit: int, offset: int) -> tuple[Sequence[Policy], int]:
    """A page of the owner's policies, in the order of evaluation, and the total count."""
    order = (Policy.priority, Policy.created_at, Policy.policy_id)
    return await paging.page(session, select(Policy).where(_owned(agent_id)).order_by(*order), limit, offset)


async def number(session: AsyncSession, agent_id: str | None) -> int:
    """How many policies the owner has."""
    return await session.scalar(select(func.count()).select_from(Policy).where(_owned(agent_id))) or 0


async def change(session: AsyncSession, policy: Policy, body: Any, actor: Actor) -> None:
    """Changes the fields in `body`, and makes a version if any value changes."""
    before = body_of(policy)
    if not isinstance(body, Mapping):
        raise InvalidRecordError([Problem("", "the body is not an object")])
    after, notes = _read_request(policy.agent_id, {**before, **body})
    fields = versions.changed_fields(before, after)
    if not fields:
        return
    await _write(session, policy, after, actor)
    minor = await policy_versions.next_minor(session, policy.policy_id)
    policy_versions.add(session, policy, minor, notes or versions.default_note(fields), actor)
    await activity.append(
        session,
        actor,
        "policy_updated",
        f"policy `{policy.policy_name}` updated: {notes or ', '.join(fields)}",
        _subject(policy),
        previous={name: before[name] for name in fields},
        new={name: after[name] for name in fields},
    )


async def rollback(
    session: AsyncSession, policy: Policy | None, version: PolicyVersion, reason: str, actor: Actor
) -> Policy:
    """Restores a stored version of the policy, also if it was removed (None); nothing if the version is active.

    `ConflictError` if the stored content is no longer valid, or its name is taken.
    """
    target = versions.version_of(version.minor)
    left, before = (policy.version, body_of(policy)) if policy else (None, Document())
    policy = policy or _removed(version)
    after = _restorable(version)
    fields = versions.changed_fields(before, after)
    if left == target and not fields:
        return policy
    await _write(session, policy, after, actor)
    policy.version = target
    session.add(policy)
    await activity.append(
        session,
        actor,
        "policy_rolled_back",
        reason or f"policy `{policy.policy_name}`: {left or 'removed'} → {target}",
        _subject(policy),
        previous={"version": left} | {name: before[name] for name in fields if name in before},
        new={"version": target} | {name: after[name] for name in fields},
    )
    return policy


async def remove(session: AsyncSession, policy: Policy, reason: str, actor: Actor) -> None:
    """Deletes the policy; its versions and the activity log keep its content."""
    await _touch(session, policy, actor)
    await session.delete(policy)
    described = reason or f"policy `{policy.policy_name}` removed"
    await activity.append(session, actor, "policy_removed", described, _subject(policy), previous=body_of(policy))


def body_of(policy: Policy) -> Document:
    """Every field that a caller may write; fields that are newer than the stored row have their defaults."""
    return with_defaults(policy.agent_id, policy.body)


def with_defaults(agent_id: str | None, body: Document) -> Document:
    """A stored body; fields that are newer than it have their defaults."""
    fields = BODY_OF_AGENT if agent_id else BODY_OF_ORGANISATION
    return {name: to_json(field.default) for name, field in fields.items()} | body


def document(policy: Policy) -> Document:
    """The policy in the form of the REST interface."""
    state = {
        "policy_id": policy.policy_id,
        "agent_id": policy.agent_id,
        "version": policy.version,
        "revision": policy.revision,
        "created_at": policy.created_at,
        "updated_at": policy.updated_at,
    }
    return body_of(policy) | Document(to_json(state))


def synced_document(policy: Policy) -> Document:
    """The policy in the form that sidecars receive."""
    return body_of(policy) | {"policy_id": policy.policy_id, "created_at": to_json(policy.created_at)}


def _read_request(agent_id: str | None, body: Any) -> tuple[Document, str]:
    """The content of the policy, and the note of the caller."""
    values = _read(_REQUEST_OF_AGENT_KIND if agent_id else _REQUEST_OF_ORGANISATION_KIND, body)
    notes: str = values.pop("version_notes")
    return values, notes


def _removed(version: PolicyVersion) -> Policy:
    """The row of a removed policy; with its time of creation it has its old place in the order of evaluation."""
    created_at = version.policy_created_at
    return Policy(policy_id=version.policy_id, agent_id=version.agent_id, created_at=created_at, size=0)


def _restorable(version: PolicyVersion) -> Document:
    kind = POLICY_BODY_KIND if version.agent_id else ORGANISATION_POLICY_BODY_KIND
    try:
        return _read(kind, with_defaults(version.agent_id, version.configuration))
    except InvalidRecordError as error:
        raise ConflictError(f"version `{versions.version_of(version.minor)}` is no longer valid: {error}") from None


def _read(kind: ObjectOf, body: Any) -> Document:
    problems = Problems()
    values = kind.read(body, "", problems)
    problems.raise_if_any()
    return Document(to_json(values))


def _owned(agent_id: str | None) -> Any:
    return Policy.agent_id == agent_id if agent_id else Policy.agent_id.is_(None)


async def _write(session: AsyncSession, policy: Policy, values: Document, actor: Actor) -> None:
    await _check_name(session, policy, values["policy_name"])
    _fill(policy, values)
    await _check_room(session, policy)
    await _touch(session, policy, actor)


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
