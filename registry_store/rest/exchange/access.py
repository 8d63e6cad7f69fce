"""Access: the key of a request, its role, and the transactions of a request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.access.keys import Caller, Role
from registry_store.errors import NotAllowedError, NotAuthenticatedError, TooManyFailuresError
from registry_store.journal.activity import Actor
from registry_store.journal.revisions import meta
from registry_store.store import Store

logger = logging.getLogger(__name__)

AFTER_CHANGE_SECONDS = 5
BEARER = HTTPBearer(auto_error=False, description="An API key, `owkai_…`, from `registry-store keys create`")
READERS = (Role.ADMIN, Role.APPROVER, Role.VIEWER)


class Committed(NamedTuple):
    """The last transaction of a request that wrote: the role of its key, and the newest revision then."""

    role: Role
    revision: int


def store_of(request: Request) -> Store:
    """The store that answers this request."""
    store: Store = request.app.state.store
    return store


class RoleIn:
    """A dependency that returns the caller if the role of the key is one of these."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)

    async def __call__(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    ) -> Caller:
        found = await key_holder(request, credentials.credentials if credentials else None)
        if found.role not in self.roles:
            raise NotAllowedError(f"a key of role {found.role.value} may not do this")
        return found


Admin = Annotated[Caller, Depends(RoleIn(Role.ADMIN))]
Reader = Annotated[Caller, Depends(RoleIn(*READERS))]
ReaderOrAgent = Annotated[Caller, Depends(RoleIn(*READERS, Role.AGENT))]
Approver = Annotated[Caller, Depends(RoleIn(Role.ADMIN, Role.APPROVER))]
AdminOrAgent = Annotated[Caller, Depends(RoleIn(Role.ADMIN, Role.AGENT))]


def sees(caller: Caller, agent_id: str) -> bool:
    """Whether the caller may see records of this agent: an agent's key sees only its own agent.

    Other records are a `NotFoundError`, so that the response does not reveal whether they exist.
    """
    return caller.role is not Role.AGENT or caller.agent_id == agent_id


def check_sees(caller: Caller, agent_id: str) -> None:
    """Raises `NotAllowedError` if an agent's key names another agent, registered or not."""
    if not sees(caller, agent_id):
        whose = f"agent `{caller.agent_id}`" if caller.agent_id else "no agent yet"
        raise NotAllowedError(f"this key belongs to {whose}")


def seen_by(caller: Caller, agent_id: str | None) -> str | None:
    """The agent to list, None for all; an agent's key lists only its own agent."""
    if caller.role is not Role.AGENT:
        return agent_id
    check_sees(caller, agent_id or caller.agent_id or "")
    return caller.agent_id


@asynccontextmanager
async def reading(request: Request) -> AsyncIterator[AsyncSession]:
    """A read transaction."""
    async with store_of(request).database.reading() as session:
        yield session


@asynccontextmanager
async def writing(
    request: Request, caller: Caller, via: str | None = None
) -> AsyncIterator[tuple[AsyncSession, Actor]]:
    """A write transaction, and the actor of its changes; `via` is by default what the client calls itself."""
    store = store_of(request)
    async with store.database.writing() as session:
        yield session, Actor(caller.name, via or _via(request), datetime.now(UTC), caller.key_id)
        told = store.after_change or store.settings.traces
        revision = (await meta(session)).revision if told else 0
    request.state.change = Committed(caller.role, revision)
    if store.after_change:
        await _notify(store.after_change, revision)


async def key_holder(request: Request, key: str | None) -> Caller:
    """The holder of a request's key; `NotAuthenticatedError` or `TooManyFailuresError` if it is missing or wrong."""
    store = store_of(request)
    source = request.client.host if request.client else ""
    try:
        if key is None:
            raise NotAuthenticatedError("the header `Authorization: Bearer owkai_…` is missing")
        return await store.authentication.caller(key, source, datetime.now(UTC))
    except (NotAuthenticatedError, TooManyFailuresError):
        store.metrics.refused_keys.inc()
        raise


async def _notify(after_change: Callable[[int], Awaitable[None]], revision: int) -> None:
    """Calls `after_change` for a committed change; a failure is only logged."""
    try:
        async with asyncio.timeout(AFTER_CHANGE_SECONDS):
            await after_change(revision)
    except Exception:
        logger.exception("revision %d was committed, but the notification after it failed", revision)


def _via(request: Request) -> str:
    product = request.headers.get("user-agent", "").partition("/")[0]
    return {"ascend": "sdk", "registry-store": "cli"}.get(product, "api")
