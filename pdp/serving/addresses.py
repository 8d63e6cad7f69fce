"""Addresses of sockets: as settings give them, and as they are shown."""

import re
from typing import NamedTuple

MAX_PORT = 65535
MAX_SHOWN = 80
"""Characters of a wrong address in a message."""

_HOST_AND_PORT = re.compile(r"(?:\[([0-9a-fA-F:.%]+)\]|([a-zA-Z0-9._-]+)):([0-9]{1,5})")


class BadAddressError(ValueError):
    """A text is no address; the message says why, and fits behind the name of the setting."""


class Address(NamedTuple):
    """Where a socket is: a host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def host_and_port(text: str, *, any_port: bool = True, what: str = "HOST:PORT") -> Address:
    """`HOST:PORT`, an IPv6 host in brackets; port 0 only where `any_port`. `what` names what the setting takes."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise BadAddressError(f"`{text[:MAX_SHOWN]}` is not {what}")
    port = int(match[3])
    if port > MAX_PORT or (port == 0 and not any_port):
        raise BadAddressError(f"port `{port}` is not within {0 if any_port else 1} to {MAX_PORT}")
    return Address(host=match[1] or match[2], port=port)
