"""The open connections of a client: at any time one call uses one of them."""

import os
import time
from collections import deque
from contextlib import suppress

from ascend.calls.calls import ClientClosedError
from ascend.calls.connection import Connection

MAX_IDLE = 64
IDLE_SECONDS = 20.0
"""A sidecar closes a connection after 30 s, and what is sent at that moment is lost."""


class Pool:
    """Thread-safe without a lock, which a fork could copy while it is held: every step here is one step of Python."""

    def __init__(self) -> None:
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._process = os.getpid()
        self.is_closed = False

    def take(self) -> Connection | None:
        """An idle connection, the one used last, if there is one that can be used."""
        self.check_open()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.used_at > time.monotonic() - IDLE_SECONDS and connection.is_quiet():
                return self.add(connection)
            connection.close()

    def add(self, connection: Connection) -> Connection:
        """Take a connection that is used from now on."""
        self._busy.add(connection)
        if self.is_closed:  # since it was asked for
            self.drop(connection)
            raise ClientClosedError
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection, whose call has been answered, for another call."""
        self._busy.discard(connection)
        connection.used_at = time.monotonic()
        self._idle.append(connection)
        if self.is_closed:
            self.drop_idle()
        with suppress(IndexError):
            while len(self._idle) > MAX_IDLE or self._idle[0].used_at < connection.used_at - IDLE_SECONDS:
                self._idle.popleft().close()

    def drop(self, connection: Connection) -> None:
        """Close a connection that cannot be used again."""
        self._busy.discard(connection)
        connection.close()

    def drop_idle(self) -> None:
        """Close the connections that no call uses."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def close(self) -> None:
        """Close all connections; calls under way end, and close theirs."""
        self.check_process()
        self.is_closed = True
        for connection in list(self._busy):
            connection.interrupt()
        self.drop_idle()

    def check_open(self) -> None:
        """`ClientClosedError` after `close`. In a process that was forked the connections of its parent are left."""
        if self.is_closed:
            raise ClientClosedError
        self.check_process()

    def check_process(self) -> None:
        """Leave the connections of another process to it: to close them here closes nothing there."""
        if self._process != os.getpid():
            self._process, self._busy = os.getpid(), set()
            self.drop_idle()
