"""Emergency stops: suspend all active agents of a selector at once, and later activate exactly these."""

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.fields import Field
from pdp.core.kinds import Choice, Flag, ListOf, Text
from pdp.core.model import AgentType, Status
from pdp.core.records import PROSE, TAGS
from registry_store.database import paging
from registry_store.database.bulk import insert_all
from registry_store.database.tables import Agent, AgentTag, EmergencyStop, StoppedAgent
from registry_store.documents import Document, canonical, read_values, to_json
from registry_store.errors import NotFoundError
from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject
from registry_store.records import agents

SELECTOR: dict[str, Field] = {
    "agent_ids": Field(ListOf(AGENT_ID, 1000), (), about="Only these agents; empty: any"),
    "tags": Field(TAGS, (), about="Only agents with one of these tags; empty: any"),
    "agent_types": Field(ListOf(Choice(AgentType), 5), (), about="Only agents of one of these types; empty: any"),
    "all": Field(Flag(), False, about="Every agent; must be explicit, because an empty selector is rejected"),
}
STOP_BODY = SELECTOR | {"reason": Field(PROSE, "", about="Reason, kept in the activity log for each agent")}
RELEASE_BODY: dict[str, Field] = {
    "stop_id": Field(Text(64, 1), "", required=True, about="Id of the stop to release"),
    "reason": Field(PROSE, "", about="Reason, kept in the activity log for each agent"),
}

IN_FORCE = EmergencyStop.released_at.is_(None)


async def stop(session: AsyncSession, body: Any, actor: Actor) -> tuple[EmergencyStop, Document]:
    """Suspends every active agent of the selector; also returns the effects as a document.

    If the selector already has a stop in force, that stop is extended to agents that became active since. An agent that
    another stop keeps suspended is added to this stop too, so that releasing one of them does not activate it.
    """
    values = read_values(body, STOP_BODY)
    _check_selector(values)
    stopped, is_new = await _in_force(session, values, actor)
    active = await _matching(session, values, Agent.status == Status.ACTIVE.value)
    kept = await _matching(session, values, Agent.status == Status.SUSPENDED.value, _kept(Agent.agent_id))
    own = set(await _agent_ids(session, stopped))
    described = f"emergency stop `{stopped.stop_id}`" + (f": {values['reason']}" if values["reason"] else "")
    await agents.set_status_of_all(session, active, Status.ACTIVE, Status.SUSPENDED, reason=described, actor=actor)
    added = [agent_id for agent_id in (*active, *kept) if agent_id not in own]
    await insert_all(session, StoppedAgent, {"stop_id": stopped.stop_id}, ({"agent_id": one} for one in added))
    if is_new or added:
        new = {"selector": stopped.selector, "suspended": len(active)}
        await activity.append(session, actor, "emergency_stop", described, _subject(stopped), new=new)
    unknown = await _unknown(session, values["agent_ids"])
    return stopped, {"suspended": len(active), "unknown_agent_ids": unknown}


async def release(session: AsyncSession, body: Any, actor: Actor) -> tuple[EmergencyStop, Document]:
    """Activates the agents of the stop, except those that a person or another stop keeps suspended."""
    values = read_values(body, RELEASE_BODY)
    stopped = await get(session, values["stop_id"])
    if stopped.released_at is not None:
        return stopped, {"activated": 0}
    stopped.released_at, stopped.released_by = actor.at, actor.name
    await session.flush()
    held = aliased(StoppedAgent)
    activated = await _ids(
        session,
        Agent.status == Status.SUSPENDED.value,
        exists().where(held.stop_id == stopped.stop_id, held.agent_id == Agent.agent_id),
        ~_kept(Agent.agent_id),
    )
    described = f"emergency stop `{stopped.stop_id}` released" + (f": {values['reason']}" if values["reason"] else "")
    await agents.set_status_of_all(session, activated, Status.SUSPENDED, Status.ACTIVE, reason=described, actor=actor)
    await activity.append(
        session,
        actor,
        "emergency_stop_released",
        described,
        _subject(stopped),
        previous={"released_at": None},
        new={"released_at": actor.at, "activated": len(activated)},
    )
    return stopped, {"activated": len(activated)}


async def remove_agent(session: AsyncSession, agent_id: str, actor: Actor) -> None:
    """Removes the agent from all stops in force, after a person has set its status: no release changes it any more."""
    in_force = select(EmergencyStop.stop_id).where(IN_FORCE)
    gone = await session.scalars(
        delete(StoppedAgent)
        .where(StoppedAgent.agent_id == agent_id, StoppedAgent.stop_id.in_(in_force))
        .returning(StoppedAgent.stop_id)
    )
    for stop_id in sorted(gone):
        described = f"agent `{agent_id}` left emergency stop `{stop_id}`, whose release will not change its status"
        subject = Subject("emergency_stop", stop_id, agent_id)
        await activity.append(session, actor, "emergency_stop_left", described, subject)


async def get(session: AsyncSession, stop_id: str) -> EmergencyStop:
    """The stop; `NotFoundError` if the id is unknown."""
    stopped = await session.get(EmergencyStop, stop_id)
    if stopped is None:
        raise NotFoundError(f"no emergency stop `{stop_id}`")
    return stopped


async def page(session: AsyncSession, limit: int, offset: int) -> tuple[list[Document], int]:
    """A page of stops, those in force first, then the newest, and the total count."""
    order = (EmergencyStop.released_at.is_not(None), EmergencyStop.created_at.desc(), EmergencyStop.stop_id)
    rows, total = await paging.page(session, select(EmergencyStop).order_by(*order), limit, offset)
    counts = await _counts(session, [row.stop_id for row in rows])
    return [document(row, counts.get(row.stop_id, 0)) for row in rows], total


async def agents_of(session: AsyncSession, stop_id: str, limit: int, offset: int) -> tuple[Sequence[str], int]:
    """A page of the ids of the agents in the stop, and the total count."""
    ids = select(StoppedAgent.agent_id).where(StoppedAgent.stop_id == stop_id).order_by(StoppedAgent.agent_id)
    rows = await session.scalars(ids.limit(limit).offset(offset))
    return rows.all(), (await _counts(session, [stop_id])).get(stop_id, 0)


def document(stopped: EmergencyStop, count: int) -> Document:
    """The stop in the form of the REST interface; `count` is the number of its agents."""
    return Document(
        to_json(
            {
                "stop_id": stopped.stop_id,
                "selector": stopped.selector,
                "reason": stopped.reason,
                "agent_count": count,
                "created_at": stopped.created_at,
                "created_by": stopped.created_by,
                "released_at": stopped.released_at,
                "released_by": stopped.released_by,
            }
        )
    )


async def _in_force(session: AsyncSession, values: dict[str, Any], actor: Actor) -> tuple[EmergencyStop, bool]:
    selector = {name: sorted(part) if name != "all" else part for name, part in to_json(_selector(values)).items()}
    digest = hashlib.sha256(canonical(selector).encode()).hexdigest()
    found = await session.scalar(select(EmergencyStop).where(EmergencyStop.selector_hash == digest, IN_FORCE))
    if found is not None:
        return found, False
    made = EmergencyStop(
        stop_id=f"stop_{uuid4().hex}",
        selector=selector,
        selector_hash=digest,
        reason=values["reason"],
        created_at=actor.at,
        created_by=actor.name,
    )
    session.add(made)
    await session.flush()
    return made, True


async def _matching(session: AsyncSession, values: dict[str, Any], *conditions: ColumnElement[bool]) -> Sequence[str]:
    selected = list(conditions)
    if values["agent_ids"]:
        selected.append(Agent.agent_id.in_(values["agent_ids"]))
    if values["tags"]:
        tagged = AgentTag.tag.in_(values["tags"])
        selected.append(exists().where(AgentTag.agent_id == Agent.agent_id, tagged))
    if values["agent_types"]:
        selected.append(Agent.agent_type.in_(to_json(values["agent_types"])))
    return await _ids(session, *selected)


async def _ids(session: AsyncSession, *conditions: ColumnElement[bool]) -> Sequence[str]:
    return (await session.scalars(select(Agent.agent_id).where(*conditions).order_by(Agent.agent_id))).all()


async def _unknown(session: AsyncSession, agent_ids: Sequence[str]) -> list[str]:
    known = set(await _ids(session, Agent.agent_id.in_(agent_ids))) if agent_ids else set()
    return [agent_id for agent_id in agent_ids if agent_id not in known]


async def _agent_ids(session: AsyncSession, stopped: EmergencyStop) -> Sequence[str]:
    ids = select(StoppedAgent.agent_id).where(StoppedAgent.stop_id == stopped.stop_id)
    return (await session.scalars(ids)).all()


async def _counts(session: AsyncSession, stop_ids: Sequence[str]) -> dict[str, int]:
    counted = (
        select(StoppedAgent.stop_id, func.count().label("number"))
        .where(StoppedAgent.stop_id.in_(stop_ids))
        .group_by(StoppedAgent.stop_id)
    )
    return {row.stop_id: row.number for row in await session.execute(counted)}


def _kept(agent_id: Any) -> ColumnElement[bool]:
    """Whether a stop in force keeps the agent suspended."""
    in_force = EmergencyStop.stop_id == StoppedAgent.stop_id
    return exists().where(StoppedAgent.agent_id == agent_id, in_force, IN_FORCE)


def _selector(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in SELECTOR}


def _check_selector(values: dict[str, Any]) -> None:
    narrowed = any(values[name] for name in ("agent_ids", "tags", "agent_types"))
    if values["all"] and narrowed:
        raise InvalidRecordError([Problem("all", "cannot be combined with agent_ids, tags or agent_types")])
    if not values["all"] and not narrowed:
        raise InvalidRecordError(
            [Problem("", "the selector is empty: give agent_ids, tags, agent_types, or `all`: true")]
        )


def _subject(stopped: EmergencyStop) -> Subject:
    return Subject("emergency_stop", stopped.stop_id)
