"""Certificates, keys and authorities: read from files, checked as a whole, and made into contexts of TLS."""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import NamedTuple

import grpc

from pdp.serving import secret_files
from pdp.serving.tls.reloaded import FileError, read_bounded
from pdp.serving.tls.validity import not_after

MAX_BYTES = 1 << 20
"""Of one file: a bundle of all public authorities has a quarter of it."""


class CertificateError(FileError):
    """A file cannot be used; `file` is cert, key, ca or client-ca."""


class Files(NamedTuple):
    """The files of a server, in PEM; with `client_ca`, callers must have a certificate of one of its authorities."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ClientFiles(NamedTuple):
    """The files of a client, in PEM: whom it trusts, and its own certificate and key, both or neither."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class ServerContents(NamedTuple):
    """The contents of the files of a server."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class ServerPair:
    """A certificate and a key that match, and the authorities of clients: complete, and not expired when loaded."""

    contents: ServerContents
    context: ssl.SSLContext
    not_after: datetime


def server_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> Files | None:
    """The files of a server; None without a certificate. `CertificateError` names the one that is missing."""
    if cert is not None and key is not None:
        return Files(cert, key, client_ca)
    _check_both(cert, key)
    if client_ca is not None:
        raise CertificateError("cert", "is required with the authorities of clients")
    return None


def client_files(ca: Path | None, cert: Path | None, key: Path | None) -> ClientFiles | None:
    """The files of a client; None without authorities. `CertificateError` names the one that is missing."""
    _check_both(cert, key)
    if ca is None and cert is not None:
        raise CertificateError("ca", "is required with a certificate")
    return None if ca is None else ClientFiles(ca, cert, key)


def _check_both(cert: Path | None, key: Path | None) -> None:
    if (cert is None) != (key is None):
        file, other = ("key", "certificate") if key is None else ("cert", "key")
        raise CertificateError(file, f"is required with the {other}")


def read(files: Files) -> ServerContents:
    """The contents of the files; `CertificateError` if one cannot be read, is too large, or is a key that
    other users can read.
    """
    client_ca = None if files.client_ca is None else _read("client-ca", files.client_ca)
    return ServerContents(_read("cert", files.cert), _read_key(files.key), client_ca)


def load(files: Files, contents: ServerContents, now: datetime) -> ServerPair:
    """What the contents of the files make; `CertificateError` unless all of it can be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # A session that is resumed would not be checked against authorities that have changed since it began.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    expires = _load_pair(context, (files.cert, contents.cert), (files.key, contents.key), now)
    if files.client_ca is not None and contents.client_ca is not None:
        _load_authorities(context, "client-ca", files.client_ca, contents.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return ServerPair(contents, context, expires)


def expiry(cert: Path) -> float:
    """When the certificate in a file expires, in seconds since 1970; NaN if it cannot be read now."""
    try:
        return _expiry(cert, _read("cert", cert)).timestamp()
    except CertificateError:
        return nan


def channel_credentials(files: ClientFiles) -> grpc.ChannelCredentials:
    """Credentials of a gRPC channel, from the files as they are now; `CertificateError` unless they can be used."""
    ca, cert, key = _load_client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    return grpc.ssl_channel_credentials(ca, key, cert)


def client_context(files: ClientFiles) -> ssl.SSLContext:
    """The context of an HTTPS client, from the files as they are now; `CertificateError` unless they can be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_client(context, files)
    return context


def _load_client(context: ssl.SSLContext, files: ClientFiles) -> tuple[bytes, bytes | None, bytes | None]:
    ca = _read("ca", files.ca)
    _load_authorities(context, "ca", files.ca, ca)
    if files.cert is None or files.key is None:
        return ca, None, None
    cert, key = _read("cert", files.cert), _read_key(files.key)
    _load_pair(context, (files.cert, cert), (files.key, key), datetime.now(UTC))
    return ca, cert, key


def _load_pair(context: ssl.SSLContext, cert: tuple[Path, bytes], key: tuple[Path, bytes], now: datetime) -> datetime:
    """Put the certificate and its key into the context; returns when it expires."""
    (cert_path, cert_pem), (key_path, key_pem) = cert, key
    expires = _expiry(cert_path, cert_pem)
    try:
        _in_memory(cert_pem, lambda name_of_cert: _in_memory(key_pem, lambda name: _chain(context, name_of_cert, name)))
    except _EncryptedError:
        raise CertificateError("key", f"`{key_path}` is encrypted; it must hold the key without a passphrase") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError("key", f"`{key_path}` is not the key of the certificate in `{cert_path}`") from None
        why = f"`{cert_path}` and `{key_path}` are not a certificate and its key in PEM{_reason(error)}"
        raise CertificateError("cert", why) from None
    if expires <= now:
        raise CertificateError("cert", f"`{cert_path}` expired at {expires:%Y-%m-%dT%H:%M:%SZ}")
    return expires


def _expiry(path: Path, pem: bytes) -> datetime:
    try:
        expires = not_after(pem)
    except ValueError:
        raise CertificateError("cert", f"`{path}` holds a malformed certificate") from None
    if expires is None:
        raise CertificateError("cert", f"`{path}` holds no certificate in PEM")
    return expires


def _load_authorities(context: ssl.SSLContext, file: str, path: Path, pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise CertificateError(file, f"`{path}` holds no certificates of authorities in PEM") from None


def _chain(context: ssl.SSLContext, cert: str, key: str) -> None:
    context.load_cert_chain(cert, key, password=_no_passphrase)


def _in_memory(content: bytes, use: Callable[[str], None]) -> None:
    """Use a file that only this process sees: what was checked is what is loaded, whoever replaces the original."""
    with os.fdopen(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        use(f"/proc/self/fd/{file.fileno()}")


def _read(file: str, path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except ValueError as error:
        raise CertificateError(file, str(error)) from None


def _read_key(path: Path) -> bytes:
    try:
        return secret_files.read(path)
    except secret_files.SecretFileError as error:
        raise CertificateError("key", str(error)) from None


def _reason(error: ssl.SSLError) -> str:
    return f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""


class _EncryptedError(Exception):
    """OpenSSL asks for a passphrase, which nobody can be asked for here."""


def _no_passphrase() -> str:
    raise _EncryptedError
