"""Webhooks as in the Standard Webhooks specification: signed bodies, posted to an https URL at a public address.

A receiver checks `webhook-id`, `webhook-timestamp` and `webhook-signature` with any library of that specification.
"""

import asyncio
import base64
import binascii
import ipaddress
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

import h11
import standardwebhooks

from registry_store.errors import StartError

TIMEOUT_SECONDS = 10.0
"""Time for one delivery, from looking up the host to the status of the response."""
CONNECT_SECONDS = 3.0
"""Time for one of the addresses of a host."""
MAX_ADDRESSES = 8
MAX_HEAD_BYTES = 16 * 1024
"""The status and headers of a response; its body is not read."""
READ_BYTES = 4096
SECRET_PREFIX = b"whsec_"
MIN_SECRET_BYTES = 24
NAT64 = ipaddress.ip_network("64:ff9b::/96")
UNICAST = ipaddress.ip_network("2000::/3")
"""All public IPv6 unicast addresses; all others are special or unassigned."""
SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))
"""Further special networks that `is_global` does not cover, or not completely."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = Mapping[str, str]

_LOOKUPS = ThreadPoolExecutor(4, "webhook-lookup")
"""A name server that hangs holds up other lookups for webhooks, and nothing else."""


class DeliveryError(Exception):
    """The receiver did not accept the message; the text says why."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """How webhooks leave the store. `private`: private addresses are allowed; `ca`: a further trusted authority."""

    private: bool = False
    ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """The TLS settings; `StartError` if the file of `--webhook-ca` holds no certificate."""
        return _context(self.ca)

    def refuses(self, url: str) -> bool:
        """Whether it posts nothing to the address in this URL; a name is looked up only when a message is sent."""
        try:
            address = ipaddress.ip_address(urlsplit(url).hostname or "")
        except ValueError:
            return False
        return not self.private and not is_public(address)

    async def post(self, url: str, body: bytes, headers: Headers) -> None:
        """Posts the body once; `DeliveryError` unless the response is 2xx. Redirects are not followed."""
        host = host_of(url)  # the path may be as good as a password
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status = await self._post(urlsplit(url), body, headers)
        except TimeoutError:
            raise DeliveryError(f"`{host}` did not answer within {TIMEOUT_SECONDS:g} s") from None
        except (OSError, ValueError, h11.ProtocolError) as error:
            raise DeliveryError(f"`{host}` does not answer: {error}") from None
        if not 200 <= status < 300:
            raise DeliveryError(f"`{host}` answered {status}")

    async def _post(self, parts: SplitResult, body: bytes, headers: Headers) -> int:
        host, port = _ascii(str(parts.hostname)), parts.port or 443
        addresses = await self._addresses(host, port)
        reader, writer = await self._connected(addresses, host, port)
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
            request = h11.Request(method="POST", target=_target(parts), headers=_headers(host, port, body, headers))
            writer.write(b"".join(_sent(connection, request, h11.Data(body), h11.EndOfMessage())))
            return await _status(connection, reader)
        finally:
            # The rest of the response is not waited for: it may be endless.
            writer.transport.abort()

    async def _connected(
        self, addresses: Sequence[Address], host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # Connect to the checked addresses, because the name may resolve to another address later.
        context = await asyncio.to_thread(self.context)  # the first time it reads every authority of the system
        failure: Exception = OSError("the host has no address")
        for address in addresses[:MAX_ADDRESSES]:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.open_connection(
                        str(address), port, ssl=context, server_hostname=host, limit=READ_BYTES
                    )
            except ssl.SSLError:
                raise
            except OSError as error:  # also a time-out
                failure = error
        raise OSError(str(failure) or f"no connection within {CONNECT_SECONDS:g} s")

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, _look_up, host, port)
        if not self.private and not all(map(is_public, found)):
            raise OSError("it has an address that is not public, which is not allowed")
        return found


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL, and the keys that sign its messages: during a rotation the new one and the previous one."""

    url: str
    keys: Sequence[bytes]
    outbound: Outbound = Outbound()

    def check(self, flag: str) -> None:
        """Raises `StartError`, with the flag, unless the URL is an https URL with a host."""
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and not parts.username
        except ValueError:
            valid = False
        if not valid:
            raise StartError(f"`{flag}`: `{self.url}` is not an https URL")

    async def deliver(self, message_id: str, body: bytes, at: datetime, headers: Headers | None = None) -> None:
        """Posts the body once, signed at `at`; `DeliveryError` unless the response is 2xx."""
        signed = {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(
                standardwebhooks.Webhook(key).sign(message_id, at, body.decode()) for key in self.keys
            ),
        }
        await self.outbound.post(self.url, body, signed | dict(headers or {}))


def signing_key(flag: str, secret: bytes) -> bytes:
    """The key in a secret: the base64 after `whsec_`, or else the secret itself; `StartError` if it is not valid."""
    if not secret.startswith(SECRET_PREFIX):
        return secret
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise StartError(f"`{flag}`: the text after `whsec_` is not base64") from None
    if len(key) < MIN_SECRET_BYTES:
        raise StartError(f"`{flag}`: the secret after `whsec_` holds fewer than {MIN_SECRET_BYTES} bytes")
    return key


def shared_secret(key: bytes) -> str:
    """The key as receivers configure it: `whsec_` and base64."""
    return (SECRET_PREFIX + base64.b64encode(key)).decode()


def host_of(url: str) -> str:
    """The host and port of a URL, as it writes them; the URL itself if it has none."""
    try:
        return urlsplit(url).netloc or url
    except ValueError:
        return url


def is_public(address: Address) -> bool:
    """Whether the address, and every address embedded in it, is on the public internet."""
    return all(map(_is_public, _embedded(address)))


@cache
def _context(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is None:
        return context
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:  # an `SSLError` is an `OSError`
        raise StartError(f"`--webhook-ca`: `{ca}` holds no certificate: {error}") from None
    return context


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise OSError(f"the host cannot be found: {error}") from None


def _look_up(host: str, port: int) -> list[Address]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"the host cannot be found: {error}") from None
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]


def _target(parts: SplitResult) -> str:
    path = parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl()
    return quote(path, safe="!#$%&'()*+,/:;=?@[]~")


def _headers(host: str, port: int, body: bytes, headers: Headers) -> list[tuple[str, str]]:
    named = f"[{host}]" if ":" in host else host
    fixed = {
        "host": named if port == 443 else f"{named}:{port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "user-agent": f"registry-store/{version('agent-pdp')}",
        "connection": "close",
    }
    return [*fixed.items(), *headers.items()]


def _sent(connection: h11.Connection, *events: h11.Event) -> Iterator[bytes]:
    for event in events:
        yield connection.send(event) or b""


async def _status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    while not isinstance(event := connection.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif not isinstance(event, h11.InformationalResponse):
            raise OSError("it closed the connection")
    return event.status_code


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or any(address in network for network in SPECIAL):
        return False
    return address.version == 4 or address in UNICAST


def _embedded(address: Address) -> Iterator[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    else:
        yield address
        if address.sixtofour is not None:
            yield address.sixtofour
