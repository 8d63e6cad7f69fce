"""How the store logs: one line an event on standard error.

What comes from outside cannot break a line, and so cannot pass for an entry of its own; tracebacks are set in.
"""

import logging
import sys
from typing import Any

from pdp.core.printable import indented, printable


class Plain(logging.Formatter):
    """A line for people, with what would not show in it escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
        return indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the library's name
        return indented(stack_info)


def configure() -> None:
    """Send every log line from `info` up to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
