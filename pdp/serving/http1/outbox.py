"""Sends the answers of one turn of the event loop together.

Each answer that is sent wakes a client that waits for it, which takes longer than to write it. A client that is awake
already, because it reads another answer, costs nothing.
"""

import asyncio
from collections.abc import Callable


class Outbox:
    """What is to be sent at the end of this turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Callable[[], None]] = []

    def add(self, send: Callable[[], None]) -> None:
        """Call `send` at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(send)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for send in waiting:
            send()
