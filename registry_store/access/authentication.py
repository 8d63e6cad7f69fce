"""Whose key a request carries, from where; wrong keys are counted by source, and right ones never wait for that."""

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
MAX_LOOKED_UP = 1_000
"""Keys that one reading looks up; more wait for the next."""
LOOK_UP_SECONDS = 0.02
"""Between two readings at least."""


class Failures:
    """How often each name failed: `most` at once, then one more every 60 s / `most`; the oldest are forgotten first."""

    def __init__(self, most: int) -> None:
        self._interval = WINDOW_SECONDS / most
        self._until: OrderedDict[str, float] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until the name may try again; 0: at once."""
        # A clock that was set back must not make anyone wait for longer than the window.
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


class _Asked:
    """A key id that is looked up, and once `answered` the key that is kept under it, or why that cannot be read."""

    __slots__ = ("answered", "error", "found", "key_id")

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        self.answered = False
        self.found: Key | None = None
        self.error: Exception | None = None


class _Lookup:
    """Finds keys by their ids: all that are asked for at once by one reading, and one reading after the other.

    So a flood of guesses costs the database no more than one small query each 20 ms, and a right key in it is found
    with the rest. There is no task to read: of those who wait, whoever's turn it is reads for all.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._waiting: list[_Asked] = []
        self._next = 0.0

    async def key(self, key_id: str) -> Key | None:
        """The key of this id, None if there is none."""
        asked = _Asked(key_id)
        self._waiting.append(asked)
        async with self._turn:
            while not asked.answered:
                await self._read()
        if asked.error is not None:
            raise asked.error
        return asked.found

    async def _read(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._next - clock())
        self._next = clock() + LOOK_UP_SECONDS
        batch = self._waiting[:MAX_LOOKED_UP]
        found: dict[str, Key] = {}
        failure = None
        try:
            async with self._database.reading() as session:
                keys = await session.scalars(select(Key).where(Key.key_id.in_({asked.key_id for asked in batch})))
                found = {key.key_id: key for key in keys}
        except Exception as error:
            failure = error
        # Where whoever reads is cancelled, all of them still wait, and the next one reads.
        del self._waiting[: len(batch)]
        for asked in batch:
            asked.answered, asked.found, asked.error = True, found.get(asked.key_id), failure


class Authentication:
    """Finds the holder of a key; `run` saves beside it when each key was last used.

    A source that sends too many wrong keys is told to wait, but a right key passes whatever comes from there: it is
    checked first, and only what is wrong is counted. A key that was right before is looked up at once, by itself.
    """

    def __init__(self, database: Database, pepper: Pepper, most_failures: int) -> None:
        self._database = database
        self._pepper = pepper
        self._failures = Failures(most_failures)
        self._refused = RefusedKeys()
        self._lookup = _Lookup(database)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._saving = Attempts("saving when keys were last used", database.outage)
        self._used: dict[str, datetime] = {}
        self._unsaved: dict[str, datetime] = {}
        self.revoked = asyncio.Event()
        """Set when a key was revoked here: open streams are looked at."""

    async def caller(self, text: str, source: str, now: datetime) -> Caller:
        """Whose key this is; `NotAuthenticatedError` if nobody's, `TooManyFailuresError` after too many others."""
        mark = self._pepper.hash(text)
        try:
            found = await self._found(text, mark, now)
        except LapsedKeyError as error:  # no guess
            self._refused.note(source, f"{error}: `{keys.id_of(text)}`", now.timestamp())
            raise
        except NotAuthenticatedError as error:
            self._refused.note(source, str(error), now.timestamp())
            self._count(network(source), now.timestamp())
            raise
        self._remember(mark, found.key_id, now)
        return found

    async def _found(self, text: str, mark: str, now: datetime) -> Caller:
        if mark in self._known:
            async with self._database.reading() as session:
                return await keys.authenticate(session, self._pepper, text, now)
        key_id = keys.id_of(text)
        key = await self._lookup.key(key_id) if _KEY_ID.fullmatch(key_id) else None
        return keys.verified(key, self._pepper, text, now)

    def _count(self, address: str, seconds: float) -> None:
        """Count one wrong key; `TooManyFailuresError`, and not counted, while its source has to wait."""
        wait = self._failures.wait(address, seconds)
        if wait:
            raise TooManyFailuresError(wait)
        self._failures.note(address, seconds)

    def last_used(self, key_id: str) -> datetime | None:
        """When the key was last used here, saved or not."""
        return self._used.get(key_id)

    async def run(self) -> None:
        """Save what was used, until cancelled."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Save when each key was last used; what cannot be saved now is kept for the next time."""
        if not self._unsaved:
            return
        saving, self._unsaved = self._unsaved, {}
        try:
            async with self._database.beside() as session:
                rows = [{"id": key_id, "at": moment} for key_id, moment in sorted(saving.items())]
                await (await session.connection()).execute(_SAVE, rows)
        except BaseException as error:
            self._unsaved = saving | self._unsaved
            if not isinstance(error, Exception):  # cancelled, as the store stops: it saves once more then
                raise
            self._saving.failed(error)
            return
        self._saving.worked()

    def _remember(self, mark: str, key_id: str, now: datetime) -> None:
        self._known.pop(mark, None)
        self._known[mark] = None
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._used.pop(key_id, None)
        self._used[key_id] = self._unsaved[key_id] = now
        if len(self._used) > MAX_REMEMBERED:
            del self._used[next(iter(self._used))]


def network(source: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 that one IPv6 host has to itself."""
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
