"""What is logged of work that is tried again until it is done."""

import logging

from registry_store.database.failures import FAILURES, reason_of
from registry_store.database.outages import Outage

logger = logging.getLogger(__name__)


class Attempts:
    """Logs of work that is tried again and again: one line as it begins to fail, and one when it works again.

    However often it is tried, the log does not grow. What fails because the database is out of reach is not logged
    here: the outage itself is. A fault of this program is logged with its traceback, once until the work is done again.
    """

    def __init__(self, doing: str, outage: Outage) -> None:
        self._doing = doing
        self._outage = outage
        self._told: set[bool] = set()

    def failed(self, error: Exception) -> None:
        """Note that it was tried, and failed by this error, which is being handled."""
        is_fault = not isinstance(error, FAILURES)
        if is_fault in self._told or self._outage.covers(error):
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
