"""The names in a client's certificate."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Entry = TypeVar("Entry")


class Names(NamedTuple):
    """The subject alternative names of a verified certificate by which a client is known: host names, and URIs."""

    hosts: frozenset[str]
    uris: frozenset[str]

    def found_in(self, entries: Mapping[str, Entry]) -> list[Entry]:
        """The entries of these names; a name with a colon is a URI, and only that."""
        names = [*sorted(name for name in self.hosts if ":" not in name), *sorted(self.uris)]
        return [entries[name] for name in names if name in entries]


def of_call(authentication: Mapping[str, Sequence[bytes]]) -> Names | None:
    """The names of the caller of a gRPC method, from its `auth_context()`; None without a certificate."""
    if not authentication.get("x509_pem_cert"):
        return None
    hosts, uris = (authentication.get(name, ()) for name in ("peer_dns", "peer_uri"))
    return _names((_text(name) for name in hosts), (_text(name) for name in uris))


def as_in_call(certificate: Mapping[str, Any]) -> dict[str, tuple[bytes, ...]]:
    """The names in what `ssl` tells of a client's certificate, in the form of gRPC's `auth_context()`."""
    found = of_certificate(certificate)
    hosts, uris = (tuple(name.encode() for name in one) for one in found)
    return {"x509_pem_cert": (b"verified",), "peer_dns": hosts, "peer_uri": uris}


def of_certificate(certificate: Mapping[str, Any]) -> Names:
    """The names in what `ssl` tells of the certificate of a client."""
    names = certificate.get("subjectAltName", ())
    return _names((name for kind, name in names if kind == "DNS"), (name for kind, name in names if kind == "URI"))


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _names(hosts: Iterable[str], uris: Iterable[str]) -> Names:
    return Names(frozenset(name.lower() for name in hosts), frozenset(uris))
