"""Delivery: claims the alerts that are due, sends each to its targets, and notes the results."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from registry_store.alerts import outbox
from registry_store.alerts.outbox import AlertStatus, Sent
from registry_store.alerts.routes import Routes, Target
from registry_store.database.attempts import Attempts
from registry_store.database.tables import Agent, Alert
from registry_store.database.transactions import Database, retried
from registry_store.metrics import Metrics
from registry_store.webhooks import DeliveryError

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
COUNT_SECONDS = 10.0
"""How often the depth of the outbox is counted."""
STOP_SECONDS = 2.0
"""Time for running deliveries when the store stops; another store, or the next start, repeats the rest."""
MAX_CONCURRENT = 64
MAX_IN_LANE = 8
"""Deliveries to one host at once: one that hangs leaves room for the others."""
MAX_PROCESSES = 2
"""Deliveries to channels at once, each of which is a process."""
LANE_SECONDS = 2.0
"""Wait for a turn; after it the delivery counts as failed, and is tried again like any other."""


@dataclass(slots=True)
class _Lane:
    turns: asyncio.Semaphore
    users: int = 0


class Delivery:
    """Sends the alerts of the outbox; several stores may do so on one database."""

    def __init__(
        self,
        database: Database,
        routes: Routes,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._routes = routes
        self._metrics = metrics
        self._clock = clock
        self._attempts = Attempts("sending alerts", database.outage)
        self._lanes: dict[str, _Lane] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._counted_at = float("-inf")

    def wake(self) -> None:
        """Look for new alerts at once; extra calls are harmless."""
        self._woken.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends alerts until the block exits; running deliveries then have a moment to end."""
        loop = asyncio.create_task(self._run())
        try:
            yield
        finally:
            loop.cancel()
            if self._running:
                await asyncio.wait(self._running, timeout=STOP_SECONDS)
            for task in self._running:
                task.cancel()
            await asyncio.gather(loop, *self._running, return_exceptions=True)

    async def send_due(self) -> None:
        """Sends every alert that is due, and returns when all were tried once."""
        now = self._clock()
        while claimed := await self._claim(now, MAX_CONCURRENT):
            await asyncio.gather(*map(self._deliver, claimed))

    async def _run(self) -> None:
        while True:
            try:
                await self._tick()
                self._attempts.worked()
            except Exception as error:
                self._attempts.failed(error)
            try:
                async with asyncio.timeout(PERIOD_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _tick(self) -> None:
        self._woken.clear()
        await self._count()
        free = MAX_CONCURRENT - len(self._running)
        for alert in await self._claim(self._clock(), free) if free else ():
            task = asyncio.create_task(self._watched(alert))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if len(self._running) == MAX_CONCURRENT - 1:
            self.wake()  # others may have waited for a free place

    async def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._counted_at < COUNT_SECONDS:
            return
        async with self._database.reading() as session:
            self._metrics.alerts_pending.set(await outbox.count(session, AlertStatus.PENDING))
            self._metrics.alerts_dead.set(await outbox.count(session, AlertStatus.FAILED))
        self._counted_at = now

    async def _claim(self, now: datetime, maximum: int) -> Sequence[Alert]:
        if not await self._database.read_apart(lambda session: outbox.due(session, now)):
            return ()  # no lock of a writer is taken for nothing
        return await retried(self._claimed, now, maximum)

    async def _claimed(self, now: datetime, maximum: int) -> Sequence[Alert]:
        async with self._database.beside() as session:
            return await outbox.claim(session, now, maximum)

    async def _watched(self, alert: Alert) -> None:
        try:
            await self._deliver(alert)
        except Exception as error:
            self._attempts.failed(error)  # when its lease ends, the alert is claimed again

    async def _deliver(self, alert: Alert) -> None:
        if alert.attempts == 1:
            self._metrics.alerts.labels(alert.kind).inc()
        targets, now = await self._targets(alert), self._clock()
        untold = [target for target in targets if not outbox.was_told(alert, target.to, now)]
        results = await asyncio.gather(*(self._send(alert, target) for target in untold))
        status = await retried(self._settle, alert, results)
        if status is AlertStatus.FAILED:
            logger.error("alert `%s` (%s) was given up after %d tries", alert.alert_id, alert.kind, alert.attempts)

    async def _targets(self, alert: Alert) -> Sequence[Target]:
        configuration = {}
        if alert.agent_id is not None:
            async with self._database.reading() as session:
                agent = await session.get(Agent, alert.agent_id)
            configuration = agent.configuration if agent is not None else {}
        return list(self._routes.targets(alert, configuration))

    async def _send(self, alert: Alert, target: Target) -> Sent:
        try:
            async with self._turn(target.lane):
                await target.send()
        except DeliveryError as error:
            self._metrics.alerts_failed.labels(target.channel).inc()
            level = logging.DEBUG if alert.failures else logging.WARNING  # one line, and not one for each try of a day
            logger.log(level, "alert `%s` was not sent by %s: %s", alert.alert_id, target.channel, error)
            return Sent(target.channel, target.to, str(error))
        except Exception as error:
            self._metrics.alerts_failed.labels(target.channel).inc()
            logger.exception("internal error while sending an alert by %s", target.channel)
            return Sent(target.channel, target.to, f"internal error: {type(error).__name__}")
        self._metrics.alerts_sent.labels(target.channel).inc()
        return Sent(target.channel, target.to, None)

    async def _settle(self, alert: Alert, results: Sequence[Sent]) -> AlertStatus:
        async with self._database.beside() as session:
            return await outbox.settle(session, alert, results, self._clock())

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Waits for a turn in a lane; `DeliveryError` if the deliveries before it take too long."""
        wide = MAX_PROCESSES if name == "channel" else MAX_IN_LANE
        lane = self._lanes.setdefault(name, _Lane(asyncio.Semaphore(wide)))
        lane.users += 1
        try:
            try:
                async with asyncio.timeout(LANE_SECONDS):
                    await lane.turns.acquire()
            except TimeoutError:
                raise DeliveryError(f"other deliveries by {name} take too long") from None
            try:
                yield
            finally:
                lane.turns.release()
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[name]
