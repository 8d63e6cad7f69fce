"""Rate-limited logging of refused keys: a flood of wrong keys does not flood the log."""

import logging

logger = logging.getLogger(__name__)

MAX_LINES = 20
WINDOW_SECONDS = 60.0


class RefusedKeys:
    """Logs refused keys, at most `MAX_LINES` per minute; the next line states how many were omitted."""

    def __init__(self) -> None:
        self._window = 0.0
        self._lines = 0
        self._left_out = 0

    def note(self, source: str, why: str, seconds: float) -> None:
        """Log a refused key from `source`; `seconds` is the current Unix time."""
        # `abs`, so that a clock that was set back does not silence the log.
        if abs(seconds - self._window) >= WINDOW_SECONDS:
            self._window, self._lines = seconds, 0
        if self._lines >= MAX_LINES:
            self._left_out += 1
            return
        self._lines += 1
        more = f" ({self._left_out} more refusals were not logged)" if self._left_out else ""
        self._left_out = 0
        logger.warning("refused a key from `%s`: %s%s", source, why, more, extra={"source": source})
