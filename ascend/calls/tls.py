"""TLS towards a sidecar: certificates from files, which are read again when they have changed."""

import ssl
import threading
import time
from pathlib import Path
from typing import NamedTuple, TypeAlias

CHECK_SECONDS = 5.0
"""The files are looked at no more often than this."""

Signature: TypeAlias = tuple[tuple[int, int, int], ...]


class Credentials(NamedTuple):
    """What the files hold: for gRPC as PEM, and as a context of `ssl`."""

    ca: bytes
    cert: bytes | None
    key: bytes | None
    context: ssl.SSLContext


class Files:
    """The authorities that the sidecar's certificate is checked against, and this client's own certificate and key.

    `ValueError` names the argument that is wrong. Thread-safe.
    """

    def __init__(self, ca: str, cert: str | None, key: str | None) -> None:
        if (cert is None) != (key is None):
            raise ValueError("`pdp_cert` and `pdp_key` are required together")
        self._paths = [path for path in (ca, cert, key) if path is not None]
        self._lock = threading.Lock()
        self._looked_at = time.monotonic()
        self._signature = self._sign()
        self.credentials = self._read()

    def renewed(self) -> bool:
        """Whether `credentials` are new, because the files have changed and can be used."""
        now = time.monotonic()
        if now - self._looked_at < CHECK_SECONDS:
            return False
        with self._lock:
            self._looked_at = now
            try:
                signature = self._sign()
                if signature == self._signature:
                    return False
                self.credentials, self._signature = self._read(), signature
            except ValueError:  # they are just being replaced
                return False
            return True

    def _sign(self) -> Signature:
        """What tells these files from others in their place."""
        try:
            found = [Path(path).stat() for path in self._paths]
        except OSError as error:
            raise ValueError(f"{_named(self._paths.index(str(error.filename)))}: cannot read: {error}") from None
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def _read(self) -> Credentials:
        contents = [_content(number, path) for number, path in enumerate(self._paths)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self._paths[0])
        except (ssl.SSLError, OSError):
            raise ValueError(f"`pdp_ca`: `{self._paths[0]}` holds no certificates of authorities in PEM") from None
        if len(contents) == 1:
            return Credentials(contents[0], None, None, context)
        ca, cert, key = contents
        try:
            context.load_cert_chain(self._paths[1], self._paths[2], password=str)  # `str` gives none, without a prompt
        except (ssl.SSLError, OSError):
            where = f"`{self._paths[1]}` and `{self._paths[2]}`"
            raise ValueError(f"`pdp_cert`: {where} are not a certificate and its key in PEM") from None
        return Credentials(ca, cert, key, context)


def _content(number: int, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{_named(number)}: cannot read: {error}") from None


def _named(number: int) -> str:
    return ("`pdp_ca`", "`pdp_cert`", "`pdp_key`")[number]
