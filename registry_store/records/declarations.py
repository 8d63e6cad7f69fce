"""Declarations: an agent with its policies as one document, as in a folder of YAML files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import Problem, Problems
from pdp.core.fields import Field, quote
from pdp.core.kinds import Choice, ListOf, ObjectOf, OrNull
from pdp.core.model import Status
from pdp.core.records import AGENT_BODY_KIND, CONFIGURATION, MAX_POLICIES, POLICY_BODY_KIND, PROSE
from registry_store.database import paging
from registry_store.database.tables import Agent, Policy
from registry_store.documents import Document, to_json
from registry_store.errors import ConflictError
from registry_store.journal.activity import Actor
from registry_store.records import agents, policies

MAX_PAGE_BYTES = 16 * 1024 * 1024


class Declared(Enum):
    """The statuses that a declaration may set; it cannot retire an agent."""

    DRAFT = "draft"
    ACTIVE = "active"
    SUSPENDED = "suspended"


OWN_FIELDS: dict[str, Field] = {
    "status": Field(OrNull(Choice(Declared)), None, about="null: keep it; a new agent as registration sets it"),
    "policies": Field(ListOf(POLICY_BODY_KIND, MAX_POLICIES, distinct=False), (), about="All policies of the agent"),
}
NOTES: dict[str, Field] = {"version_notes": Field(PROSE, "", about="Reason of the change; note of the new version")}
BODY: dict[str, Field] = CONFIGURATION | OWN_FIELDS | NOTES
"""The fields that a caller may write; missing fields have their defaults, except `status`."""
_KIND = ObjectOf(BODY, AGENT_BODY_KIND.check)


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declaration with every field of the configuration and of each policy."""

    configuration: Document
    status: Status | None
    policies: Sequence[Document]
    notes: str = ""

    @property
    def agent_id(self) -> str:
        """The id of the declared agent."""
        agent_id: str = self.configuration["agent_id"]
        return agent_id


def read(body: Any) -> Declaration:
    """Reads a declaration; `InvalidRecordError` with every problem."""
    problems = Problems()
    values = _KIND.read(body, "", problems)
    _check_names(values["policies"], problems)
    problems.raise_if_any()
    configuration = to_json({name: values[name] for name in CONFIGURATION})
    status = values["status"]
    return Declaration(
        configuration, status and Status[status.name], to_json(values["policies"]), values["version_notes"]
    )


async def apply(
    session: AsyncSession, agent: Agent | None, wanted: Declaration, actor: Actor, *, activate: bool
) -> Agent:
    """Applies a declaration; registers the agent if it is None, with `activate` as for `agents.register`.

    `ConflictError` if the change is not allowed: to a retired agent, back to a draft, or out of a suspension.
    """
    if agent is None:
        own_status = wanted.status is None and activate
        agent = await agents.register(session, wanted.configuration, actor, activate=own_status)
    else:
        await agents.get_changeable(session, agent.agent_id)
        await agents.change(session, agent, wanted.configuration | {"version_notes": wanted.notes}, actor)
    await _apply_policies(session, agent.agent_id, wanted, actor)
    await _apply_status(session, agent, wanted, actor)
    return agent


async def document(session: AsyncSession, agent: Agent) -> Document:
    """The agent as a declaration for `read`, with every field."""
    return (await _documents(session, [agent]))[0]


async def page(session: AsyncSession, limit: int, offset: int) -> tuple[Sequence[Document], int]:
    """A page of declarations of agents that are not retired, by id, and the total count.

    The page has fewer than `limit` items if its policies would be larger than `MAX_PAGE_BYTES`.
    """
    living = Agent.status != Status.RETIRED.value
    rows, total = await paging.page(session, select(Agent).where(living).order_by(Agent.agent_id), limit, offset)
    return await _documents(session, await _that_fit(session, rows)), total


async def _that_fit(session: AsyncSession, rows: Sequence[Agent]) -> Sequence[Agent]:
    owner = Policy.agent_id.in_([row.agent_id for row in rows])
    sums = select(Policy.agent_id, func.sum(Policy.size)).where(owner).group_by(Policy.agent_id)
    size_of = {row[0]: int(row[1]) for row in await session.execute(sums)}
    total = 0
    for number, row in enumerate(rows):
        total += size_of.get(row.agent_id, 0)
        if number and total > MAX_PAGE_BYTES:
            return rows[:number]
    return rows


async def _documents(session: AsyncSession, rows: Sequence[Agent]) -> list[Document]:
    owned = select(Policy).where(Policy.agent_id.in_([row.agent_id for row in rows]))
    bodies: dict[str | None, list[Document]] = {row.agent_id: [] for row in rows}
    for policy in await session.scalars(owned.order_by(Policy.priority, Policy.created_at, Policy.policy_id)):
        bodies[policy.agent_id].append(policies.body_of(policy))
    return [agents.configuration_of(row) | {"status": row.status, "policies": bodies[row.agent_id]} for row in rows]


async def _apply_policies(session: AsyncSession, agent_id: str, wanted: Declaration, actor: Actor) -> None:
    owned = await session.scalars(select(Policy).where(Policy.agent_id == agent_id))
    present = {policy.policy_name: policy for policy in owned}
    names = {body["policy_name"] for body in wanted.policies}
    for name in present.keys() - names:  # first, to make room
        await policies.remove(session, present[name], wanted.notes, actor)
    for index, content in enumerate(wanted.policies):
        body = content | {"version_notes": wanted.notes}
        policy = present.get(content["policy_name"])
        if policy is not None:
            await policies.change(session, policy, body, actor)
        else:  # policies of the same priority are evaluated oldest first, so this keeps the declared order
            moment = actor.at + timedelta(microseconds=index)
            await policies.add(session, agent_id, body, replace(actor, at=moment))


async def _apply_status(session: AsyncSession, agent: Agent, wanted: Declaration, actor: Actor) -> None:
    before = Status(agent.status)
    if wanted.status in (None, before):
        return
    if wanted.status is Status.DRAFT:
        raise ConflictError(f"agent `{agent.agent_id}` is {before.value} and cannot become a draft again")
    if before is Status.SUSPENDED:
        # A pipeline must not undo a suspension by a person, such as an emergency stop.
        raise ConflictError(
            f"agent `{agent.agent_id}` is suspended: only `activate` or `release` ends a suspension, not a declaration"
        )
    await agents.set_status(session, agent, Status.ACTIVE, wanted.notes, actor)
    await agents.set_status(session, agent, wanted.status or before, wanted.notes, actor)


def _check_names(bodies: Sequence[Document], problems: Problems) -> None:
    seen: dict[str, int] = {}
    for index, body in enumerate(bodies):
        name = body["policy_name"]
        if problems.full:
            return
        if name and seen.setdefault(name, index) != index:
            message = f"duplicate name {quote(name)}: also in policies[{seen[name]}]"
            problems.append(Problem(f"policies[{index}].policy_name", message))
