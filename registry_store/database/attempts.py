"""What is logged of work that is tried again until the database is back."""

import logging

from registry_store.database.transactions import FAILURES, reason_of

logger = logging.getLogger(__name__)


class Attempts:
    """Logs of work that is tried again and again: one line as it begins to fail, and one when it works again.

    However long the database is away and however often it is tried, the log does not grow. A fault of this program is
    logged with its traceback, once until the work is done again.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._told: set[bool] = set()

    def failed(self, error: Exception) -> None:
        """Note that it was tried, and failed by this error, which is being handled."""
        is_fault = not isinstance(error, FAILURES)
        if is_fault in self._told:
            return
        self._told.add(is_fault)
        if is_fault:
            logger.exception("a fault while %s", self._doing)
        else:
            logger.warning("%s failed: %s", self._doing, reason_of(error))

    def worked(self) -> None:
        """Note that it was done."""
        if self._told:
            self._told.clear()
            logger.warning("%s works again", self._doing)
