"""Every setting of the store."""

import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from pdp.serving import addresses, secret_files
from pdp.serving.addresses import MAX_PORT, Address, BadAddressError
from pdp.serving.tls import certificates
from pdp.serving.tls.certificates import CertificateError, Files
from pdp.serving.tls.reloaded import FileError
from registry_store.errors import StartError

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
SECRET_BYTES = 32
MAX_GROUP_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Retention:
    """How long decisions, usage and alerts are kept."""

    decisions: timedelta
    usage: timedelta
    alerts: timedelta


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a sidecar may apply nothing, or not be heard, before an alert tells of it."""

    stale: timedelta
    silent: timedelta


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the store; `http` and `grpc` are HOST:PORT, port 0 takes any free port."""

    database: str = "sqlite:///registry.db"
    http: str = "127.0.0.1:8080"
    grpc: str = "127.0.0.1:50052"
    auto_activate: bool = False
    pepper_file: Path | None = None
    checkpoint_file: Path | None = None
    checkpoint_url: str | None = None
    webhook_secret_file: Path | None = None
    webhook_previous_secret_file: Path | None = None
    webhook_private: bool = False
    webhook_ca: Path | None = None
    smtp_url: str | None = None
    smtp_from: str | None = None
    alert_url: tuple[str, ...] = ()
    public_url: str | None = None
    sidecar_stale_after: int = 60
    """Seconds that a sidecar may leave a change unapplied, before an alert tells of it."""
    sidecar_silent_after: int = 300
    """Seconds that a sidecar may be silent, before an alert tells of it."""
    drain_seconds: float = 5.0
    metrics: str | None = None
    """HOST:PORT for metrics and probes alone, which `http` has too."""
    traces: bool = False
    """Whether changes become spans."""
    escalation_team: str = ""
    """The group of keys that decides on escalations for which neither the policy nor the agent names a team."""
    approver_mfa: bool = False
    """Whether only keys made with MFA decide on actions that need MFA."""
    most_failed_keys: int = 30
    """Wrong keys per minute from one address, before further ones are throttled."""
    keep_decisions: int = 90
    """Days that decisions are kept after the store received them."""
    keep_usage: int = 400
    """Days that usage per minute is kept."""
    keep_alerts: int = 90
    """Days that alerts are kept after they were sent or given up."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    sidecar_names: Path | None = None
    """A file that says which sidecars the names in client certificates are, in place of keys."""
    http_without_client_cert: bool = False
    """Whether callers of HTTP need no client certificate where those of gRPC do."""
    plaintext: bool = False
    """Whether addresses beyond this host may be served without TLS, because a mesh encrypts."""

    def url(self) -> URL:
        """The URL of the database with its asynchronous driver; `StartError` if it is not valid."""
        return database_url(self.database)

    def pepper_path(self) -> Path:
        """The path of the pepper: `pepper_file`, else beside the SQLite database."""
        if self.pepper_file is not None:
            return self.pepper_file
        url = self.url()
        if url.get_backend_name() != "sqlite" or not url.database:
            raise StartError("`--pepper-file` is required with PostgreSQL; a missing file is created")
        return Path(f"{url.database}.pepper")

    def tls(self) -> Files | None:
        """The files of the TLS of both listeners, None without; `StartError` if some are missing.

        Also if an address beyond this host would be served without TLS.
        """
        try:
            files = certificates.server_files(self.tls_cert, self.tls_key, self.tls_client_ca)
        except CertificateError as error:
            raise file_error("--tls-", error) from None
        if self.sidecar_names is not None and self.tls_client_ca is None:
            raise StartError("`--sidecar-names`: requires `--tls-client-ca`")
        if self.http_without_client_cert and self.tls_client_ca is None:
            raise StartError("`--http-without-client-cert`: requires `--tls-client-ca`")
        for flag, text in (("--http", self.http), ("--grpc", self.grpc)):
            address = host_and_port(flag, text)
            if files is None and not self.plaintext and not address.is_local:
                raise StartError(f"`{flag}`: {addresses.in_clear(address, '`--tls-cert` and `--tls-key`')}")
        return files

    def check_escalation_team(self) -> None:
        """Raise `StartError` if no group can have the name of the escalation team."""
        if len(self.escalation_team) > MAX_GROUP_CHARACTERS:
            raise StartError(f"`--escalation-team`: is longer than {MAX_GROUP_CHARACTERS} characters")

    def retention(self) -> Retention:
        """How long reported decisions, usage and alerts are kept."""
        return Retention(*(timedelta(days=days) for days in (self.keep_decisions, self.keep_usage, self.keep_alerts)))

    def patience(self) -> Patience:
        """How long the store waits before an alert tells of a sidecar."""
        return Patience(*(timedelta(seconds=wait) for wait in (self.sidecar_stale_after, self.sidecar_silent_after)))

    def checked_public_url(self) -> str | None:
        """The address at which people reach this store; `StartError` if it is not an http or https URL."""
        if self.public_url is None:
            return None
        if not re.fullmatch(r"https?://[^\s/?#@\\\"<>]+(/[^\s?#\\\"<>]*)?", self.public_url):
            raise StartError(f"`--public-url`: `{self.public_url}` is not an http or https URL without a query")
        return self.public_url.rstrip("/")


def database_url(text: str) -> URL:
    """The URL of a database with its asynchronous driver; `StartError` if it is not valid."""
    # The messages do not quote the URL: any part of a malformed URL may be a password.
    try:
        url = make_url(text)
    except ArgumentError:
        raise StartError(f"`--database`: not a URL such as {_URLS}") from None
    except ValueError:
        raise StartError(_BAD_PORT) from None
    if url.get_backend_name() not in DRIVERS:
        raise StartError(f"`--database`: `{url.drivername}` is not one of sqlite, postgresql")
    url = url.set(drivername=DRIVERS[url.get_backend_name()])
    if url.get_backend_name() == "sqlite" and (url.host or url.database in (None, "", ":memory:")):
        raise StartError(f"`--database`: the URL names no file: write it as {_URLS}")
    if "@" in (url.host or ""):
        raise StartError("`--database`: the host contains `@`: in the user name or password write it as `%40`")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise StartError(_BAD_PORT)
    return url


def host_and_port(flag: str, text: str) -> Address:
    """Reads `HOST:PORT`, with an IPv6 host in brackets; `StartError` that names the flag if it is not valid."""
    try:
        return addresses.host_and_port(text)
    except BadAddressError as error:
        raise StartError(f"`{flag}`: {error}") from None


def file_error(prefix: str, error: FileError) -> StartError:
    """What is wrong with a file, of a setting whose name begins with `prefix`."""
    return StartError(f"`{prefix}{error.file}`: {error}")


def load_pepper(path: Path, *, is_new: bool) -> bytes:
    """Reads the pepper; creates a missing file with mode 0600, but only for a new database."""
    if not is_new and not path.exists():
        raise StartError(
            f"`--pepper-file`: `{path.absolute()}` does not exist; it must hold the pepper of the keys in this database"
        )
    return load_secret("--pepper-file", path)


def load_secret(flag: str, path: Path) -> bytes:
    """Reads the secret in the file of this flag; creates a missing file with mode 0600."""
    if not path.exists():
        try:
            with suppress(FileExistsError):  # another program that started at the same time created it
                secret_files.write_new(path, secrets.token_hex(SECRET_BYTES).encode())
        except OSError as error:
            raise StartError(f"`{flag}`: cannot write `{path}`: {error.strerror}") from None
    return read_secret(flag, path)


def read_secret(flag: str, path: Path) -> bytes:
    """Reads the secret in the file of this flag; `StartError` if it is missing or shorter than 32 bytes."""
    secret = read_private(flag, path)
    if len(secret) < SECRET_BYTES:
        raise StartError(f"`{flag}`: `{path}` holds fewer than {SECRET_BYTES} bytes")
    return secret


def read_private(flag: str, path: Path) -> bytes:
    """Reads the file of this flag; `StartError` if other users can read it."""
    try:
        return secret_files.read(path)
    except secret_files.SecretFileError as error:
        raise StartError(f"`{flag}`: {error}") from None


_BAD_PORT = f"`--database`: the port is not a number from 1 to {MAX_PORT}"
_URLS = "`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`"
