"""Assembles and runs the injector: load, listen, follow its files and the nodes; then not ready, drain, stop."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pdp.endpoints.listeners import http_listener
from pdp.injector.claims import AgentsFile, Claims
from pdp.injector.cluster import Cluster, ClusterError
from pdp.injector.http import Webhook, applications
from pdp.injector.metrics import Metrics
from pdp.injector.settings import Native, Settings
from pdp.serving.addresses import bound_address
from pdp.serving.connections import Limits, raise_descriptor_limit, share_of_descriptors
from pdp.serving.http1.server import serving
from pdp.serving.monitoring.port import monitoring
from pdp.serving.tls.certificates import Files
from pdp.serving.tls.reloaded import followed
from pdp.serving.tls.reloading import ServerCertificates
from pdp.settings import file_error

MAX_CONNECTIONS = 1000
IDLE_SECONDS = 120.0
"""Go keeps a connection that is not used for 90 s; a server that closes it first makes reviews fail."""
BODY_SECONDS = 10.0
NODES_SECONDS = 60.0
FIRST_NODES_SECONDS = 5.0
END_SECONDS = 0.5
"""Between the end of readiness and the end of listening, for reviews that are on their way."""
SWITCH_SECONDS = 0.0005
"""How long a thread that reads a large review may keep the others waiting; the default is 5 ms."""

logger = logging.getLogger(__name__)


class Injector(NamedTuple):
    """A running injector: its addresses, of which that of `--metrics` may be empty, and its metrics."""

    address: str
    metrics_address: str
    metrics: Metrics


class _Program:
    """What changes while the injector runs: the form of the sidecar, and whether it is draining."""

    def __init__(self, settings: Settings, cluster: Cluster | None) -> None:
        self._settings = settings
        self._cluster = cluster
        self.native = settings.native is not Native.NEVER
        self.draining = False

    def not_ready(self) -> str | None:
        """Why the injector should get no traffic; None if it is ready."""
        return "draining" if self.draining else None

    async def follow_nodes(self) -> None:
        """Look again at the nodes, until cancelled."""
        while self._settings.native is Native.AUTO and self._cluster is not None:
            await asyncio.sleep(NODES_SECONDS)
            await self.look_at_nodes()

    async def look_at_nodes(self) -> None:
        """Ask whether every node runs native sidecars; what cannot be known leaves the form as it is."""
        if self._settings.native is not Native.AUTO or self._cluster is None:
            return
        try:
            found = await self._cluster.runs_native()
        except ClusterError as error:
            logger.warning("cannot tell whether the nodes run native sidecars: %s", error)
            return
        if found != self.native:
            logger.warning("the sidecar is now injected as %s", "a native sidecar" if found else "a container")
        self.native = found


@asynccontextmanager
async def running(settings: Settings, cluster: Cluster | None = None) -> AsyncIterator[Injector]:
    """Runs an injector until it is drained; `SettingsError` if an address or a file cannot be used."""
    metrics = Metrics()
    program = _Program(settings, cluster)
    metrics.watch(
        "pdp_injector_native", "1 while sidecars are injected in the native form", lambda: float(program.native)
    )
    async with AsyncExitStack() as stack:
        files = Files(settings.tls_cert, settings.tls_key)
        certificates = await stack.enter_async_context(
            followed(partial(ServerCertificates, files), partial(file_error, "--tls-"))
        )
        metrics.certificates.watch("server", lambda: certificates.not_after)
        claims = await stack.enter_async_context(_claims(settings.agents_file))
        listener = stack.enter_context(http_listener("--listen", settings.listen))
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_NODES_SECONDS):
                await program.look_at_nodes()
        webhook = Webhook(settings.sidecar, metrics, claims, lambda: program.native, cluster)
        background = [program.follow_nodes()]
        if cluster is not None:
            stack.callback(cluster.close)
            background.append(cluster.send_events(metrics.event))
        tasks = [asyncio.create_task(each) for each in background]
        stack.push_async_callback(_cancelled, tasks)
        reviews, monitored = applications(webhook, metrics, program.not_ready)
        scraped = ""
        if settings.metrics is not None:
            watched = stack.enter_context(http_listener("--metrics", settings.metrics))
            scraped = await stack.enter_async_context(monitoring(monitored, watched))
        limits = Limits(
            share_of_descriptors(MAX_CONNECTIONS, 1 / 2), body_seconds=BODY_SECONDS, idle_seconds=IDLE_SECONDS
        )
        await stack.enter_async_context(serving(reviews, listener, limits, tls=certificates.context))
        yield Injector(bound_address(listener), scraped, metrics)
        program.draining = True
        await asyncio.sleep(END_SECONDS)


@asynccontextmanager
async def _claims(path: Path | None) -> AsyncIterator[Callable[[], Claims | None]]:
    """What `--agents-file` holds whenever it is asked for, until the block is left; without a file always None."""
    if path is None:
        yield lambda: None
        return
    async with followed(partial(AgentsFile, path), partial(file_error, "--")) as found:
        yield lambda: found.value


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs an injector until `stop` is set."""
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_descriptor_limit()
    async with running(settings, Cluster.of_this_pod()) as injector:
        where = {"https": injector.address} | ({"metrics": injector.metrics_address} if settings.metrics else {})
        logger.info("listening for reviews on %s", injector.address, extra=where)
        await stop.wait()
        logger.info("stopping")


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
