"""Sockets that keep deadlines: what both clients have of them.

A deadline is a time of `time.monotonic`. An operation that is not done by then is a `TimeoutError`.
"""

import socket
import time
from ipaddress import ip_address
from typing import Any, Protocol

RECEIVED_BYTES = 64 * 1024

Resolved = tuple[socket.AddressFamily, Any]
"""The family and the address of a socket."""


class Sockets(Protocol):
    """How a client waits for its sockets."""

    async def connect(self, one: socket.socket, address: Any, deadline: float) -> None:
        """Connect to an address; `BlockingIOError` if a Unix socket has no place for one more now."""

    async def send(self, one: socket.socket, data: bytes, deadline: float) -> None:
        """Send all of it."""

    async def receive(self, one: socket.socket, deadline: float) -> bytes:
        """What has arrived; nothing at the end."""

    async def sleep(self, seconds: float) -> None:
        """Pause."""

    async def resolve(self, host: str, port: int, deadline: float) -> list[Resolved]:
        """The addresses of a host name."""


def left(deadline: float) -> float:
    """The seconds until a deadline; `TimeoutError` if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def literal(host: str, port: int) -> list[Resolved]:
    """The address of a host that is an IP address; nothing for a name."""
    try:
        version = ip_address(host).version
    except ValueError:
        return []
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]


def look_up(host: str, port: int) -> list[Resolved]:
    """The addresses of a host name, after however long that takes."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a name with a part of more than 63 characters
        raise OSError(str(error)) from None
    return [(family, address) for family, _, _, _, address in found]
