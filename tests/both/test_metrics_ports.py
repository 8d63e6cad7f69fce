"""The port of `--metrics`, of sidecar and store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pdp.settings import SettingsError, host_and_port
from registry_store.errors import StartError
from tests import whole
from tests.whole import Http

FREE = "127.0.0.1:0"
OTHER_PATHS = ("/", "/docs", "/openapi.json", "/v1/evaluate", "/api/agents/registry", "/approvals", "/metrics/")


@asynccontextmanager
async def calling(address: str | None) -> AsyncIterator[Http]:
    assert address is not None
    http = Http(address)
    try:
        yield http
    finally:
        http.close()


async def check(port: Http, main: Http, metric: str, alive: str) -> None:
    """The three paths answer as those of the main port do, and there are no others."""
    scraped = await port.call("GET", "/metrics")
    assert scraped.status == 200
    assert f"\n{metric} " in scraped.body
    assert await port.call("GET", "/healthz") == (200, {"status": alive}) == await main.call("GET", "/healthz")
    ready, other = await port.until_probed(200), await main.until_probed(200)
    assert ready.body.keys() == other.body.keys()
    for path in OTHER_PATHS:
        assert (await port.call("GET", path)).status == 404, path
    assert (await port.call("POST", "/metrics")).status == 405
    assert (await port.call("GET", "/readyz?verbose=1")).body["title"] == "`verbose`: unknown parameter"


async def test_a_sidecar_serves_metrics_and_probes_alone(tmp_path: Path) -> None:
    """Under any name of the host, which the main port refuses: a scraper may come by the name of a service."""
    async with whole.store(tmp_path) as central:
        settings = whole.settings(tmp_path, central.grpc_address, metrics=host_and_port("--metrics", FREE))
        async with whole.sidecar(settings) as beside, calling(beside.sidecar.metrics_address) as port:
            await check(port, beside.http, "pdp_registry_revision", "alive")
            named = {"host": "sidecars.example"}
            assert (await port.call("GET", "/metrics", headers=named)).status == 200
            assert (await beside.http.call("GET", "/metrics", headers=named)).status == 403


async def test_a_sidecar_without_data_is_alive_and_not_ready(tmp_path: Path) -> None:
    """The reason is told."""
    settings = whole.settings(tmp_path, "127.0.0.1:1", metrics=host_and_port("--metrics", FREE))
    async with whole.sidecar(settings) as beside, calling(beside.sidecar.metrics_address) as port:
        assert await port.call("GET", "/readyz") == (503, {"status": "no registry data"})
        assert (await port.call("GET", "/healthz")).status == 200


async def test_a_store_serves_metrics_and_probes_alone(tmp_path: Path) -> None:
    """Scrapes of this port do not count as requests of the REST interface."""
    async with whole.store(tmp_path, metrics=FREE) as central, calling(central.metrics_address) as port:
        await check(port, central.rest, "registry_store_revision", "ok")
        assert 'route="/metrics"' not in (await port.call("GET", "/metrics")).body


async def test_an_address_in_use_is_refused_by_its_flag(tmp_path: Path) -> None:
    """By the sidecar and by the store."""
    async with whole.store(tmp_path, metrics=FREE) as central:
        taken = str(central.metrics_address)
        with pytest.raises(StartError, match=f"^`--metrics`: cannot listen on `{taken}`: address already in use$"):
            await opened(whole.store(tmp_path, metrics=taken))
        settings = whole.settings(tmp_path, central.grpc_address, metrics=host_and_port("--metrics", taken))
        with pytest.raises(SettingsError, match=f"^`--metrics`: `{taken}` is in use by another process$"):
            await opened(whole.sidecar(settings))


async def opened(program: Any) -> None:
    async with program:
        pass
