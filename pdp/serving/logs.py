"""Logging of both programs: one line per event on standard error, as plain text or as JSON.

Text from outside cannot break a line, so it cannot look like a separate entry. Tracebacks are indented.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pdp.serving.printable import indented, printable

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("plain", "json")
PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NOISY = ("uvicorn", "asyncio", "alembic", "sqlalchemy")
"""Libraries of which only warnings and errors are logged."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class Plain(logging.Formatter):
    """A line of plain text; characters that are not printable are escaped."""

    def __init__(self) -> None:
        super().__init__(PLAIN)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the library's name
        return indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the library's name
        return indented(stack_info)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the members of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, form: str) -> None:
    """Logs to standard error from `level` up, in the format `plain` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Plain())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
