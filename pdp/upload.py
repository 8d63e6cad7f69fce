"""Uploads the decision log to the store: batches in order, one at a time, over the current connection."""

import asyncio
import logging
from contextlib import suppress

from pdp.decision_log.segments import Record
from pdp.decision_log.spool import Spool
from pdp.metrics import Metrics
from pdp.serving.backoff import Backoff
from pdp.sync.uplink import InvalidReportError, StoreUnreachableError, Uplink
from registry_store.v1 import sync_pb2 as pb

MAX_RECORDS = 1000
REST_SECONDS = 1.0
"""Pause after everything is sent, to limit the load of a thousand sidecars; an urgent record ends it early."""
DRAIN_SECONDS = 1.0
BACKOFF = Backoff(first=0.1, maximum=10.0)

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
            elif sent[-1].sequence == self._spool.last:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REST_SECONDS):
                        await self._spool.urgent.wait()

    async def drain(self) -> None:
        """Send what can be sent in a second, if there is a connection."""
        with suppress(StoreUnreachableError, OSError):  # a TimeoutError is an OSError
            async with asyncio.timeout(DRAIN_SECONDS):
                while records := await self._next_batch():
                    await self._send(records)

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        metrics.watch_total("pdp_decisions_shipped", "Records that the store acknowledged", lambda: self.shipped)
        metrics.watch_total("pdp_decisions_refused", "Records that the store refused", lambda: self.refused)

    async def _send_until_taken(self) -> list[Record]:
        failures = 0
        while True:
            try:
                return await self._send_next_batch()
            except (StoreUnreachableError, OSError) as error:
                failures += 1
                self._log_outage(error)
            await asyncio.sleep(BACKOFF.seconds(failures))

    async def _send_next_batch(self) -> list[Record]:
        records = await self._next_batch()
        if records:
            await self._uplink.wait_connected()
            await self._send(records)
            if self._away:
                self._away = False
                logger.info("decisions are sent to the store again")
        return records

    async def _next_batch(self) -> list[Record]:
        records = await self._spool.unsent(MAX_RECORDS)
        if self._answered:
            return records
        # Until the first answer: only what an earlier run may have sent, or one new record. If the store then
        # acknowledges more than that, the data folder was restored from a backup.
        return [one for one in records if one.sequence <= self._newest] or records[:1]

    async def _send(self, records: list[Record]) -> None:
        self._newest = max(self._newest, records[-1].sequence)
        request = await asyncio.to_thread(_request, self._node_id, records)  # it takes a millisecond
        try:
            acknowledged = await self._uplink.report(request)
        except InvalidReportError as error:
            await self._send_halves(records, error)
            return
        self._answered = True
        if acknowledged > self._newest:
            await self._spool.renumber_after(acknowledged)
        elif acknowledged < records[0].sequence:
            raise StoreUnreachableError(
                f"the store acknowledged {acknowledged}, but the batch starts at {records[0].sequence}"
            )
        else:
            self.shipped += sum(record.sequence <= acknowledged for record in records)
            await self._spool.keep(acknowledged)

    async def _send_halves(self, records: list[Record], error: InvalidReportError) -> None:
        """Find the record that the store refuses as malformed, and set it aside, so that it delays no other record."""
        if len(records) > 1:
            middle = len(records) // 2
            await self._send(records[:middle])
            await self._send(records[middle:])
            return
        logger.error("the store refused record %d of the decision log: %s", records[0].sequence, error)
        self.refused += 1
        await self._spool.refuse(records[0])

    def _log_outage(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            logger.warning("cannot send decisions to the store, so they wait on disk: %s", error)


def _request(node_id: str, records: list[Record]) -> pb.ReportDecisionsRequest:
    return pb.ReportDecisionsRequest(node_id=node_id, records=[pb.DecisionRecord(**one._asdict()) for one in records])
