"""API keys: each has a role, is shown once, and is stored as a keyed hash."""

import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.action import AGENT_ID
from pdp.core.errors import InvalidRecordError, Problem, Problems
from pdp.core.fields import Field, read_fields
from pdp.core.kinds import Choice, Flag, ListOf, Moment, OrNull
from pdp.core.records import NAME, TAGS
from registry_store.database import paging
from registry_store.database.tables import Key
from registry_store.documents import Document, instant, to_json
from registry_store.errors import ConflictError, LapsedKeyError, NotAuthenticatedError, NotFoundError, StartError
from registry_store.journal import activity
from registry_store.journal.activity import Actor, Subject
from registry_store.journal.revisions import meta
from registry_store.settings import load_pepper

PREFIX = "owkai"
MAX_GROUPS = 64
MAX_AGENTS = 1_000
"""The maximum of a subscription, too."""


class Role(Enum):
    """The role of a key, which decides what it may do."""

    ADMIN = "admin"
    APPROVER = "approver"
    VIEWER = "viewer"
    AGENT = "agent"
    SIDECAR = "sidecar"


DECIDING_ROLES = (Role.ADMIN, Role.APPROVER)
"""Roles that may decide approvals."""

KEY_BODY: dict[str, Field] = {
    "name": Field(NAME, required=True, about="The holder of the key; the activity log shows it"),
    "role": Field(Choice(Role), Role.VIEWER, required=True),
    "agent_id": Field(
        OrNull(AGENT_ID), None, about="Only for role agent: the agent of the key; null: the first that it registers"
    ),
    "groups": Field(
        ListOf(NAME, MAX_GROUPS),
        (),
        about="Only for roles approver and admin: the groups for which it decides approvals; a team is a group",
    ),
    "mfa": Field(Flag(), False, about="Only for roles approver and admin: its holder signs in with MFA"),
    "agents": Field(
        OrNull(ListOf(AGENT_ID, MAX_AGENTS, 1)),
        None,
        about="Only for role sidecar: the agents that it may sync, report and use approvals of; null: any",
    ),
    "tags": Field(
        OrNull(ListOf(TAGS.item, TAGS.max_items, 1)),
        None,
        about="Only for role sidecar, instead of `agents`: tags, of which the agents must have one; null: any",
    ),
    "expires_at": Field(OrNull(Moment()), None, about="null: never"),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a valid key, or of a certificate that stands in for one and has no `key_id`.

    A sidecar is bound to `agents`, to `tags`, or (both None) unrestricted.
    """

    key_id: str
    name: str
    role: Role
    agent_id: str | None
    groups: tuple[str, ...] = ()
    agents: frozenset[str] | None = None
    tags: frozenset[str] | None = None
    mfa: bool = False


class Pepper:
    """The server's secret; the stored hashes are useless without it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def hash(self, text: str) -> str:
        """The keyed hash of a key: HMAC-SHA-256 in hex."""
        return hmac.digest(self._secret, text.encode(), "sha256").hex()

    async def check(self, session: AsyncSession) -> None:
        """Bind the database to this pepper, or raise `StartError` if it is bound to another."""
        row = await meta(session)
        digest = self.hash("pepper check")
        row.pepper_check = row.pepper_check or digest
        if not hmac.compare_digest(row.pepper_check, digest):
            raise StartError("the pepper is not the one that the keys in this database were hashed with")


async def pepper_of(session: AsyncSession, path: Path) -> Pepper:
    """The pepper in the file, bound to the database; creates the file only if the database has no pepper yet.

    `StartError` if the file is missing or holds another pepper.
    """
    pepper = Pepper(load_pepper(path, is_new=not (await meta(session)).pepper_check))
    await pepper.check(session)
    return pepper


async def create(session: AsyncSession, pepper: Pepper, body: Any, actor: Actor) -> tuple[Key, str]:
    """Create a key; the second value is the key itself, which cannot be read again."""
    values = _read(body, actor.at)
    key_id = secrets.token_hex(8)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    key = Key(
        key_id=key_id,
        name=values["name"],
        role=values["role"].value,
        agent_id=values["agent_id"],
        groups=list(values["groups"]),
        mfa=values["mfa"],
        agents=_list(values["agents"]),
        tags=_list(values["tags"]),
        hash=pepper.hash(text),
        created_at=actor.at,
        created_by=actor.name,
        expires_at=values["expires_at"],
    )
    session.add(key)
    described = f"{key.role} key `{key.name}` created"
    await activity.append(session, actor, "key_created", described, _subject(key), new=_state(key))
    return key, text


async def authenticate(session: AsyncSession, pepper: Pepper, text: str, now: datetime) -> Caller:
    """The caller that holds this key; `NotAuthenticatedError` if unknown, `LapsedKeyError` if revoked or expired."""
    return verified(await session.get(Key, id_of(text)), pepper, text, now)


def verified(key: Key | None, pepper: Pepper, text: str, now: datetime) -> Caller:
    """The caller that holds `text`, checked against the stored key of that id; raises as `authenticate` does."""
    if key is None or not hmac.compare_digest(key.hash, pepper.hash(text)):
        raise NotAuthenticatedError("the key is unknown")
    return holder_of(key, now)


def holder_of(key: Key, now: datetime) -> Caller:
    """The holder of this key; `LapsedKeyError` if it is revoked or expired."""
    if not is_valid(key, now):
        raise LapsedKeyError("the key is revoked" if key.revoked_at else "the key has expired")
    return Caller(
        key.key_id,
        key.name,
        Role(key.role),
        key.agent_id,
        tuple(key.groups),
        None if key.agents is None else frozenset(key.agents),
        None if key.tags is None else frozenset(key.tags),
        key.mfa,
    )


def id_of(text: str) -> str:
    """The id in a key, which is not secret; empty if the text is malformed."""
    parts = text.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""


def is_valid(key: Key, now: datetime) -> bool:
    """Whether the key is neither revoked nor expired."""
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


async def invalid_among(session: AsyncSession, key_ids: set[str], now: datetime) -> set[str]:
    """The ids of keys that are revoked, expired or unknown."""
    keys = {key.key_id: key for key in await session.scalars(select(Key).where(Key.key_id.in_(key_ids)))}
    return {key_id for key_id in key_ids if key_id not in keys or not is_valid(keys[key_id], now)}


async def bind(session: AsyncSession, caller: Caller, agent_id: str, actor: Actor) -> None:
    """Bind an agent key to `agent_id`; `ConflictError` if it is bound to another agent."""
    key = await session.get_one(Key, caller.key_id)
    if key.agent_id not in (None, agent_id):
        raise ConflictError(f"this key belongs to agent `{key.agent_id}`")
    if key.agent_id is None:
        key.agent_id = agent_id
        await activity.append(
            session,
            actor,
            "key_bound",
            f"key `{key.name}` bound to agent `{agent_id}`",
            _subject(key),
            previous={"agent_id": None},
            new={"agent_id": agent_id},
        )


async def get(session: AsyncSession, key_id: str) -> Key:
    """The key with this id; `NotFoundError` if there is none."""
    key = await session.get(Key, key_id)
    if key is None:
        raise NotFoundError(f"no key `{key_id}`")
    return key


async def page(session: AsyncSession, limit: int | None, offset: int) -> tuple[Sequence[Key], int]:
    """A page of the keys, newest first, and the total."""
    newest_first = select(Key).order_by(Key.created_at.desc(), Key.key_id)
    return await paging.page(session, newest_first, limit, offset)


async def revoke(session: AsyncSession, key_id: str, actor: Actor) -> Key:
    """Revoke a key; does nothing if it is already revoked."""
    key = await get(session, key_id)
    if key.revoked_at is None:
        key.revoked_at = actor.at
        described = f"{key.role} key `{key.name}` revoked"
        await activity.append(
            session,
            actor,
            "key_revoked",
            described,
            _subject(key),
            previous={"revoked_at": None},
            new={"revoked_at": actor.at},
        )
    return key


def document(key: Key, last_used: datetime | None = None) -> Document:
    """The key as REST shows it, without the secret or its hash; `last_used` is the time that is not saved yet."""
    moments = [moment for moment in (key.last_used_at, last_used) if moment is not None]
    return Document(to_json(_state(key))) | Document(
        to_json(
            {
                "created_at": key.created_at,
                "created_by": key.created_by,
                "revoked_at": key.revoked_at,
                "last_used_at": max(moments, default=None),
            }
        )
    )


def _read(body: Any, now: datetime) -> dict[str, Any]:
    problems = Problems()
    values = read_fields(body, KEY_BODY, "", problems)
    if values["agent_id"] and values["role"] is not Role.AGENT:
        problems.append(Problem("agent_id", "only a key of role agent belongs to an agent"))
    decides = values["role"] in DECIDING_ROLES
    if values["groups"] and not decides:
        problems.append(Problem("groups", "only a key of role approver or admin belongs to groups"))
    if values["mfa"] and not decides:
        problems.append(Problem("mfa", "only a key of role approver or admin decides approvals"))
    for bound in ("agents", "tags"):
        if values[bound] and values["role"] is not Role.SIDECAR:
            problems.append(Problem(bound, "only a key of role sidecar is bound to agents or tags"))
    if values["agents"] and values["tags"]:
        problems.append(Problem("tags", "a key is bound to `agents` or to `tags`, not to both"))
    if values["expires_at"] is not None and values["expires_at"] <= now:
        problems.append(Problem("expires_at", f"`{instant(values['expires_at'])}` is in the past"))
    if problems:
        raise InvalidRecordError(problems)
    return values


def _list(names: Collection[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _state(key: Key) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "role": key.role,
        "agent_id": key.agent_id,
        "groups": key.groups,
        "mfa": key.mfa,
        "agents": key.agents,
        "tags": key.tags,
        "expires_at": key.expires_at,
    }


def _subject(key: Key) -> Subject:
    return Subject("key", key.key_id, key.agent_id)
