"""A sidecar that is stopped says so, and the store does not take it for lost."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.waiting import eventually_gives
from tests.whole import Central, settings, sidecar, store


async def ended(central: Central) -> dict[str, float]:
    """The ended streams by status."""
    text = (await central.rest.call("GET", "/metrics")).body
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["registry_store_streams_ended"].samples
    return {sample.labels["status"]: sample.value for sample in samples if sample.name.endswith("_total")}


async def test_a_sidecar_that_stops_ends_its_stream(tmp_path: Path) -> None:
    """With the status OK, where a lost connection is cancelled."""
    async with store(tmp_path) as central:
        async with sidecar(settings(tmp_path, central.grpc_address)):
            await eventually_gives(lambda: central.rest.call("GET", "/api/sidecars"), lambda it: it.body["total"] == 1)
        assert await eventually_gives(lambda: ended(central), bool) == {"ok": 1.0}
