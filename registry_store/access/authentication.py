"""Authentication of API keys: counts wrong keys by source, and never delays a valid key because of them."""

import asyncio
import re
from collections import OrderedDict
from datetime import datetime
from ipaddress import IPv6Address, ip_address

from sqlalchemy import bindparam, or_, select, update

from registry_store.access import keys
from registry_store.access.keys import Caller, Pepper
from registry_store.access.refusals import RefusedKeys
from registry_store.database.attempts import Attempts
from registry_store.database.tables import Key
from registry_store.database.transactions import Database
from registry_store.errors import LapsedKeyError, NotAuthenticatedError, TooManyFailuresError

WINDOW_SECONDS = 60.0
MAX_REMEMBERED = 10_000
SAVE_SECONDS = 15.0
MAX_KEYS_PER_QUERY = 1_000
"""Keys per database query; further ones wait for the next query."""
QUERY_SECONDS = 0.02
"""Minimum time between two queries."""


class Failures:
    """Limits the failures of each name: `maximum` at once, then one every 60 s / `maximum`; drops the oldest first."""

    def __init__(self, maximum: int) -> None:
        self._interval = WINDOW_SECONDS / maximum
        self._until: OrderedDict[str, float] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until the name may try again; 0 if it may now."""
        # After a clock was set back, nobody waits longer than the window.
        ahead = min(self._until.get(name, now) - now, WINDOW_SECONDS)
        return max(0.0, ahead - WINDOW_SECONDS + self._interval)

    def note(self, name: str, now: float) -> None:
        """Count one failure."""
        until = min(max(self._until.pop(name, now), now), now + WINDOW_SECONDS)
        self._until[name] = until + self._interval
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)

    def __len__(self) -> int:
        return len(self._until)


class _Request:
    """A key id to look up; after `done` it holds the key that was found, or the error of the query."""

    __slots__ = ("done", "error", "found", "key_id")

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.done = False
        self.found: Key | None = None
        self.error: Exception | None = None


class _Lookup:
    """Finds keys by id: one query serves all concurrent lookups, and only one query runs at a time.

    Therefore a flood of guesses costs the database one small query per 20 ms, and a valid key among them is found in
    the same query. There is no background task: one of the waiting callers runs the query for all.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._waiting: list[_Request] = []
        self._next = 0.0

    async def key(self, key_id: str) -> Key | None:
        """The key with this id, or None."""
        request = _Request(key_id)
        self._waiting.append(request)
        async with self._turn:
            while not request.done:
                await self._read()
        if request.error is not None:
            raise request.error
        return request.found

    async def _read(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._next - clock())
        self._next = clock() + QUERY_SECONDS
        batch = self._waiting[:MAX_KEYS_PER_QUERY]
        found: dict[str, Key] = {}
        failure = None
        try:
            async with self._database.reading() as session:
                keys = await session.scalars(select(Key).where(Key.key_id.in_({request.key_id for request in batch})))
                found = {key.key_id: key for key in keys}
        except Exception as error:
            failure = error
        # If the caller that runs the query is cancelled, the requests stay queued and the next caller runs it.
        del self._waiting[: len(batch)]
        for request in batch:
            request.done, request.found, request.error = True, found.get(request.key_id), failure


class Authentication:
    """Finds the caller that holds a key; `run` saves when each key was last used.

    A source that sends too many wrong keys has to wait. A valid key is always accepted, also from that source: the key
    is checked first, and only wrong keys are counted. A key that was valid before gets a query of its own, at once.
    """

    def __init__(self, database: Database, pepper: Pepper, max_failures: int) -> None:
        self._database = database
        self._pepper = pepper
        self._failures = Failures(max_failures)
        self._refused = RefusedKeys()
        self._lookup = _Lookup(database)
        self._valid_before: OrderedDict[str, None] = OrderedDict()
        self._saving = Attempts("saving when keys were last used", database.outage)
        self._used: dict[str, datetime] = {}
        self._unsaved: dict[str, datetime] = {}
        self.revoked = asyncio.Event()
        """Set when this store revokes a key, so that open streams are checked."""

    async def caller(self, text: str, source: str, now: datetime) -> Caller:
        """The caller that holds this key; `NotAuthenticatedError` or `TooManyFailuresError` if the key is invalid."""
        key_hash = self._pepper.hash(text)
        try:
            found = await self._found(text, key_hash, now)
        except LapsedKeyError as error:  # not a guess, so not counted
            self._refused.note(source, f"{error}: `{keys.id_of(text)}`", now.timestamp())
            raise
        except NotAuthenticatedError as error:
            self._refused.note(source, str(error), now.timestamp())
            self._count(network(source), now.timestamp())
            raise
        self._remember(key_hash, found.key_id, now)
        return found

    async def holder(self, key_id: str, now: datetime) -> Caller:
        """The holder of the key with this id, for a session that it began; `LapsedKeyError` if the key is not valid."""
        async with self._database.reading() as session:
            key = await session.get(Key, key_id)
        if key is None:
            raise LapsedKeyError("the key no longer exists")
        found = keys.holder_of(key, now)
        self._remember(key.hash, key_id, now)
        return found

    async def _found(self, text: str, key_hash: str, now: datetime) -> Caller:
        if key_hash in self._valid_before:
            return await self._database.read_apart(lambda session: keys.authenticate(session, self._pepper, text, now))
        key_id = keys.id_of(text)
        key = await self._lookup.key(key_id) if _KEY_ID.fullmatch(key_id) else None
        return keys.verified(key, self._pepper, text, now)

    def _count(self, address: str, seconds: float) -> None:
        """Count one wrong key; `TooManyFailuresError` while its source has to wait, and then nothing is counted."""
        wait = self._failures.wait(address, seconds)
        if wait:
            raise TooManyFailuresError(wait)
        self._failures.note(address, seconds)

    def last_used(self, key_id: str) -> datetime | None:
        """When the key was last used with this store, saved or not."""
        return self._used.get(key_id)

    async def run(self) -> None:
        """Save regularly when keys were last used, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Save when each key was last used; after an error the next call tries again."""
        if not self._unsaved:
            return
        saving, self._unsaved = self._unsaved, {}
        try:
            async with self._database.beside() as session:
                rows = [{"id": key_id, "at": moment} for key_id, moment in sorted(saving.items())]
                await (await session.connection()).execute(_SAVE, rows)
        except BaseException as error:
            self._unsaved = saving | self._unsaved
            if not isinstance(error, Exception):  # cancelled because the store stops, which saves once more
                raise
            self._saving.failed(error)
            return
        self._saving.worked()

    def _remember(self, key_hash: str, key_id: str, now: datetime) -> None:
        self._valid_before.pop(key_hash, None)
        self._valid_before[key_hash] = None
        if len(self._valid_before) > MAX_REMEMBERED:
            self._valid_before.popitem(last=False)
        self._used.pop(key_id, None)
        self._used[key_id] = self._unsaved[key_id] = now
        if len(self._used) > MAX_REMEMBERED:
            del self._used[next(iter(self._used))]


def network(source: str) -> str:
    """The source to count by: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        address = ip_address(source)
    except ValueError:
        return source
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(IPv6Address(int(address) >> 64 << 64))
    return str(address)


_KEY_ID = re.compile(r"[0-9a-f]{16}")
_SAVE = (
    update(Key)
    .where(Key.key_id == bindparam("id"), or_(Key.last_used_at.is_(None), Key.last_used_at < bindparam("at")))
    .values(last_used_at=bindparam("at"))
)
