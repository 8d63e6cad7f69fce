"""Files that hold a secret (API key, pepper, webhook secret): rejected if other users can read them."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 64 * 1024
ROOT = 0


class SecretFileError(Exception):
    """A secret file cannot be used; the message follows the name of the setting."""


def read(path: Path) -> bytes:
    """Reads the secret without surrounding whitespace; `SecretFileError` if other users can read the file.

    A file of this user must have mode 0600 or stricter. A file of another user, such as one that root makes for a
    service, may be readable by its group. A file of root on a read-only mount (a Kubernetes Secret) may have any mode.
    """
    try:
        # Check the open file, so that the checked file is the one that is read.
        with path.open("rb") as file:
            _check_private(path, file.fileno())
            secret = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"cannot read `{path}`: {error.strerror}") from error
    if len(secret) > MAX_BYTES:
        raise SecretFileError(f"`{path}` is larger than {MAX_BYTES} bytes")
    return secret.strip()


def write_new(path: Path, secret: bytes) -> None:
    """Creates the file atomically, with mode 0600; `FileExistsError` if it exists, and it is not changed."""
    # `mkstemp` creates the file with mode 0600.
    descriptor, written = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        os.link(written, path)
    finally:
        with suppress(FileNotFoundError):
            Path(written).unlink()


def others_can_read(mode: int, owner: int, user: int, *, read_only: bool) -> bool:
    """Whether a file of this mode and owner is readable by anyone but `user`, its owner and the owner's group."""
    if owner == ROOT and read_only:
        return False
    return bool(mode & (0o077 if owner == user else 0o007))


def _check_private(path: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return  # a pipe, such as `<(…)` in a shell, has no other reader
    read_only = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
    if others_can_read(found.st_mode, found.st_uid, os.geteuid(), read_only=read_only):
        raise SecretFileError(
            f"other users can read `{path}` (mode {stat.S_IMODE(found.st_mode):04o}): run `chmod 600 {path}`"
        )
