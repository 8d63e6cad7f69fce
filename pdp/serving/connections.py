"""The connections of one HTTP server: their number, and how long each may keep the server waiting."""

import asyncio
import resource
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

READ_BYTES = 4096
"""The most that is read from a connection at once, since it is parsed before anything else runs."""


class Wait(Enum):
    """What a connection keeps the server waiting for."""

    HEAD = "the head of a request"
    BODY = "the body of a request"
    NEXT = "another request"
    READER = "a reader of the answer"
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
        """Requests that may be answered at once; the other connections are reserved for probes."""
        return self.connections * 9 // 10

    def seconds(self, wait: Wait) -> float:
        """How long a connection may keep the server waiting."""
        match wait:
            case Wait.NEXT:
                return self.idle_seconds
            case Wait.HEAD:
                return self.head_seconds
            case Wait.BODY:
                return self.body_seconds
            case Wait.READER:
                return self.reader_seconds
            case Wait.END:
                return self.end_seconds


class Connection(Protocol):
    """The part of a connection that `Connections` needs."""

    def abort(self) -> None:
        """Close it without an answer."""


class Connections:
    """The open connections and those that keep the server waiting; a new connection replaces the longest waiting."""

    def __init__(self, limits: Limits, opened: set[Connection]) -> None:
        self.limits = limits
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._open = opened
        self._waiting: dict[Connection, None] = {}
        self._changed = asyncio.Event()

    def begin(self, connection: Connection) -> None:
        """Count a connection that is not one of HTTP yet, and that keeps the server waiting."""
        self._open.add(connection)
        self.wait_for(connection)

    def end(self, connection: Connection) -> None:
        """Count it no longer."""
        self._open.discard(connection)
        self.wait_no_longer(connection)

    def wait_for(self, connection: Connection) -> None:
        """From now on the connection keeps the server waiting."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None
        self._changed.set()

    def renew(self, connection: Connection) -> None:
        """The wait for a connection begins anew."""
        self._waiting[connection] = self._waiting.pop(connection)

    def wait_no_longer(self, connection: Connection) -> None:
        """The connection has sent its data or is closed."""
        self._waiting.pop(connection, None)
        self._changed.set()

    def close_longest_waiting(self) -> bool:
        """Close the connection that has kept the server waiting longest; False if there is none."""
        for connection in self._waiting:
            self.wait_no_longer(connection)
            connection.abort()
            return True
        return False

    async def room(self) -> None:
        """Return when there is room for one more connection."""
        while len(self._open) >= self.limits.connections:
            self._changed.clear()
            if not self.close_longest_waiting():
                await self._changed.wait()
            await asyncio.sleep(0)  # an aborted connection is closed in the next iteration of the loop

    async def all_closed(self) -> None:
        """Return when no connection is open."""
        while self._open:
            self._changed.clear()
            await self._changed.wait()


def share_of_descriptors(max_connections: int, part: float) -> int:
    """A limit of connections: `max_connections`, or this part of the process's file descriptors if that is less."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max_connections if soft == resource.RLIM_INFINITY else max(16, min(max_connections, int(soft * part)))


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors to the hard limit; the default of 1,024 is for old programs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
