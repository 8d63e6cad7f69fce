"""Wiring and lifecycle of the store."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from starlette.types import ASGIApp

from pdp.serving import calls
from pdp.serving.accepting import listening
from pdp.serving.addresses import bound_address
from pdp.serving.connections import Limits, share_of_descriptors
from pdp.serving.http1.server import serving
from pdp.serving.monitoring import port, traces
from pdp.serving.tls.certificates import Files
from pdp.serving.tls.reloaded import followed
from pdp.serving.tls.reloading import ServerCertificates
from registry_store import outgoing, retention
from registry_store.access import keys
from registry_store.access.authentication import Authentication
from registry_store.access.certificates import SidecarNames
from registry_store.alerts.delivery import Delivery
from registry_store.alerts.outbox import Kind
from registry_store.alerts.routes import CHANNELS, Routes
from registry_store.approvals import expiry
from registry_store.approvals.approvals import ApprovalState
from registry_store.approvals.watching import ApprovalFeed
from registry_store.audit.checkpointer import Checkpointer
from registry_store.audit.checkpoints import CheckpointFile, Signer, signing_key
from registry_store.audit.sender import CheckpointSender
from registry_store.database.migrate import opened
from registry_store.database.notifications import Notifications
from registry_store.database.transactions import Database, retried
from registry_store.decisions.reports import MAX_MESSAGE_BYTES
from registry_store.errors import StartError
from registry_store.journal.activity import Actor
from registry_store.metrics import Metrics
from registry_store.offline import OfflineWatch
from registry_store.rest.application import application
from registry_store.rest.resources import operations
from registry_store.rpc.approvals import ApprovalService
from registry_store.rpc.calls import OpenStreams
from registry_store.rpc.reports import DecisionReports
from registry_store.rpc.sync import PACE, Pace, RegistrySync
from registry_store.settings import Settings, file_error, host_and_port
from registry_store.store import Store
from registry_store.sync.feed import Feed
from registry_store.sync.sidecars import Sidecars
from registry_store.sync.watching import SidecarWatch

if TYPE_CHECKING:
    from pdp.serving.monitoring.tracing import Tracing

logger = logging.getLogger(__name__)

MAX_HTTP_CONNECTIONS = 1000
BODY_SECONDS = 30
"""Enough for 9 MiB, the largest accepted body, over a slow connection."""
IDLE_SECONDS = 75
"""How long an idle connection is kept: longer than load balancers keep it, usually 60 s.

A request that is sent while the store closes its connection is lost, and only the sender can avoid that.
"""
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class RunningStore:
    """A store that serves `http_address` and `grpc_address`, both HOST:PORT."""

    http_address: str
    grpc_address: str
    metrics_address: str | None
    _store: Store

    async def create_key(self, role: str, name: str) -> str:
        """Creates a key and returns it; it cannot be read again."""
        return await retried(self._create_key, role, name)

    async def _create_key(self, role: str, name: str) -> str:
        async with self._store.database.writing() as session:
            _, text = await keys.create(session, self._store.pepper, {"role": role, "name": name}, _system_actor())
        return text


@asynccontextmanager
async def running(
    settings: Settings, pace: Pace = PACE, after_change: Callable[[int], Awaitable[None]] | None = None
) -> AsyncIterator[RunningStore]:
    """Runs a store until the block exits, then drains it; `StartError` if it cannot start.

    `after_change` is awaited with the newest revision after each request that writes, before the response.
    """
    settings.pepper_path()  # report a missing setting before the database is opened
    settings.check_escalation_team()
    files = settings.tls()
    outgoing.checkpoint_webhook(settings)
    routes = outgoing.routes(settings)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(opened(settings.url()))
        store = await _store(settings, database, routes)
        store.after_change = after_change
        # Before anything is started that would have to be stopped again; gRPC itself reports less than this does.
        for flag, text in (("--http", settings.http), ("--grpc", settings.grpc), ("--metrics", settings.metrics)):
            if text is not None:
                _listener(flag, text).close()
        _watch(store)
        streams = OpenStreams(store)
        sync = RegistrySync(store, streams, pace)
        reports = DecisionReports(store)
        approval_service = ApprovalService(store, streams, pace)
        await stack.enter_async_context(_checkpoints(store))
        await stack.enter_async_context(_background(store.feed.run()))
        await stack.enter_async_context(_background(store.approval_feed.run()))
        await stack.enter_async_context(_background(expiry.run(database, store.metrics)))
        await stack.enter_async_context(_background(OfflineWatch(database, store.sidecars, store.metrics).run()))
        watch = SidecarWatch(database, store.sidecars, settings.patience(), datetime.now(UTC))
        await stack.enter_async_context(_background(watch.run()))
        await stack.enter_async_context(store.delivery.running())
        await stack.enter_async_context(_background(streams.watch_keys()))
        await stack.enter_async_context(_background(store.metrics.loop_lag.measure()))
        await stack.enter_async_context(_background(retention.run(database, settings.retention())))
        stack.push_async_callback(store.authentication.save)
        await stack.enter_async_context(_background(store.authentication.run()))
        if store.notifications is not None:
            await stack.enter_async_context(_background(store.notifications.run()))
        store.sidecar_names = await stack.enter_async_context(_sidecar_names(settings.sidecar_names))
        certificates = await stack.enter_async_context(_certificates(files, store.metrics))
        tracing = await stack.enter_async_context(_tracing(settings))
        metrics_address = await stack.enter_async_context(_monitoring(store))
        grpc_address = await stack.enter_async_context(
            _grpc(store, [sync.handlers(), reports.handlers(), approval_service.handlers()], certificates)
        )
        http_address = await stack.enter_async_context(_http(store, certificates, tracing))
        stack.callback(store.feed.close)
        stack.callback(store.approval_feed.close)
        store.ready = True
        try:
            yield RunningStore(http_address, grpc_address, metrics_address, store)
        finally:
            store.ready = False


async def _store(settings: Settings, database: Database, routes: Routes) -> Store:
    async with database.writing() as session:
        pepper = await keys.pepper_of(session, settings.pepper_path())
    feed, approval_feed, sidecars, metrics = Feed(database), ApprovalFeed(database), Sidecars(), Metrics()
    routes = replace(routes, keys=outgoing.signing_keys(settings, pepper))
    delivery = Delivery(database, routes, metrics)
    await feed.read()

    def wake() -> None:
        feed.wake()
        approval_feed.wake()
        delivery.wake()

    database.on_commit = wake
    notifications = None if database.is_sqlite else Notifications(database, wake)
    return Store(
        settings,
        database,
        pepper,
        feed,
        approval_feed,
        sidecars,
        metrics,
        Authentication(database, pepper, settings.most_failed_keys),
        routes,
        delivery,
        notifications=notifications,
    )


def _watch(store: Store) -> None:
    """Registers the gauges that read the state of the store at each scrape."""
    feed, notifications = store.feed, store.notifications
    watch = store.metrics.watch
    # From zero on: what increases when it first appears is no increase to Prometheus, and no alert.
    store.metrics.start(
        alerts=[kind.value for kind in Kind], states=[state.value for state in ApprovalState], channels=CHANNELS
    )
    watch("registry_store_revision", "The newest revision.", lambda: feed.revision)
    watch("registry_store_connected_sidecars", "Sidecars with an open stream.", store.sidecars.count)
    watch(
        "registry_store_database_age_seconds",
        "Time since the database last confirmed the revision.",
        lambda: time.monotonic() - feed.confirmed_at,
    )
    watch(
        "registry_store_approval_watchers",
        "Open streams that wait for an approval.",
        lambda: store.approval_feed.watches,
    )
    if notifications is not None:
        watch(
            "registry_store_notified",
            "1 while commits of other stores are notified, 0 while only polling finds them.",
            lambda: notifications.heard,
        )


def _watch_checkpoints(metrics: Metrics, checkpointer: Checkpointer) -> None:
    watch = metrics.watch
    watch(
        "registry_store_activity_signed_sequence",
        "The last entry of the activity log that a checkpoint signed.",
        lambda: checkpointer.sequence,
    )
    watch(
        "registry_store_activity_log_intact",
        "0 after the activity log was changed.",
        lambda: checkpointer.fault is None,
    )


@asynccontextmanager
async def _checkpoints(store: Store) -> AsyncIterator[None]:
    path = store.settings.checkpoint_file
    if path is None:
        yield
        return
    webhook = outgoing.checkpoint_webhook(store.settings)
    async with AsyncExitStack() as stack:
        file = stack.enter_context(CheckpointFile(path, Signer(signing_key(store.pepper))))
        checkpointer = Checkpointer(store.database, file)
        _watch_checkpoints(store.metrics, checkpointer)
        if webhook is not None:
            sender = CheckpointSender(path, webhook)
            store.metrics.watch(
                "registry_store_activity_sent_sequence",
                "The last entry whose checkpoint was sent since the start.",
                lambda: sender.sequence,
            )
            await stack.enter_async_context(sender.running())
        await stack.enter_async_context(checkpointer.running())  # exits first, so that its last line is still sent
        yield


@asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_report_fault)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _report_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a background task ended", exc_info=error)


@asynccontextmanager
async def _certificates(files: Files | None, metrics: Metrics) -> AsyncIterator[ServerCertificates | None]:
    """The certificates of both listeners, which are reloaded until the block is left; None without files."""
    if files is None:
        yield None
        return
    async with followed(partial(ServerCertificates, files), partial(file_error, "--tls-")) as certificates:
        metrics.certificates.watch("server", lambda: certificates.not_after)
        yield certificates


def _tracing(settings: Settings) -> "AbstractAsyncContextManager[Tracing | None]":
    """What makes changes into spans, if `--traces` is given; what waits is sent when the block is left."""
    return traces.running_if(
        settings.traces,
        "registry-store",
        plaintext=settings.plaintext,
        drain_seconds=settings.drain_seconds,
        error_of=lambda reason: StartError(f"`--traces`: {reason}"),
    )


@asynccontextmanager
async def _sidecar_names(path: Path | None) -> AsyncIterator[SidecarNames | None]:
    """The file of `--sidecar-names`, reloaded until the block is left; None without it."""
    if path is None:
        yield None
        return
    async with followed(partial(SidecarNames, path), partial(file_error, "--")) as names:
        yield names


@asynccontextmanager
async def _http(store: Store, certificates: ServerCertificates | None, tracing: "Tracing | None") -> AsyncIterator[str]:
    listener = _listener("--http", store.settings.http)
    limits = Limits(
        connections=share_of_descriptors(MAX_HTTP_CONNECTIONS, 1 / 4),
        body_seconds=BODY_SECONDS,
        idle_seconds=IDLE_SECONDS,
        stop_seconds=store.settings.drain_seconds,
    )
    address = bound_address(listener)
    context = None
    if certificates is not None:
        context = certificates.listener(client_certs=not store.settings.http_without_client_cert)
    app: ASGIApp = application(store)
    if tracing is not None:
        from registry_store.rest.tracing import traced  # with OpenTelemetry's SDK, which is an extra

        app = traced(tracing, app)
    async with serving(app, listener, limits, proxy_headers=True, tls=context):
        yield address


@asynccontextmanager
async def _monitoring(store: Store) -> AsyncIterator[str | None]:
    """Serves metrics and probes on `--metrics`, if it is given; its actual address."""
    if store.settings.metrics is None:
        yield None
        return
    app = port.application(store.metrics.text, operations.alive, partial(operations.readiness, store))
    async with port.monitoring(app, _listener("--metrics", store.settings.metrics)) as address:
        yield address


@asynccontextmanager
async def _grpc(
    store: Store, handlers: Sequence[grpc.GenericRpcHandler], certificates: ServerCertificates | None
) -> AsyncIterator[str]:
    address = host_and_port("--grpc", store.settings.grpc)
    draining = calls.Draining()
    options = [*calls.options(MAX_MESSAGE_BYTES), *KEEPALIVE]
    server = grpc.aio.server(options=options, interceptors=[draining])
    server.add_generic_rpc_handlers(handlers)
    try:
        if certificates is None:
            bound = server.add_insecure_port(str(address))
        else:
            bound = server.add_secure_port(str(address), certificates.grpc_credentials())
    except RuntimeError:
        raise StartError(f"`--grpc`: `{store.settings.grpc}` is in use or not an address of this machine") from None
    await server.start()
    try:
        yield str(address._replace(port=bound))
    finally:
        await draining.stop(server, store.settings.drain_seconds)


def _listener(flag: str, text: str) -> socket.socket:
    address = host_and_port(flag, text)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return listening(family, (address.host, address.port))
    except OSError as error:
        raise StartError(f"`{flag}`: cannot listen on `{text}`: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error.strerror or error)


def _system_actor() -> Actor:
    return Actor("system", "system", datetime.now(UTC))
