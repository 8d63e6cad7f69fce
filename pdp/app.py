"""Assembles and runs the sidecar: load, listen, follow the store; then not ready, drain, stop."""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from pdp.callers.callers import Callers
from pdp.core.fields import quote_path
from pdp.core.model import Now, Source
from pdp.counters import gauges
from pdp.counters.writer import CountersWriter
from pdp.decision_log.echo import Echo
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.spool import Spool
from pdp.endpoints import http
from pdp.endpoints.listeners import bound, http_bound, http_listener
from pdp.endpoints.service import SERVICE, Decide, DecisionService
from pdp.metrics import Metrics
from pdp.serving import calls, memory
from pdp.serving.addresses import Address
from pdp.serving.connections import Limits, raise_descriptor_limit, share_of_descriptors
from pdp.serving.http1.server import serving
from pdp.serving.monitoring import port, traces
from pdp.serving.tls import certificates, diagnosis
from pdp.serving.tls.certificates import Files
from pdp.serving.tls.reloaded import followed
from pdp.serving.tls.reloading import ServerCertificates
from pdp.settings import MAX_STALENESS_SECONDS, Settings, SettingsError, file_error, read_credentials, read_key
from pdp.state import Holder, State
from pdp.suspender import AGAIN_SECONDS
from pdp.sync.last_good import LastGood, locked_folder
from pdp.sync.replica import Replica, built
from pdp.sync.subscriber import Access, Node, Subscriber, Timing
from pdp.sync.uplink import Uplink
from pdp.upload import Reporter

if TYPE_CHECKING:
    from pdp.serving.monitoring.tracing import Tracing

MAX_REQUEST_BYTES = 4 << 20
MAX_CONCURRENT_CALLS = 10_000
MAX_HTTP_CONNECTIONS = 1000
MAX_WATCHERS = 100
END_SECONDS = 0.5
SAVE_SECONDS = 10.0
LEAVE_SECONDS = 0.5
"""For the store to answer that this sidecar leaves."""
CLOCK_STEP_SECONDS = 5.0
"""If the wall clock is set back by less, as NTP may do, the age of the last good state still counts as known."""
QUIET_SECONDS = 0.2
"""After this time without a decision, a sidecar that stops takes its callers to be gone."""
SWITCH_SECONDS = 0.0005
"""How long a thread may keep a decision waiting for Python's global lock; the default is 5 ms."""
SETTLE_SECONDS = 3.0
"""After the first registry data; then a sidecar has connected, sent its first reports and answered its first calls."""
TIMING = Timing()
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger(__name__)


def now() -> Now:
    """One reading of the clocks; the boot clock continues while the machine sleeps."""
    return Now(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def boot_id() -> str:
    """The id of this boot of the machine; empty if the system has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Sidecar(NamedTuple):
    """A running sidecar: its addresses and tasks, whether it has registry data, and what to wait for."""

    grpc_addresses: tuple[str, ...]
    http_addresses: tuple[str, ...]
    tasks: tuple[asyncio.Task[None], ...]
    ready: asyncio.Event
    reached: Callable[[int], Awaitable[None]]
    leave: Callable[[], Awaitable[None]]
    metrics_address: str | None = None

    @property
    def http_address(self) -> str:
        """The first of the addresses for HTTP."""
        return self.http_addresses[0]

    @property
    def grpc_address(self) -> str:
        """The first of the addresses to call it on."""
        return self.grpc_addresses[0]


@asynccontextmanager
async def running(settings: Settings, timing: Timing = TIMING) -> AsyncIterator[Sidecar]:
    """Runs a sidecar until it is drained; `SettingsError` if an address or the data folder cannot be used."""
    async with AsyncExitStack() as stack:
        stack.enter_context(locked_folder(settings.data_dir))
        decisions = await asyncio.to_thread(_decision_log, settings)
        counters = await asyncio.to_thread(CountersWriter, settings.data_dir / "counters", boot_id(), now)
        callers = await stack.enter_async_context(_callers(settings.caller_agents))
        tracing = await stack.enter_async_context(_tracing(settings))
        program = _Program(settings, timing, decisions, counters, callers=callers, tracing=tracing)
        served = await stack.enter_async_context(_certificates(settings.tls, program.metrics))
        listeners = [
            stack.enter_context(http_bound("--http", address, settings.socket_mode)) for address in settings.http
        ]
        server = program.grpc_server()
        listening = partial(
            bound,
            "--listen",
            server=server,
            credentials=None if served is None else served.grpc_credentials,
            mode=settings.socket_mode,
        )
        addresses = [stack.enter_context(listening(address)) for address in settings.listen]
        # Before the data is loaded, so that it answers until the decision log is sent.
        metrics_address = await stack.enter_async_context(_monitoring(settings.metrics, program))
        await program.start_from_disk()
        tasks = await stack.enter_async_context(program.tasks())
        limits = Limits(share_of_descriptors(MAX_HTTP_CONNECTIONS, 1 / 4))
        app = http.application(
            program.service,
            program.metrics,
            program.not_ready,
            settings.http_hosts,
            max_waiting=limits.requests // 2,
        )
        if tracing is not None:
            app = tracing.http(app)
        for (listener, _), address in zip(listeners, settings.http, strict=True):
            context = None if served is None or address.path else served.context
            await stack.enter_async_context(serving(app, listener, limits, tls=context))
        await stack.enter_async_context(program.serving(server))
        yield Sidecar(
            tuple(addresses),
            tuple(actual for _, actual in listeners),
            tasks,
            program.has_data,
            program.reached,
            program.leave,
            metrics_address,
        )


@asynccontextmanager
async def _monitoring(address: Address | None, program: "_Program") -> AsyncIterator[str | None]:
    """Serves metrics and probes on `--metrics`, if it is given; its actual address."""
    if address is None:
        yield None
        return
    with http_listener("--metrics", address) as listener:
        probes = http.Probes(program.service, program.not_ready)
        app = port.application(program.metrics.text, probes.alive, probes.ready)
        async with port.monitoring(app, listener) as actual:
            yield actual


def _tracing(settings: Settings) -> "AbstractAsyncContextManager[Tracing | None]":
    """What makes decisions into spans, if `--traces` is given; what waits is sent when the block is left."""
    return traces.running_if(
        settings.traces,
        "pdp",
        plaintext=settings.plaintext,
        drain_seconds=settings.drain_seconds,
        error_of=partial(SettingsError, "--traces"),
    )


@asynccontextmanager
async def _certificates(files: Files | None, metrics: Metrics) -> AsyncIterator[ServerCertificates | None]:
    """The certificates of the TCP listeners, which are reloaded until the block is left; None without files."""
    if files is None:
        yield None
        return
    async with followed(partial(ServerCertificates, files), partial(file_error, "--tls-")) as served:
        metrics.certificates.watch("server", lambda: served.not_after)
        yield served


@asynccontextmanager
async def _callers(path: Path | None) -> AsyncIterator[Callers]:
    """What `--caller-agents` says of callers, reloaded until the block is left; without a file all are alike."""
    if path is None:
        yield Callers()
        return
    from pdp.callers.agents_file import CallerAgents  # with a parser of YAML, which most sidecars do not need

    async with followed(partial(CallerAgents, path), partial(file_error, "--")) as agents:
        yield Callers(lambda: agents.value)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a sidecar until `stop` is set, or until one of its tasks fails, which is raised."""
    sys.setswitchinterval(SWITCH_SECONDS)
    memory.return_freed()
    raise_descriptor_limit()
    async with running(settings) as sidecar:
        gc.freeze()  # else each full collection traverses all that was imported, and holds up every decision
        logger.info(
            "listening for gRPC on %s, for HTTP on %s",
            ", ".join(sidecar.grpc_addresses),
            ", ".join(sidecar.http_addresses),
            extra={"grpc": sidecar.grpc_addresses, "http": ", ".join(sidecar.http_addresses)},
        )
        if sidecar.metrics_address is not None:
            logger.info("serving metrics and probes on %s", sidecar.metrics_address)
        settling = asyncio.create_task(_settle(sidecar.ready))
        try:
            await until(stop, sidecar.tasks)
        finally:
            await _cancelled(settling)
        logger.info("stopping")
        await sidecar.leave()


async def _settle(ready: asyncio.Event) -> None:
    """Gives back the code of the start, once that is over."""
    await ready.wait()
    await asyncio.sleep(SETTLE_SECONDS)
    memory.release_code()


async def until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Waits until `stop` is set, or raises what ended one of `tasks`."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for task in tasks:
        if task.done():
            task.result()


class _Health(health.aio.HealthServicer):
    """The health service with a limit for `Watch`, because each watcher occupies a call."""

    _watchers = 0

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - the name of the RPC
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} calls watch already")
        self._watchers += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watchers -= 1


class _Program:
    """The parts of one sidecar, and their connections."""

    def __init__(
        self,
        settings: Settings,
        timing: Timing,
        decisions: DecisionLog,
        counters: CountersWriter,
        *,
        callers: Callers,
        tracing: "Tracing | None",
    ) -> None:
        self._settings = settings
        self._tracing = tracing
        self._holder = Holder(settings.max_staleness, settings.stale_mode)
        self._health = _Health()
        self.has_data = asyncio.Event()
        self._draining = False
        self._calls = calls.Draining()
        self._state_changed = asyncio.Event()
        self.metrics = Metrics(settings.subscription.agents)
        self.last_good = LastGood(
            settings.data_dir,
            settings.subscription,
            confirmed_wall=self._confirmed_wall,
            on_failure=self.metrics.last_good_failure,
        )
        uplink = Uplink()
        self._spool = Spool(decisions, settings.redact, Echo() if settings.log_decisions else None)
        self._counters = counters
        node = Node(self.last_good.node_id(), settings.subscription, settings.store, settings.node_name)
        self.service = DecisionService(
            self._holder,
            self.metrics,
            now,
            self._spool,
            uplink,
            counters=counters.counters,
            ledger=counters.ledger,
            node_id=node.node_id,
            callers=callers,
            around=None if tracing is None else _around(tracing),
        )
        self._replica = Replica(self._holder, self.metrics, self._on_state)
        access = Access(
            key=None if settings.key_file is None else partial(read_key, settings.key_file),
            credentials=None if settings.store_tls is None else partial(read_credentials, settings.store_tls),
            failure=partial(diagnosis.failure, settings.store, settings.store_tls, "--store-"),
        )
        self._subscriber = Subscriber(node, access, self._replica, self.metrics, uplink, clock=now, timing=timing)
        self._reporter = Reporter(self._spool, uplink, node.node_id)
        self._register_metrics()

    def not_ready(self) -> str | None:
        """Why the sidecar should get no traffic; None if it is ready."""
        if self._draining:
            return "draining"
        return None if self._holder.current is not None else "no registry data"

    async def reached(self, revision: int) -> None:
        """Return when the registry in force has `revision` or a newer one."""
        while self._holder.revision < revision:
            await self._state_changed.wait()

    def grpc_server(self) -> grpc.aio.Server:
        """The gRPC server with every service on it, not yet bound or started."""
        server = grpc.aio.server(
            options=calls.options(MAX_REQUEST_BYTES),
            maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
            interceptors=[self._calls] if self._tracing is None else [self._calls, self._tracing.grpc()],
        )
        server.add_generic_rpc_handlers((self.service.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflection:
            from grpc_reflection.v1alpha import reflection  # with descriptors of descriptors, which few sidecars need

            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    async def start_from_disk(self) -> None:
        """Puts the last good state in force, if there is one."""
        saved = await asyncio.to_thread(self.last_good.load)
        if saved is None:
            return
        state, refused = await built(saved.records, saved.epoch, saved.revision)
        # Only a snapshot brings the records that this version, or the previous one, could not read.
        self._replica.needs_snapshot = bool(refused) or not saved.complete
        self._holder.swap(state, Source.CACHED)
        at = now()
        self._holder.confirm(at.boot - _age(saved.confirmed_wall, at.wall))
        self.has_data.set()
        logger.info("serving from the last good state, revision %d", saved.revision)

    async def leave(self) -> None:
        """Tells callers to go, and answers them while they do: until none asks, but for half of the drain at most."""
        await self._become_unready()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds / 2):
                while True:
                    decided = self.metrics.decided_in_all()
                    await asyncio.sleep(QUIET_SECONDS)
                    if self.metrics.decided_in_all() == decided:
                        return

    async def _become_unready(self) -> None:
        self._draining = True
        await self._health.enter_graceful_shutdown()

    @asynccontextmanager
    async def serving(self, server: grpc.aio.Server) -> AsyncIterator[None]:
        """Serves gRPC, and drains it at the end."""
        await server.start()
        try:
            yield
        finally:
            await self._become_unready()
            self.service.stop_waiting()
            await self._drain(server)

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Drains the server; after `drain_seconds` open streams are asked to end, and then have a moment to do so."""
        seconds = self._settings.drain_seconds
        ending = asyncio.get_running_loop().call_later(seconds, self.service.end_streams)
        try:
            sockets = [Path(address.path) for address in self._settings.listen if address.path]
            await self._calls.stop(server, seconds + END_SECONDS, sockets)
        finally:
            ending.cancel()

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[tuple[asyncio.Task[None], ...]]:
        """Follows the store, writes the last good state, the decisions and the counters to disk, and uploads decisions.

        At the end all three are written once more, and decisions are uploaded for up to a second.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        saving = asyncio.create_task(self.last_good.run())
        following = asyncio.create_task(self._subscriber.run())
        logging_ = asyncio.create_task(self._spool.run())
        counting = asyncio.create_task(self._counters.run(self._spool))
        reporting = asyncio.create_task(self._reporter.run())
        announcing = asyncio.create_task(self._announce())
        reporting_again = asyncio.create_task(self._report_suspensions())
        measuring = asyncio.create_task(self.metrics.loop_lag.measure())
        try:
            yield saving, following, logging_, counting, reporting
        finally:
            await _cancelled(announcing)
            await _cancelled(reporting_again)
            await _cancelled(measuring)
            self._spool.close()
            self._counters.close()
            self.last_good.close()
            await asyncio.wait([logging_, counting, saving], timeout=SAVE_SECONDS)
            await _cancelled(reporting)
            await self._reporter.drain()
            if self._subscriber.leave():
                await asyncio.wait([following], timeout=LEAVE_SECONDS)
            await _cancelled(following)
            await _cancelled(logging_)
            await _cancelled(counting)
            await _cancelled(saving)
            self._spool.end()

    async def _report_suspensions(self) -> None:
        """Report suspensions again while the store is there and has not acted on them: a record can be lost."""
        while True:
            if self._holder.current is not None and self._holder.source is Source.LIVE:
                self.service.point.suspender.report_again(self._holder.current)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _announce(self) -> None:
        await self.has_data.wait()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def _set_health(self, status: int) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)

    def _on_state(self, state: State, complete: bool) -> None:
        self.has_data.set()
        self._state_changed.set()
        self._state_changed = asyncio.Event()
        self.last_good.offer(state, complete=complete)

    def _confirmed_wall(self) -> float:
        at = now()
        return at.wall - (at.boot - self._holder.confirmed_at)

    def _register_metrics(self) -> None:
        self._holder.watch(self.metrics, now)
        self.metrics.watch(
            "pdp_clock_offset_seconds",
            "How far the store's clock is ahead of this one; NaN until it is known",
            lambda: self._subscriber.store_clock.offset,
        )
        self.metrics.watch("pdp_ready", "1 while the sidecar should get traffic", lambda: self.not_ready() is None)
        self.metrics.watch(
            "pdp_approval_waits", "Calls that wait for an approval", lambda: self.service.approvals.waiting
        )
        gauges.watch(
            self.metrics,
            self._counters.counters,
            self._settings.subscription.agents,
            lambda: self._holder.current.agents if self._holder.current else {},
            now,
        )
        if (files := self._settings.store_tls) is not None and (cert := files.cert) is not None:
            self.metrics.certificates.watch("store", lambda: certificates.expiry(cert))
        self._spool.watch(self.metrics)
        self._counters.watch(self.metrics)
        self._counters.ledger.watch(self.metrics)
        self._reporter.watch(self.metrics)
        self.service.point.answers.watch(self.metrics)


def _around(tracing: "Tracing") -> Callable[[Decide], Decide]:
    from pdp.endpoints.tracing import traced  # with OpenTelemetry, which is an extra

    return partial(traced, tracing)


def _age(confirmed_wall: float, wall: float) -> float:
    """The age of the saved data; if it is from the future, its age is unknown and counts as above any maximum."""
    if confirmed_wall - wall > CLOCK_STEP_SECONDS:
        logger.warning(
            "the last good state is from %.0f s ahead of this clock, so it counts as stale", confirmed_wall - wall
        )
        return MAX_STALENESS_SECONDS + 1.0
    return max(0.0, wall - confirmed_wall)


def _decision_log(settings: Settings) -> DecisionLog:
    try:
        return DecisionLog(
            settings.data_dir / "decisions", settings.log_bytes, time.time, drop_oldest=settings.log_full == "drop"
        )
    except OSError as error:
        name = quote_path(settings.data_dir)
        raise SettingsError("--data-dir", f"cannot use the decision log in {name}: {error.strerror}") from error


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
