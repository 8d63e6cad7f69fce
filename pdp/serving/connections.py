"""The connections of one HTTP server: how many there may be, how long each may keep the server waiting."""

import asyncio
import resource
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

READ_BYTES = 4096
"""Read at once from a connection: what arrives is parsed before anything else runs."""


class Wait(Enum):
    """What a connection keeps the server waiting for."""

    HEAD = "the head of a request"
    BODY = "the body of a request"
    NEXT = "another request"
    READER = "somebody to read the answer"
    END = "the end of a connection that the server has closed"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an HTTP server, times in seconds."""

    connections: int = 1000
    head_seconds: float = 5.0
    body_seconds: float = 10.0
    idle_seconds: float = 30.0
    reader_seconds: float = 30.0
    end_seconds: float = 5.0
    stop_seconds: float = 5.0

    @property
    def requests(self) -> int:
        """How many may be answered at once, apart from probes, for which the rest of the connections is."""
        return self.connections * 9 // 10

    def seconds(self, wait: Wait) -> float:
        """How long a connection may keep the server waiting."""
        return {
            Wait.HEAD: self.head_seconds,
            Wait.BODY: self.body_seconds,
            Wait.NEXT: self.idle_seconds,
            Wait.READER: self.reader_seconds,
            Wait.END: self.end_seconds,
        }[wait]


class Connection(Protocol):
    """A connection, as far as its place among the others goes."""

    def abort(self) -> None:
        """Close it without a word."""


class Connections:
    """Which connections are open, and which keep the server waiting; of these the first gives way to a newcomer."""

    def __init__(self, limits: Limits, opened: set[Connection]) -> None:
        self.limits = limits
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._open = opened
        self._waiting: dict[Connection, None] = {}
        self._changed = asyncio.Event()

    def wait_for(self, connection: Connection) -> None:
        """From now on the connection keeps the server waiting."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None
        self._changed.set()

    def wait_no_longer(self, connection: Connection) -> None:
        """The connection has sent what was waited for, or is gone."""
        self._waiting.pop(connection, None)
        self._changed.set()

    def give_way(self) -> bool:
        """Close the connection that has kept the server waiting longest; whether there was one."""
        for connection in self._waiting:
            self.wait_no_longer(connection)
            connection.abort()
            return True
        return False

    async def room(self) -> None:
        """Return when there is room for one more connection."""
        while len(self._open) >= self.limits.connections:
            self._changed.clear()
            if not self.give_way():
                await self._changed.wait()
            await asyncio.sleep(0)  # what is aborted is closed in the next turn of the loop

    async def gone(self) -> None:
        """Return when no connection is open."""
        while self._open:
            self._changed.clear()
            await self._changed.wait()


def share_of_descriptors(most: int, part: float) -> int:
    """At most so many connections, and no more than this part of the file descriptors that the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(16, min(most, int(soft * part)))


def raise_descriptor_limit() -> None:
    """Let this process have as many file descriptors as the system allows it; the usual 1,024 are for old programs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
