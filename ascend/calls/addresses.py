"""Addresses of a sidecar's HTTP endpoint: `http://HOST:PORT`, `https://HOST:PORT`, `http+unix:PATH`."""

import os
import re
from dataclasses import dataclass

MAX_PORT = 65535
MAX_PATH_BYTES = 107
"""Of the path of a Unix socket, which Linux bounds."""
FORMS = "`http://HOST:PORT`, `https://HOST:PORT` or `http+unix:PATH`"

_SCHEME = re.compile(r"https?://|http\+unix:", re.IGNORECASE)
_TCP = re.compile(r"(https?)://(?:\[([0-9a-fA-F:.]+)\]|([a-zA-Z0-9._-]+)):([0-9]{1,5})/?", re.IGNORECASE)
_UNIX = re.compile(r"http\+unix:([^\0]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """A host and a port, with or without TLS, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    is_tls: bool = False

    @property
    def authority(self) -> str:
        """The value of the header `host`; for a Unix socket a name that every sidecar takes for its own."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.path:
            return f"http+unix:{self.path}"
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


def is_http(text: str) -> bool:
    """Whether a text is meant as the address of an HTTP endpoint, and not of gRPC."""
    return _SCHEME.match(text) is not None


def read(text: str) -> HttpAddress:
    """The address in a text; `ValueError` says what is wrong with it."""
    if (unix := _UNIX.fullmatch(text)) is not None:
        if len(os.fsencode(unix[1])) > MAX_PATH_BYTES:
            raise ValueError(f"the path in `{text}` is longer than {MAX_PATH_BYTES} bytes")
        return HttpAddress(path=unix[1])
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is not one of {FORMS}")
    port = int(match[4])
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"port `{port}` is not within 1 to {MAX_PORT}")
    return HttpAddress(match[2] or match[3], port, is_tls=match[1].lower() == "https")
