"""Sockets that only one sidecar may hold: a second one on the same address would split the counters."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from pdp.core.fields import quote, quote_path
from pdp.serving.accepting import BACKLOG, NO_IPV6, listening
from pdp.serving.addresses import Address, bound_address
from pdp.settings import SOCKET_MODE, SettingsError


def http_listener(setting: str, address: Address) -> socket.socket:
    """A socket that listens on `address`.

    Two sockets can be bound to one address at the same time, but only one can listen, so this also listens.
    """
    family, _, _, _, name = _resolved(setting, address)[0]
    try:
        return listening(family, name)
    except OSError as error:
        raise _refused(setting, address, error) from error


@contextmanager
def http_bound(setting: str, address: Address, mode: int = SOCKET_MODE) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and its actual address; a Unix socket gets the mode, and is removed at the end."""
    if not address.path:
        with http_listener(setting, address) as listener:
            yield listener, bound_address(listener)
        return
    path = Path(address.path)
    with _sole_socket(setting, path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o777 & ~mode)
        try:
            listener.bind(address.path)
        except OSError as error:
            raise _refused(setting, address, error) from error
        finally:
            os.umask(mask)
        path.chmod(mode)
        listener.listen(BACKLOG)
        try:
            yield listener, str(address)
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def bound(
    setting: str,
    address: Address,
    server: grpc.aio.Server,
    *,
    credentials: Callable[[], grpc.ServerCredentials] | None = None,
    mode: int = SOCKET_MODE,
) -> Iterator[str]:
    """Binds a gRPC server to `address` and yields its actual address; `SettingsError` if another process uses it.

    A TCP port takes `credentials`, if there are any; a Unix socket gets the mode.
    """
    if address.path:
        with _sole_socket(setting, Path(address.path)):
            yield _bind_socket(setting, address, server, mode)
    else:
        _check_free(setting, address)
        yield _bind_port(setting, address, server, credentials)


def _bind_socket(setting: str, address: Address, server: grpc.aio.Server, mode: int) -> str:
    # The mask protects the socket between the bind and the chmod.
    mask = os.umask(0o777 & ~mode)
    try:
        server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise SettingsError(setting, f"cannot listen on `{address}`") from error
    finally:
        os.umask(mask)
    Path(address.path).chmod(mode)
    return str(address)


def _bind_port(
    setting: str, address: Address, server: grpc.aio.Server, credentials: Callable[[], grpc.ServerCredentials] | None
) -> str:
    try:
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials())
    except RuntimeError as error:
        raise SettingsError(setting, f"cannot listen on `{address}`") from error
    return str(address._replace(port=port))


def _check_free(setting: str, address: Address) -> None:
    """Refuses a port that is in use on any address of the host; gRPC accepts it if one of several is free."""
    if not address.port:
        return
    refusals = []
    found = _resolved(setting, address)
    for family, _, _, _, name in found:
        try:
            listening(family, name).close()
        except OSError as error:
            refusals.append(error)
    for refusal in refusals:
        # A machine without IPv6 still resolves localhost to ::1.
        if refusal.errno not in NO_IPV6 or len(refusals) == len(found):
            raise _refused(setting, address, refusal) from refusal


def _resolved(
    setting: str, address: Address
) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(setting, f"cannot resolve {quote(address.host)}") from error
    return found  # type: ignore[return-value]  # the stub allows for builds of Python without IPv6


def _refused(setting: str, address: Address, error: OSError) -> SettingsError:
    if error.errno == errno.EADDRINUSE:
        return SettingsError(setting, f"`{address}` is in use by another process")
    return SettingsError(setting, f"cannot listen on `{address}`: {error.strerror}")


@contextmanager
def _sole_socket(setting: str, path: Path) -> Iterator[None]:
    """Holds the lock beside a Unix socket, and removes a socket that a dead process left."""
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(setting, f"cannot use {quote_path(path)}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(setting, f"`unix:{path}` is in use by another sidecar") from error
        _clear(setting, path)
        yield
    finally:
        os.close(lock)


def _clear(setting: str, path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(setting, f"{quote_path(path)} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise SettingsError(setting, f"cannot use {quote_path(path)}: {error.strerror}") from error
        else:
            raise SettingsError(setting, f"`unix:{path}` is in use by another process")
