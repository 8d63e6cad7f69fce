"""Notifications of commits by other stores on the same PostgreSQL database."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

from sqlalchemy import select

from pdp.serving.backoff import Backoff
from registry_store.database.attempts import Attempts
from registry_store.database.failures import FAILURES
from registry_store.database.transactions import CHANNEL, Database, connect

CHECK_SECONDS = 5.0
BACKOFF = Backoff(first=1.0, maximum=5.0)
CLOSE_SECONDS = 1.0


class Notifications:
    """Calls `wake` after each commit of any store; while `heard` is false, only polling finds commits."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake
        doing = "listening for commits of other stores (polling finds them meanwhile)"
        self._attempts = Attempts(doing, database.outage)
        self._failures = 0
        """Consecutive times that the connection was lost or could not be opened."""
        self.heard = False

    async def run(self) -> None:
        """Listens until cancelled; reconnects if the connection is lost."""
        while True:
            try:
                await self._listen()
            except Exception as error:
                await self._find_outage()
                self._attempts.failed(error)
            self._failures += 1
            await asyncio.sleep(BACKOFF.seconds(self._failures))

    async def _find_outage(self) -> None:
        """Queries the database once: if it is down, the outage is logged once for the whole store."""
        with suppress(Exception):
            async with self._database.reading() as session:
                await session.execute(select(1))

    async def _listen(self) -> None:
        connection = await connect(self._database.url)
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: self._wake())
            self.heard = True
            self._failures = 0
            self._attempts.worked()
            self._wake()  # for commits before this connection
            while not await _within(lost.wait(), CHECK_SECONDS):
                await connection.execute("SELECT 1")  # a silent peer is detected by the time-out
        finally:
            self.heard = False
            with suppress(*FAILURES):  # an error here would hide that `run` was cancelled
                await connection.close(timeout=CLOSE_SECONDS)


async def _within(wait: Coroutine[None, None, object], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await wait
    except TimeoutError:
        return False
    return True
