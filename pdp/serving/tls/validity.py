"""How long a certificate is valid, read from its DER form (RFC 5280, section 4.1).

`ssl` tells that only of the certificate of a peer, and a library for it would be the largest that a sidecar loads.
"""

import re
import ssl
from datetime import UTC, datetime
from typing import NamedTuple

VERSION = 0xA0
UTC_TIME = 0x17
UTC_TIME_SINCE = 50
"""UTCTime has two digits for the year: below this they are of the 21st century."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class _Element(NamedTuple):
    """A value in DER: its tag, and where its content begins and ends."""

    tag: int
    start: int
    end: int


def not_after(pem: bytes) -> datetime | None:
    """When the first of the certificates in `pem` expires; None without one. `ValueError` for a malformed one."""
    return min((_not_after(ssl.PEM_cert_to_DER_cert(text.decode("ascii"))) for text in _PEM.findall(pem)), default=None)


def _not_after(der: bytes) -> datetime:
    certificate = _element(der, 0)
    signed = _element(der, certificate.start)
    part = _element(der, signed.start)
    if part.tag == VERSION:
        part = _element(der, part.end)
    for _ in ("signature algorithm", "issuer", "validity"):  # `part` is the serial number
        part = _element(der, part.end)
    return _moment(der, _element(der, _element(der, part.start).end))


def _element(der: bytes, at: int) -> _Element:
    """The value that begins at this byte."""
    if at + 2 > len(der):
        raise ValueError("the certificate is cut off")
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size], "big"), start + size
    if start + length > len(der):
        raise ValueError("the certificate is cut off")
    return _Element(tag, start, start + length)


def _moment(der: bytes, element: _Element) -> datetime:
    text = der[element.start : element.end].decode("ascii")
    if element.tag == UTC_TIME:
        text = f"{'20' if int(text[:2]) < UTC_TIME_SINCE else '19'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
