"""Uploads the decision log to the store: batches in order, one at a time, over the current connection."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from pdp.decision_log.spool import Spool
from pdp.log_format.batches import Batch, opened
from pdp.metrics import Metrics
from pdp.serving.backoff import Backoff
from pdp.sync.uplink import InvalidReportError, StoreUnreachableError, Uplink
from pdp.v1.log_pb2 import LogRecord
from registry_store.v1 import sync_pb2 as pb

MAX_RECORDS = 4000
REST_SECONDS = 1.0
"""Pause after everything is sent, to limit the load of a thousand sidecars; an urgent record ends it early."""
DRAIN_SECONDS = 1.0
BACKOFF = Backoff(first=0.1, maximum=10.0)
_BATCHES = "batches["
"""How the store's word on a batch begins: it names the batch, as in `batches[0].hash`."""

logger = logging.getLogger(__name__)


class Reporter:
    """Sends the records of `spool` while `run` runs; at the end, `drain` sends what it can."""

    def __init__(self, spool: Spool, uplink: Uplink, node_id: str) -> None:
        self.shipped = 0
        self.refused = 0
        self._spool = spool
        self._uplink = uplink
        self._node_id = node_id
        self._answered = False
        self._newest = spool.last
        """The newest sequence that this sidecar can have sent, in this run or an earlier one."""
        self._away = False

    async def run(self) -> None:
        """Send batch after batch, until cancelled."""
        while True:
            self._spool.flushed.clear()
            self._spool.urgent.clear()
            sent = await self._send_until_taken()
            if not sent:
                await self._spool.flushed.wait()
            elif sent[-1].last == self._spool.last:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REST_SECONDS):
                        await self._spool.urgent.wait()

    async def drain(self) -> None:
        """Send what can be sent in a second, if there is a connection."""
        with suppress(StoreUnreachableError, OSError):  # a TimeoutError is an OSError
            async with asyncio.timeout(DRAIN_SECONDS):
                while batches := await self._next_batches():
                    await self._send(batches)

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        metrics.watch_total("pdp_decisions_shipped", "Records that the store acknowledged", lambda: self.shipped)
        metrics.watch_total("pdp_decisions_refused", "Records that the store refused", lambda: self.refused)

    async def _send_until_taken(self) -> list[Batch]:
        failures = 0
        while True:
            try:
                return await self._send_next_batches()
            except (StoreUnreachableError, OSError) as error:
                failures += 1
                self._log_outage(error)
            await asyncio.sleep(BACKOFF.seconds(failures))

    async def _send_next_batches(self) -> list[Batch]:
        batches = await self._next_batches()
        if batches:
            await self._uplink.wait_connected()
            await self._send(batches)
            if self._away:
                self._away = False
                logger.info("decisions are sent to the store again")
        return batches

    async def _next_batches(self) -> list[Batch]:
        batches = await self._spool.unsent(MAX_RECORDS)
        if self._answered:
            return batches
        # Until the first answer: only what an earlier run may have sent, or the first batch of this run, which has one
        # record. If the store then acknowledges more than that, the data folder was restored from a backup.
        return [one for one in batches if one.last <= self._newest] or batches[:1]

    async def _send(self, batches: list[Batch]) -> None:
        self._newest = max(self._newest, batches[-1].last)
        try:
            answer = await self._uplink.report(_request(self._node_id, batches))
        except InvalidReportError as error:
            if not str(error).startswith(_BATCHES):  # it is not about what the batches hold
                raise StoreUnreachableError(f"the store refuses reports of this sidecar: {error}") from error
            await self._send_halves(batches, error)
            return
        self._answered = True
        if answer.sequence > self._newest:
            await self._spool.renumber_after(answer.sequence)
        elif answer.sequence < batches[0].last:
            raise StoreUnreachableError(
                f"the store acknowledged {answer.sequence}, but the first batch ends at {batches[0].last}"
            )
        else:
            acknowledged = [batch for batch in batches if batch.last <= answer.sequence]
            refused = _refused(acknowledged, answer.refused)
            if refused:  # first of all: a batch that is sent again has its refused records named again
                await self._spool.set_aside(refused)
            await self._spool.keep(answer.sequence)
            self.refused += len(refused)
            self.shipped += sum(batch.records for batch in acknowledged) - len(refused)

    async def _send_halves(self, batches: list[Batch], error: InvalidReportError) -> None:
        """Find the batch that the store refuses as malformed, and set it aside, so that it delays no other batch."""
        if len(batches) > 1:
            middle = len(batches) // 2
            await self._send(batches[:middle])
            await self._send(batches[middle:])
            return
        (batch,) = batches
        logger.error("the store refused records %d to %d of the decision log: %s", batch.first, batch.last, error)
        self.refused += batch.records
        await self._spool.refuse(batch)

    def _log_outage(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning("cannot send decisions to the store, so they wait on disk: %s", error)


def _request(node_id: str, batches: list[Batch]) -> pb.ReportDecisionsRequest:
    request = pb.ReportDecisionsRequest(node_id=node_id)
    for batch in batches:  # made in place, because a list of messages would be a second copy of two megabytes
        request.batches.add(content=batch.content, previous_hash=batch.previous_hash, hash=batch.hash)
    return request


def _refused(batches: list[Batch], refused: Iterable[pb.RefusedRecord]) -> list[LogRecord]:
    """The records of batches that the store has and does not take as decisions; the first of them is logged."""
    problems = {one.sequence: one.problem for one in refused}
    if not problems:
        return []
    found = {
        sequence: record
        for batch in batches
        for sequence, record in enumerate(opened(batch.content).records, batch.first)
        if sequence in problems
    }
    if found:
        first = min(found)
        logger.error(
            "the store refused %d records of the decision log, the first is %d: %s", len(found), first, problems[first]
        )
    return list(found.values())
