"""Webhooks: signed bodies, posted to an https URL at a public address.

The receiver checks `Registry-Signature: sha256=HEX`: the HMAC-SHA-256, with the shared secret, of the value of
`Registry-Timestamp` (Unix seconds), a full stop and the body. A request with a timestamp of minutes ago is a replay.
"""

import hmac
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from registry_store.errors import StartError

TIMEOUT_SECONDS = 5.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")
UNICAST = ipaddress.ip_network("2000::/3")
"""All public IPv6 unicast addresses; all others are special or unassigned."""
SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")))
"""Further special networks that `is_global` does not cover, or not completely."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class DeliveryError(Exception):
    """The receiver did not accept the body; the message says why."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """The URL to post to, and the secret shared with the receiver; `private`: private addresses are allowed."""

    url: str
    secret: bytes
    private: bool = False

    def check(self, flag: str) -> None:
        """Raises `StartError`, with the flag, unless the URL is an https URL with a host."""
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and not parts.username
        except ValueError:
            valid = False
        if not valid:
            raise StartError(f"`{flag}`: `{self.url}` is not an https URL")

    def deliver(self, body: bytes, timestamp: int) -> None:
        """Posts the body once, signed with `timestamp`; `DeliveryError` unless the response is 2xx."""
        parts = urlsplit(self.url)
        host, port = str(parts.hostname), parts.port or 443
        headers = self._headers(body, timestamp) | {"host": parts.netloc}
        failure: Exception | None = None
        # Connect to the checked addresses, because the name may resolve to another address later.
        for address in self._addresses(host, port):
            try:
                status = self._post(address, host, port, body, headers)
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
            except (HTTPError, OSError) as error:
                raise DeliveryError(f"`{self.url}` does not answer: {error}") from None
            else:
                if not 200 <= status < 300:
                    raise DeliveryError(f"`{self.url}` answered {status}")
                return
        raise DeliveryError(f"`{self.url}` does not answer: {failure}")

    def _post(self, address: Address, host: str, port: int, body: bytes, headers: dict[str, str]) -> int:
        target = urlsplit(self.url)._replace(scheme="", netloc="", fragment="").geturl() or "/"
        with urllib3.HTTPSConnectionPool(
            str(address), port, timeout=TIMEOUT_SECONDS, retries=False, server_hostname=host, assert_hostname=host
        ) as pool:
            return pool.request("POST", target, body=body, headers=headers, redirect=False).status

    def _headers(self, body: bytes, timestamp: int) -> dict[str, str]:
        signed = hmac.digest(self.secret, f"{timestamp}.".encode() + body, "sha256").hex()
        return {
            "content-type": "application/json",
            "user-agent": f"registry-store/{version('agent-pdp')}",
            "registry-timestamp": str(timestamp),
            "registry-signature": f"sha256={signed}",
        }

    def _addresses(self, host: str, port: int) -> Sequence[Address]:
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            raise DeliveryError(f"`{self.url}`: the host cannot be found: {error}") from None
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        if not self.private and not all(map(is_public, addresses)):
            raise DeliveryError(f"`{self.url}` has an address that is not public, which is not allowed")
        return addresses


def is_public(address: Address) -> bool:
    """Whether the address, and every address embedded in it, is on the public internet."""
    return all(map(_is_public, _embedded(address)))


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
