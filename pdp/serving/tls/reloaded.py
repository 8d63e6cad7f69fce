"""What a program has from files, and has anew when they change."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)

Contents = TypeVar("Contents")
Value = TypeVar("Value")
Followed = TypeVar("Followed", bound="Reloaded[Any, Any]")


class FileError(Exception):
    """A file cannot be used; the message follows its setting, whose name ends in `file`."""

    def __init__(self, file: str, message: str) -> None:
        self.file = file
        super().__init__(message)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a file; `ValueError` says why if it cannot be read, or is larger than `max_bytes`."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ValueError(f"cannot read `{path}`: {error.strerror}") from None
    if len(content) > max_bytes:
        raise ValueError(f"`{path}` is larger than {max_bytes} bytes")
    return content


class Reloaded(Generic[Contents, Value]):
    """The newest value that `load` makes of what `read` reads from files; `FileError` if there is none.

    Files that cannot be used are left and logged once: the value before stays in force. `prefix` begins the names of
    their settings; `kept` names the value that stays; `taken` is told of each new one.
    """

    def __init__(
        self,
        read: Callable[[], Contents],
        load: Callable[[Contents], Value],
        *,
        prefix: str,
        kept: str,
        taken: Callable[[Value], None],
    ) -> None:
        self._read = read
        self._load = load
        self._prefix = prefix
        self._kept = kept
        self._taken = taken
        self._contents = read()
        self.value = load(self._contents)
        self._unusable: Contents | str | None = None
        """What the last look at the files found and could not use: their contents, or why they cannot be read."""
        self._is_logged = False

    async def watch(self) -> None:
        """Look for new files, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.reload)

    def reload(self) -> None:
        """Take what the files hold now, if it is new and complete."""
        try:
            found = self._read()
        except FileError as error:
            self._leave(str(error), error)
            return
        # Compared by content: Kubernetes replaces a link to the folder, and the times of the files may be old.
        if found == self._contents:
            self._unusable = None
            return
        try:
            value = self._load(found)
        except FileError as error:
            self._leave(found, error)
            return
        self.value, self._contents, self._unusable = value, found, None
        self._taken(value)

    def _leave(self, found: Contents | str, error: FileError) -> None:
        """Keep the value in force, and log that once the same was found twice: nobody is just writing the files."""
        if found != self._unusable:
            self._unusable, self._is_logged = found, False
        elif not self._is_logged:
            self._is_logged = True
            logger.error("`%s%s`: %s; %s stays in force", self._prefix, error.file, error, self._kept)


@asynccontextmanager
async def followed(make: Callable[[], Followed], error_of: Callable[[FileError], Exception]) -> AsyncIterator[Followed]:
    """What `make` reads from files, with what is new in them, until the block is left.

    Where the files cannot be used at first, what `error_of` makes of the `FileError` is raised.
    """
    try:
        found = await asyncio.to_thread(make)
    except FileError as error:
        raise error_of(error) from error
    watching = asyncio.create_task(found.watch())
    watching.add_done_callback(_report_fault)
    try:
        yield found
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _report_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("files are no longer followed", exc_info=error)
