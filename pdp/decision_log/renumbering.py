"""New sequences for the unsent records of a log that is behind the store."""

import logging
from collections import deque

from pdp.decision_log.log import DecisionLog
from pdp.decision_log.segments import Segment
from pdp.log_format.frames import DamagedError

logger = logging.getLogger(__name__)


def renumber_after(log: DecisionLog, sequence: int) -> None:
    """Give unsent records new sequences after `sequence`: the store has other records up to there, from before the
    data folder was restored from a backup.
    """
    logger.error(
        "the store has %d decisions of this sidecar, but the log ends at %d: was `--data-dir` restored from a "
        "backup? unsent records get new numbers",
        sequence,
        log.last,
    )
    log.chain.begin_after(sequence)
    old = log.chain.segments[:-1]
    try:
        for segment in old[:-1]:
            _append_again(log, segment)
            log.keep(segment.end.sequence)
        for segment in old[-1:]:
            _append_again(log, segment)
    except DamagedError as error:  # the store's next answer triggers another try
        log.repair(error)
    else:
        log.keep(max(sequence, *(segment.end.sequence for segment in old)) if old else sequence)


def _append_again(log: DecisionLog, segment: Segment) -> None:
    for records in log.chain.records_after(segment, log.kept):
        for _ in log.append(deque(records)):
            pass
