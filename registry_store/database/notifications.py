"""Hearing at once what other stores on the same PostgreSQL commit."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

from sqlalchemy import URL

from registry_store.database.attempts import Attempts
from registry_store.database.transactions import CHANNEL, FAILURES, connect

CHECK_SECONDS = 5.0
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 1.0


class Notifications:
    """Calls `wake` after each commit of any store; while `heard` is false there is but polling."""

    def __init__(self, url: URL, wake: Callable[[], None]) -> None:
        self._url = url
        self._wake = wake
        self._attempts = Attempts("hearing of other stores' commits, which are found by polling meanwhile,")
        self.heard = False

    async def run(self) -> None:
        """Listen until cancelled, connecting again whenever the connection is lost."""
        while True:
            try:
                await self._listen()
            except Exception as error:
                self._attempts.failed(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        connection = await connect(self._url)
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: self._wake())
            self.heard = True
            self._attempts.worked()
            self._wake()  # for what was committed before
            while not await _within(lost.wait(), CHECK_SECONDS):
                await connection.execute("SELECT 1")  # a peer that went silent is found by the time-out
        finally:
            self.heard = False
            with suppress(*FAILURES):  # it is cut off then; raised from here, this would hide that `run` was cancelled
                await connection.close(timeout=CLOSE_SECONDS)


async def _within(wait: Coroutine[None, None, object], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await wait
    except TimeoutError:
        return False
    return True
