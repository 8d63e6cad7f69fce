"""Logging of work that is retried until it succeeds."""

import logging

from registry_store.database.failures import FAILURES, reason_of
from registry_store.database.outages import Outage

logger = logging.getLogger(__name__)


class Attempts:
    """Logs retried work: one line when it begins to fail and one when it works again, however often it is tried.

    Failures during an outage of the database are not logged here: the outage has its own log lines. A bug in this
    program is logged with its traceback, once until the work succeeds again.
    """

    def __init__(self, doing: str, outage: Outage) -> None:
        self._doing = doing
        self._outage = outage
        self._logged: set[bool] = set()

    def failed(self, error: Exception) -> None:
        """Records that a try failed with `error`; call it while the error is handled."""
        is_fault = not isinstance(error, FAILURES)
        if is_fault in self._logged or self._outage.covers(error):
            return
        self._logged.add(is_fault)
        if is_fault:
            logger.exception("internal error while %s", self._doing)
        else:
            logger.warning("%s failed: %s", self._doing, reason_of(error))

    def worked(self) -> None:
        """Records that a try succeeded."""
        if self._logged:
            self._logged.clear()
            logger.warning("%s works again", self._doing)
