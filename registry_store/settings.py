"""Every setting of the store."""

import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from pdp.serving import addresses
from pdp.serving.addresses import MAX_PORT, Address, BadAddressError
from registry_store.errors import StartError

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Retention:
    """How long decisions are kept, and usage."""

    decisions: timedelta
    usage: timedelta


@dataclass(frozen=True, slots=True)
class Settings:
    """The store's settings; `http` and `grpc` are HOST:PORT, port 0 takes any free one."""

    database: str = "sqlite:///registry.db"
    http: str = "127.0.0.1:8080"
    grpc: str = "127.0.0.1:50052"
    auto_activate: bool = False
    pepper_file: Path | None = None
    checkpoint_file: Path | None = None
    checkpoint_url: str | None = None
    webhook_secret_file: Path | None = None
    webhook_private: bool = False
    drain_seconds: float = 5.0
    most_failed_keys: int = 30
    """Wrong keys a minute from one address, before the next is told to wait."""
    keep_decisions: int = 90
    """Days that decisions are kept after they came in."""
    keep_usage: int = 400
    """Days that it is kept what each agent did by the minute."""

    def url(self) -> URL:
        """The database's URL with its asynchronous driver; `StartError` if it is none."""
        return database_url(self.database)

    def pepper_path(self) -> Path:
        """Where the pepper is: `pepper_file`, else beside the SQLite database."""
        if self.pepper_file is not None:
            return self.pepper_file
        url = self.url()
        if url.get_backend_name() != "sqlite" or not url.database:
            raise StartError("pepper-file: is required with PostgreSQL; a file of 32 random bytes or more, mode 0600")
        return Path(f"{url.database}.pepper")

    def retention(self) -> Retention:
        """How long what sidecars report is kept."""
        return Retention(timedelta(days=self.keep_decisions), timedelta(days=self.keep_usage))


def database_url(text: str) -> URL:
    """A database's URL with its asynchronous driver; `StartError` if it is none."""
    # What is wrong is not repeated: wherever a URL is malformed there may be a password.
    try:
        url = make_url(text)
    except ArgumentError:
        raise StartError(f"database: this is not a URL as {_URLS}") from None
    except ValueError:
        raise StartError(_BAD_PORT) from None
    if url.get_backend_name() not in DRIVERS:
        raise StartError(f"database: `{url.drivername}` is not one of sqlite, postgresql")
    url = url.set(drivername=DRIVERS[url.get_backend_name()])
    if url.get_backend_name() == "sqlite" and (url.host or url.database in (None, "", ":memory:")):
        raise StartError(f"database: this names no file; write it as {_URLS}")
    if "@" in (url.host or ""):
        raise StartError("database: the host holds an `@`; in the user's name or the password write it as `%40`")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise StartError(_BAD_PORT)
    return url


def host_and_port(setting: str, text: str) -> Address:
    """`HOST:PORT` (an IPv6 host in brackets); `StartError` naming the setting if it is not that."""
    try:
        return addresses.host_and_port(text)
    except BadAddressError as error:
        raise StartError(f"{setting}: {error}") from None


def load_pepper(path: Path) -> bytes:
    """The pepper in the file; a file that is missing is made, with mode 0600."""
    return load_secret("pepper-file", path)


def load_secret(setting: str, path: Path) -> bytes:
    """The secret in the file that this setting names; a file that is missing is made, with mode 0600."""
    try:
        return _read_secret(setting, path)
    except FileNotFoundError:
        pass
    try:
        _write_secret(path)
    except OSError as error:
        raise StartError(f"{setting}: `{path}` cannot be written: {error.strerror}") from None
    return _read_secret(setting, path)


def _write_secret(path: Path) -> None:
    """Make the file, whole at once, unless another program that starts at the same time has made it."""
    # `mkstemp` makes the file with mode 0600.
    descriptor, written = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(SECRET_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(written, path)
    finally:
        Path(written).unlink()


def _read_secret(setting: str, path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StartError(f"{setting}: `{path}` cannot be read: {error.strerror}") from None
    if len(secret) < SECRET_BYTES:
        raise StartError(f"{setting}: `{path}` holds less than {SECRET_BYTES} bytes")
    if mode & 0o007:
        raise StartError(f"{setting}: `{path}` is open to every user of this machine; make its mode 0600")
    return secret


_BAD_PORT = f"database: the port is not a number from 1 to {MAX_PORT}"
_URLS = "`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`"
