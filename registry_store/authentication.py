"""Whose key a request carries, from where; wrong keys are counted and made to wait."""

import asyncio
import logging
from collections import OrderedDict
from datetime import datetime
from ipaddress import IPv6Address, ip_address

from sqlalchemy import bindparam, or_, update

from registry_store import keys
from registry_store.database import Database
from registry_store.errors import LapsedKey, NotAuthenticated, TooManyFailures
from registry_store.keys import Caller, Pepper
from registry_store.tables import Key

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
MOST_REMEMBERED = 10_000
SAVE_SECONDS = 15.0


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
        if len(self._until) > MOST_REMEMBERED:
            self._until.popitem(last=False)

    def __len__(self) -> int:
        return len(self._until)


class Authentication:
    """Finds the holder of a key; `run` saves beside it when each key was last used.

    Whoever fails too often, by address or at one key, has to wait, also with the right key: a guess must not be told
    from a miss. Keys that were right before are let through, so that nobody can lock out those who work.
    """

    def __init__(self, database: Database, pepper: Pepper, most_failures: int) -> None:
        self._database = database
        self._pepper = pepper
        self._of_sources = Failures(most_failures)
        self._of_keys = Failures(most_failures)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._used: dict[str, datetime] = {}
        self._unsaved: dict[str, datetime] = {}
        self.revoked = asyncio.Event()
        """Set when a key was revoked here: open streams are looked at."""

    async def caller(self, text: str, source: str, now: datetime) -> Caller:
        """Whose key this is; `NotAuthenticated` if nobody's, `TooManyFailures` after too many that were nobody's."""
        mark, seconds = self._pepper.hash(text), now.timestamp()
        address, key_id = network(source), keys.id_of(text)

        def check_may_try() -> None:
            if mark in self._known:
                return
            wait = max(self._of_sources.wait(address, seconds), self._of_keys.wait(key_id, seconds))
            if wait:
                raise TooManyFailures(wait)

        check_may_try()
        try:
            async with self._database.reading() as session:
                found = await keys.authenticate(session, self._pepper, text, now)
        except LapsedKey:  # no guess
            raise
        except NotAuthenticated:
            check_may_try()
            self._of_sources.note(address, seconds)
            self._of_keys.note(key_id, seconds)
            raise
        check_may_try()  # again: of guesses that come at once, each has passed the first time
        self._remember(mark, found.key_id, now)
        return found

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
            logger.warning("when keys were last used cannot be saved: %s", error)

    def _remember(self, mark: str, key_id: str, now: datetime) -> None:
        self._known.pop(mark, None)
        self._known[mark] = None
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        self._used.pop(key_id, None)
        self._used[key_id] = self._unsaved[key_id] = now
        if len(self._used) > MOST_REMEMBERED:
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


_SAVE = (
    update(Key)
    .where(Key.key_id == bindparam("id"), or_(Key.last_used_at.is_(None), Key.last_used_at < bindparam("at")))
    .values(last_used_at=bindparam("at"))
)
