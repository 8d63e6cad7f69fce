"""Socket addresses, as settings and messages show them."""

import re
import socket
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

MAX_PORT = 65535
MAX_SHOWN = 80
"""Maximum number of characters of a wrong address in a message."""

_HOST_AND_PORT = re.compile(r"(?:\[([0-9a-fA-F:.%]+)\]|([a-zA-Z0-9._-]+)):([0-9]{1,5})")


class BadAddressError(ValueError):
    """A text is not an address; the message follows the name of the setting."""


class Address(NamedTuple):
    """The address of a socket: a host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether nothing outside this host can see what is sent to it: a Unix socket, or a loopback address."""
        if self.path or self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def in_clear(address: Address, needed: str) -> str:
    """Why a program does not use this address without TLS, for which the settings `needed` are needed."""
    return f"`{address}` is beyond this host: it takes {needed}, or `--plaintext` if a mesh encrypts the connection"


def bound_address(listener: socket.socket) -> str:
    """HOST:PORT of a bound socket."""
    host, port = listener.getsockname()[:2]
    return str(Address(host, port))


def unmapped(host: str) -> str:
    """The host of a peer; one of IPv4, which a socket of both families shows as `::ffff:192.0.2.1`, as `192.0.2.1`."""
    mapped = IPv6Address(host).ipv4_mapped if ":" in host else None
    return str(mapped or host)


def host_and_port(text: str, *, any_port: bool = True, what: str = "HOST:PORT") -> Address:
    """Reads `HOST:PORT`, with an IPv6 host in brackets; port 0 only if `any_port`. `what` is the expected format."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise BadAddressError(f"`{text[:MAX_SHOWN]}` is not {what}")
    port = int(match[3])
    if port > MAX_PORT or (port == 0 and not any_port):
        raise BadAddressError(f"port `{port}` is not within {0 if any_port else 1} to {MAX_PORT}")
    return Address(host=match[1] or match[2], port=port)
