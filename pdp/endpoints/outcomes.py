"""Outcomes that runtimes report: taken here, or refused with what the store knows of the decision."""

import re
from typing import Protocol

from pdp.core.action import OutcomeReport
from pdp.core.fields import quote
from pdp.decision_point import DecisionPoint, Log
from pdp.settlement import Refusal, RefusedOutcomeError
from pdp.sync.uplink import ForeignDecisionError, StoreUnreachableError, UnknownDecisionError
from registry_store.v1 import sync_pb2 as pb

MAX_QUESTIONS = 10
"""The store is asked about so many decisions at once; beyond that, an unknown decision is only unknown here."""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Store(Protocol):
    """The call to the store that is needed here; `Uplink` has it."""

    async def find_decision(self, decision_id: str) -> pb.FindDecisionResponse: ...


class Outcomes:
    """Takes outcomes of the decisions of `point`, the sidecar with this node id."""

    def __init__(self, point: DecisionPoint, log: Log, store: Store, node_id: str) -> None:
        self._point = point
        self._log = log
        self._store = store
        self._node_id = node_id
        self._questions = 0

    async def take(self, report: OutcomeReport) -> bool:
        """Whether the outcome repeats one; waits for room in the log, and for the store if the decision is unknown.

        Raises `RefusedOutcomeError` if it is not taken, and `UnavailableError` while nothing can be recorded.
        """
        if self._log.crowded:
            await self._log.room()
        try:
            return self._point.report(report)
        except RefusedOutcomeError as refused:
            if refused.refusal is not Refusal.UNKNOWN or not _ID.fullmatch(report.decision_id):
                raise
            found = await self._found(report.decision_id, refused)
        return self._judged(report, found)

    async def _found(self, decision_id: str, refused: RefusedOutcomeError) -> pb.FindDecisionResponse:
        if self._questions >= MAX_QUESTIONS:
            raise refused
        self._questions += 1
        try:
            return await self._store.find_decision(decision_id)
        except ForeignDecisionError:
            raise _foreign(decision_id) from None
        except (UnknownDecisionError, StoreUnreachableError):
            raise refused from None
        finally:
            self._questions -= 1

    def _judged(self, report: OutcomeReport, found: pb.FindDecisionResponse) -> bool:
        """True if the decision has an outcome; else raises why it takes none any more."""
        shown = quote(report.decision_id)
        if found.node_id != self._node_id or report.agent_id not in ("", found.agent_id):
            raise _foreign(report.decision_id)
        if found.outcome != "allow" or found.dry_run:
            why = "a dry run" if found.dry_run else quote(found.outcome)
            raise RefusedOutcomeError(Refusal.NOT_ALLOWED, f"decision {shown} takes no outcome: it is {why}")
        if not found.has_outcome:
            raise RefusedOutcomeError(
                Refusal.NOT_ALLOWED, f"decision {shown} takes no outcome: it has settled at its estimate"
            )
        return True


def _foreign(decision_id: str) -> RefusedOutcomeError:
    return RefusedOutcomeError(Refusal.FOREIGN, f"decision {quote(decision_id)} is of another agent or another sidecar")
