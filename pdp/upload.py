"""The decision log on its way to the store: in batches, in order, one at a time, over whatever connection there is."""

import asyncio
import logging
from contextlib import suppress

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from pdp.decision_log.segments import Record
from pdp.decision_log.spool import Spool
from pdp.metrics import Metrics
from pdp.sync.uplink import AwayError, RefusedError, Uplink
from registry_store.v1 import sync_pb2 as pb

MAX_RECORDS = 1000
REST_SECONDS = 1.0
"""Once all is sent, so that a thousand sidecars are no burden; an urgent record does not wait for it."""
DRAIN_SECONDS = 1.0
BACKOFF_FIRST, BACKOFF_MOST = 0.1, 10.0

logger = logging.getLogger(__name__)


class Reporter:
    """Sends what `spool` has on the disk, for as long as `run` runs; at the end, `drain` sends what it can."""

    def __init__(self, spool: Spool, uplink: Uplink, node_id: str) -> None:
        self.shipped = 0
        self.refused = 0
        self._spool = spool
        self._uplink = uplink
        self._node_id = node_id
        self._answered = False
        self._newest = spool.last
        """The newest sequence that this sidecar can have sent: now, or in an earlier life of its data folder."""
        self._away = False
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type((AwayError, OSError)),
            wait=wait_random_exponential(multiplier=BACKOFF_FIRST, max=BACKOFF_MOST),
            before_sleep=self._tell_away,
        )

    async def run(self) -> None:
        """Send batch after batch, until cancelled."""
        while True:
            self._spool.flushed.clear()
            self._spool.urgent.clear()
            sent: list[Record] = await self._retrying(self._send_next)
            if not sent:
                await self._spool.flushed.wait()
            elif sent[-1].sequence == self._spool.last:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REST_SECONDS):
                        await self._spool.urgent.wait()

    async def drain(self) -> None:
        """Send what can be sent in a second, if there is a connection."""
        with suppress(AwayError, OSError):  # a TimeoutError is an OSError
            async with asyncio.timeout(DRAIN_SECONDS):
                while records := await self._next():
                    await self._send(records)

    def watch(self, metrics: Metrics) -> None:
        """Show itself in the metrics."""
        metrics.watch_total("pdp_decisions_shipped", "Records that the store has kept", lambda: self.shipped)
        metrics.watch_total("pdp_decisions_refused", "Records that the store would not have", lambda: self.refused)

    async def _send_next(self) -> list[Record]:
        records = await self._next()
        if records:
            await self._uplink.here()
            await self._send(records)
            if self._away:
                self._away = False
                logger.info("decisions are sent again")
        return records

    async def _next(self) -> list[Record]:
        records = await self._spool.unsent(MAX_RECORDS)
        if self._answered:
            return records
        # What an earlier life may have sent, or else a single new one: an answer beyond it is of another history.
        return [one for one in records if one.sequence <= self._newest] or records[:1]

    async def _send(self, records: list[Record]) -> None:
        self._newest = max(self._newest, records[-1].sequence)
        request = await asyncio.to_thread(_request, self._node_id, records)  # it takes a millisecond
        try:
            kept = await self._uplink.report(request)
        except RefusedError as error:
            await self._send_parts(records, error)
            return
        self._answered = True
        if kept > self._newest:
            await self._spool.go_on_after(kept)
        elif kept < records[0].sequence:
            raise AwayError(f"it kept none of {len(records)} records from {records[0].sequence} on, but up to {kept}")
        else:
            self.shipped += sum(record.sequence <= kept for record in records)
            await self._spool.keep(kept)

    async def _send_parts(self, records: list[Record], error: RefusedError) -> None:
        """Find the record that the store finds malformed, and lay it aside, so that it holds up no other."""
        if len(records) > 1:
            middle = len(records) // 2
            await self._send(records[:middle])
            await self._send(records[middle:])
            return
        logger.error("the store will not have record %d of the decision log: %s", records[0].sequence, error)
        self.refused += 1
        await self._spool.refuse(records[0])

    def _tell_away(self, state: RetryCallState) -> None:
        if not self._away:
            self._away = True
            error = state.outcome.exception() if state.outcome else None
            logger.warning("decisions wait on the disk and cannot be sent: %s", error)


def _request(node_id: str, records: list[Record]) -> pb.ReportDecisionsRequest:
    return pb.ReportDecisionsRequest(node_id=node_id, records=[pb.DecisionRecord(**one._asdict()) for one in records])
