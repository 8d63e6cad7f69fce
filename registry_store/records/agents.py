"""Agents: register, change, activate, suspend and retire them. Agents are never deleted."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field
from pdp.core.model import RecordKind, Status
from pdp.core.records import AGENT_BODY_KIND, CONFIGURATION, read_agent, read_configuration
from registry_store.alerts import causes
from registry_store.database.bulk import chunks
from registry_store.database.tables import Agent, AgentTag, AgentVersion
from registry_store.documents import Document, check_synced, read_values, to_json
from registry_store.errors import ConflictError, NotFoundError
from registry_store.journal import activity, revisions
from registry_store.journal.activity import Actor, Subject
from registry_store.records import versions

DEFAULTS: Document = {name: to_json(field.default) for name, field in CONFIGURATION.items()}
CHANGE_BODY: dict[str, Field] = CONFIGURATION | versions.NOTES
"""The fields of a request that changes an agent."""

ALLOWED_FROM = {
    Status.ACTIVE: {Status.DRAFT, Status.SUSPENDED},
    Status.SUSPENDED: {Status.ACTIVE},
    Status.RETIRED: {Status.DRAFT, Status.ACTIVE, Status.SUSPENDED},
}
ACTIVITY_OF = {Status.ACTIVE: "activated", Status.SUSPENDED: "suspended", Status.RETIRED: "retired"}


async def register(session: AsyncSession, body: Any, actor: Actor, *, activate: bool) -> Agent:
    """Adds an agent as a draft (active if `activate`), version 1.0.0; `ConflictError` if the id was ever used."""
    configuration = to_json(read_configuration(body))
    agent_id = configuration["agent_id"]
    if await session.get(Agent, agent_id) is not None:
        raise ConflictError(f"agent id `{agent_id}` is taken; ids are never reused")
    agent = Agent(
        agent_id=agent_id,
        status="active" if activate else "draft",
        agent_type=configuration["agent_type"],
        configuration=configuration,
        latest_minor=-1,
        activations=int(activate),
        activated_at=actor.at if activate else None,
        offline_minutes=_offline_minutes(configuration),
        revision=await revisions.advance(session, RecordKind.AGENT, agent_id, actor.at),
        created_at=actor.at,
        updated_at=actor.at,
    )
    versions.add(session, agent, versions.INITIAL_NOTE, actor)
    _check_compiles(agent)
    session.add(agent)
    await _add_tags(session, agent, configuration["tags"])
    described = f"registered as {agent.status}, version {agent.version}"
    await activity.append(
        session, actor, "registered", described, _subject(agent), new=configuration | {"status": agent.status}
    )
    return agent


async def get(session: AsyncSession, agent_id: str) -> Agent:
    """The agent; `NotFoundError` if it was never registered."""
    agent = await session.get(Agent, agent_id)
    if agent is None:
        raise NotFoundError(f"no agent `{agent_id}`")
    return agent


async def get_changeable(session: AsyncSession, agent_id: str) -> Agent:
    """The agent; `ConflictError` if it is retired, because retired agents cannot be changed."""
    agent = await get(session, agent_id)
    if agent.status == "retired":
        raise ConflictError(f"agent `{agent_id}` is retired")
    return agent


async def change(session: AsyncSession, agent: Agent, body: Any, actor: Actor) -> None:
    """Changes the fields in `body`; a change to a security-relevant field makes a version."""
    before = configuration_of(agent)
    after, notes = _merged(before, body, agent.agent_id)
    fields = versions.changed_fields(before, after)
    if not fields:
        return
    await _configure(session, agent, after, actor)
    if not versions.VERSIONED.isdisjoint(fields):
        versions.add(session, agent, notes or versions.default_note(fields), actor)
    await activity.append(
        session,
        actor,
        "updated",
        notes or versions.default_note(fields),
        _subject(agent),
        previous={name: before[name] for name in fields},
        new={name: after[name] for name in fields},
    )


async def rollback(session: AsyncSession, agent: Agent, body: Any, actor: Actor) -> None:
    """Restores a stored version and its configuration; does nothing if both are already active."""
    values = read_values(body, versions.ROLLBACK_BODY)
    target, left = values["target_version"], agent.version
    version = await versions.get(session, agent.agent_id, target)
    before, after = configuration_of(agent), _restorable(version)
    fields = versions.changed_fields(before, after)
    if left == target and not fields:
        return
    agent.version = target
    await _configure(session, agent, after, actor)
    await activity.append(
        session,
        actor,
        "rolled_back",
        values["reason"] or f"{left} → {target}",
        _subject(agent),
        previous={"version": left} | {name: before[name] for name in fields},
        new={"version": target} | {name: after[name] for name in fields},
    )


async def set_status(
    session: AsyncSession,
    agent: Agent,
    status: Status,
    reason: str,
    actor: Actor,
    *,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Changes the status; does nothing if it is the same, `ConflictError` if the change is not allowed.

    The log entry shows what stands `beside` the new status.
    """
    before = Status(agent.status)
    if before is status:
        return
    if before not in ALLOWED_FROM[status]:
        raise ConflictError(f"agent `{agent.agent_id}` is {before.value} and cannot become {status.value}")
    agent.status = status.value
    if status is Status.ACTIVE:
        agent.activations += 1
        agent.activated_at = actor.at
    await touch(session, agent, actor)
    await activity.append(
        session,
        actor,
        ACTIVITY_OF[status],
        reason or f"{before.value} → {status.value}",
        _subject(agent),
        previous={"status": before.value},
        new={"status": status.value, **(beside or {})},
    )
    if status is Status.SUSPENDED:
        await causes.suspended(session, agent.agent_id, reason, actor.name, actor.at)


async def set_status_of_all(
    session: AsyncSession, agent_ids: Sequence[str], before: Status, after: Status, *, reason: str, actor: Actor
) -> None:
    """Changes the status of agents that are all `before` to `after`, in one revision, with a log entry for each."""
    if not agent_ids:
        return
    revision = await revisions.advance_all(session, RecordKind.AGENT, agent_ids, actor.at)
    await activity.append_all(
        session,
        actor,
        ACTIVITY_OF[after],
        reason,
        (Subject("agent", agent_id, agent_id) for agent_id in agent_ids),
        previous={"status": before.value},
        new={"status": after.value},
    )
    if after is Status.SUSPENDED:
        await causes.all_suspended(session, agent_ids, reason, actor.name, actor.at)
    # What counted towards a suspension still does: this is no decision about each of the agents.
    activated = {"activated_at": actor.at} if after is Status.ACTIVE else {}
    values = {"status": after.value, "revision": revision, "updated_at": actor.at} | activated
    for chunk in chunks(agent_ids):
        await session.execute(update(Agent).where(Agent.agent_id.in_(chunk)).values(values))


async def touch(session: AsyncSession, agent: Agent, actor: Actor, lost_tags: Iterable[str] = ()) -> None:
    """Records that the agent changed in this transaction's revision."""
    agent.revision = await revisions.advance(session, RecordKind.AGENT, agent.agent_id, actor.at, lost_tags)
    agent.updated_at = actor.at


def configuration_of(agent: Agent) -> Document:
    """Every field that a caller may write; fields that are newer than the stored row have their defaults."""
    return DEFAULTS | agent.configuration


def document(agent: Agent) -> Document:
    """The agent in the form of the REST interface."""
    state = {
        "status": agent.status,
        "version": agent.version,
        "revision": agent.revision,
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
    }
    return configuration_of(agent) | Document(to_json(state))


def synced_document(agent: Agent, policies: Sequence[Document]) -> Document:
    """The agent in the form that sidecars receive and `pdp.core.records.read_agent` reads."""
    return configuration_of(agent) | {
        "status": agent.status,
        "version": agent.version,
        "activations": agent.activations,
        "policies": list(policies),
    }


async def _configure(session: AsyncSession, agent: Agent, after: Document, actor: Actor) -> None:
    before = configuration_of(agent)["tags"]
    agent.configuration = after
    agent.agent_type = after["agent_type"]
    agent.offline_minutes = _offline_minutes(after)
    _check_compiles(agent)
    await touch(session, agent, actor, set(before) - set(after["tags"]))
    await _replace_tags(session, agent, before, after["tags"])


def _offline_minutes(configuration: Document) -> int | None:
    minutes: int | None = configuration["auto_suspend_on_offline_minutes"]
    return minutes if configuration["auto_suspend_enabled"] else None


def _check_compiles(agent: Agent) -> None:
    # Without the policies: each was checked when it was written.
    check_synced(synced_document(agent, ()), read_agent)


def _restorable(version: AgentVersion) -> Document:
    try:
        return Document(to_json(read_configuration(DEFAULTS | version.configuration)))
    except InvalidRecordError as error:
        raise ConflictError(f"version `{versions.version_of(version.minor)}` is no longer valid: {error}") from None


def _merged(before: Mapping[str, Any], body: Any, agent_id: str) -> tuple[Document, str]:
    if not isinstance(body, Mapping):
        raise InvalidRecordError([Problem("", "the body is not an object")])
    problems = Problems()
    notes = CHANGE_BODY["version_notes"].kind.read(body.get("version_notes", ""), "version_notes", problems)
    if body.get("agent_id", agent_id) != agent_id:
        problems.append(Problem("agent_id", "cannot be changed"))
    merged = {**before, **body, "agent_id": agent_id}
    merged.pop("version_notes", None)
    after = AGENT_BODY_KIND.read(merged, "", problems)
    problems.raise_if_any()
    return to_json(after), notes


async def _add_tags(session: AsyncSession, agent: Agent, tags: Collection[str]) -> None:
    if not tags:
        return
    await session.flush()  # a tag refers to the agent's status and type as the database has them
    session.add_all(
        AgentTag(agent_id=agent.agent_id, tag=tag, status=agent.status, agent_type=agent.agent_type) for tag in tags
    )
    await session.flush()


async def _replace_tags(session: AsyncSession, agent: Agent, before: Iterable[str], after: Iterable[str]) -> None:
    gone = set(before) - set(after)
    if gone:
        await session.execute(delete(AgentTag).where(AgentTag.agent_id == agent.agent_id, AgentTag.tag.in_(gone)))
    await _add_tags(session, agent, set(after) - set(before))


def _subject(agent: Agent) -> Subject:
    return Subject("agent", agent.agent_id, agent.agent_id)
