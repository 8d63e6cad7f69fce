"""`ReportDecisions` stores the decisions that sidecars report, and `FindDecision` tells whose a decision is."""

import asyncio
import logging
import re
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import grpc
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError
from pdp.core.fields import quote
from registry_store import suspending
from registry_store.access import scopes
from registry_store.access.keys import Caller
from registry_store.database.transactions import retried
from registry_store.decisions import decisions, ids, old_records, outcomes, reading, reports
from registry_store.decisions.decisions import Received
from registry_store.decisions.reports import MAX_PROBLEMS, Report
from registry_store.errors import NotAllowedError
from registry_store.rpc.calls import SERVICE, CallEndedError, Context, Handler, answered, parsed
from registry_store.store import Store
from registry_store.v1 import sync_pb2 as pb

logger = logging.getLogger(__name__)

MAX_CONCURRENT = 3
"""Reports written concurrently: fewer than the write connections, so that REST writes are never blocked."""
MAX_WAITING = 64
WAIT_SECONDS = 10.0
MAX_LOGGED = 5


class DecisionReports:
    """The methods `ReportDecisions` and `FindDecision`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._waiting = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """The handlers to add to a `grpc.aio` server."""
        report: Handler = grpc.unary_unary_rpc_method_handler(
            self._report,
            response_serializer=pb.ReportDecisionsResponse.SerializeToString,
        )
        find: Handler = grpc.unary_unary_rpc_method_handler(
            self._find,
            response_serializer=pb.FindDecisionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"ReportDecisions": report, "FindDecision": find})

    async def _find(self, raw: bytes, context: Context) -> pb.FindDecisionResponse:
        return await answered(self._store, context, lambda caller: self._found(raw, caller))

    async def _found(self, raw: bytes, caller: Caller) -> pb.FindDecisionResponse:
        decision_id = parsed(pb.FindDecisionRequest, raw).decision_id
        if not re.fullmatch(ids.PATTERN, decision_id):
            raise CallEndedError(grpc.StatusCode.NOT_FOUND, f"no decision {quote(decision_id)}")
        async with self._store.database.reading() as session:
            found = await reading.get(session, decision_id)
            decision = found.row
            if await scopes.outside_recently(session, caller, {decision.agent_id}):
                raise NotAllowedError(f"decision `{decision_id}` is of an agent outside the scope of the key")
            ended = await outcomes.of_decisions(session, [decision_id])
        return pb.FindDecisionResponse(
            node_id=found.node_id,
            agent_id=decision.agent_id,
            outcome=decision.outcome,
            dry_run=decision.dry_run,
            has_outcome=decision_id in ended,
        )

    async def _report(self, raw: bytes, context: Context) -> pb.ReportDecisionsResponse:
        return await answered(self._store, context, lambda caller: self._in_turn(raw, caller))

    async def _in_turn(self, raw: bytes, caller: Caller) -> pb.ReportDecisionsResponse:
        if self._waiting >= MAX_WAITING:
            raise CallEndedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reports are waiting: try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            raise CallEndedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "other reports took too long: try again later"
            ) from None
        finally:
            self._waiting -= 1
        try:
            return await self._received(raw, caller)
        finally:
            self._slots.release()

    async def _received(self, raw: bytes, caller: Caller) -> pb.ReportDecisionsResponse:
        report = await asyncio.to_thread(_read, raw)  # megabytes of records must not block other callers
        await self._check_scope(report, caller)
        at = datetime.now(UTC)
        received = await retried(self._keep, report, caller.name, at)
        await suspending.by_report(self._store.database, self._store.metrics, report, at)
        self._count(received)
        _log_received(report, received)
        refused = [pb.RefusedRecord(sequence=one.sequence, problem=one.problem) for one in report.refused]
        return pb.ReportDecisionsResponse(sequence=received.sequence, refused=refused)

    async def _check_scope(self, report: Report, caller: Caller) -> None:
        """Refuse what is of agents that the caller may not sync; `InvalidRecordError` for a sidecar without batches.

        The sidecar then sets these records aside. A block of an agent that it did not know is always accepted.
        """
        if caller.agents is None and caller.tags is None:
            return
        async with self._store.database.reading() as session:
            foreign = await scopes.outside_recently(session, caller, report.agent_ids())
        if not foreign:
            return
        logger.warning(
            "a key named `%s` reported decisions of %d agents outside its scope, for sidecar `%s`",
            caller.name,
            len(foreign),
            report.node_id,
        )
        if report.entries:
            raise InvalidRecordError(reports.problems_of(report.entries, foreign)[:MAX_PROBLEMS])
        for batch in report.batches:
            batch.refuse(foreign)

    async def _keep(self, report: Report, owner: str, at: datetime) -> Received:
        def receive(session: AsyncSession) -> Coroutine[Any, Any, Received]:
            return decisions.receive(session, report, owner, at, self._store.settings.escalation_team)

        database = self._store.database
        if not report.requests_approvals:
            return await database.apart(receive)
        async with database.writing() as session:
            return await receive(session)

    def _count(self, received: Received) -> None:
        metrics = self._store.metrics
        for outcome, number in received.kept.items():
            metrics.decisions.labels(outcome).inc(number)
        for result, number in received.outcomes.items():
            metrics.outcomes.labels(result).inc(number)
        metrics.decision_repeats.inc(received.repeats)
        metrics.decisions_missing.inc(received.missing)
        metrics.decision_breaks.inc(len(received.breaks))
        for state in received.opened:
            metrics.approvals.labels(state).inc()


def _read(raw: bytes) -> Report:
    message = parsed(pb.ReportDecisionsRequest, raw)
    reports.check_message(message)
    if message.batches:
        return Report(message.node_id, batches=reports.read_batches(message))
    return Report(message.node_id, entries=old_records.read_entries(message))


def _log_received(report: Report, received: Received) -> None:
    if received.missing:
        logger.warning(
            "the decision log of sidecar `%s` misses %d records before `%d`",
            report.node_id,
            received.missing,
            received.sequence,
        )
    if received.breaks:
        logger.warning(
            "the hash chain in the decision log of sidecar `%s` is broken at %d batches, first at %s",
            report.node_id,
            len(received.breaks),
            ", ".join(f"`{sequence}`" for sequence in received.breaks[:MAX_LOGGED]),
        )
