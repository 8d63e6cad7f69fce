"""A real sidecar and store: the node id belongs to another key, or sequences far ahead were sent."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pdp.settings import Subscription
from tests.both.test_decisions_up import register
from tests.waiting import eventually, eventually_gives
from tests.whole import AGENT, Answer, Central, settings, sidecar, store


def change(folder: Path, statement: str) -> None:
    """Changes the database as an older store or an admin would."""
    with closing(sqlite3.connect(folder / "registry.db")) as connection, connection:
        connection.execute(statement)


async def decisions_reach(central: Central, count: int) -> None:
    """Waits until the store has so many decisions."""

    async def found() -> Answer:
        return await central.rest.call("GET", "/api/decisions")

    await eventually_gives(found, lambda answer: answer.body["total"] == count)


async def test_a_sidecar_whose_sequences_were_sent_far_ahead_continues(tmp_path: Path) -> None:
    """Its log continues after the sequences that an older store accepted from another sidecar."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.sidecar.reached(1)
        await beside.evaluate(risk_score=10)
        await decisions_reach(central, 1)
        change(tmp_path, f"UPDATE decision_logs SET sequence = {2**48}")
        for count in (2, 3, 4):
            await beside.evaluate(risk_score=10)
            await decisions_reach(central, count)
        await eventually_gives(beside.samples, lambda samples: samples["pdp_spool_records", ()] == 0)
        assert (await beside.samples())["pdp_decisions_refused_total", ()] == 0


async def test_a_sidecar_without_its_node_id_waits_until_an_admin_releases_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps deciding, logs the reason, keeps its decisions, and sends them once it owns the id."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await register(central)
        await beside.sidecar.reached(1)
        await beside.evaluate(risk_score=10)
        await decisions_reach(central, 1)
        change(tmp_path, "UPDATE decision_logs SET owner = 'another'")
        await beside.evaluate(risk_score=10)
        await eventually(
            lambda: "cannot send decisions to the store, so they wait on disk: PERMISSION_DENIED" in caplog.text
        )
        node_id = (tmp_path / "sidecar" / "node-id").read_text()
        assert f"node id `{node_id}` belongs to keys of another name; an admin can release it" in caplog.text
        released = await central.rest.call("POST", f"/api/sidecars/{node_id}/release", {"reason": "OPS-2"})
        assert released.status == 200
        await decisions_reach(central, 2)
        assert (await beside.samples())["pdp_decisions_refused_total", ()] == 0


async def test_a_sidecar_with_another_key_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It logs the key file and the store's reason, and retries with growing pauses."""
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(1)
        body = {"role": "sidecar", "name": "another"}
        central.key_file.write_text((await central.rest.call("POST", "/api/keys", body)).body["key"])
        async with sidecar(settings(tmp_path, central.grpc_address)):
            await eventually(lambda: caplog.text.count("it does not let the key in `--key-file` sync (node id `") >= 2)


async def test_a_sidecar_with_a_bound_key_decides_for_its_agents_alone(tmp_path: Path) -> None:
    """The store also gets the record of a block of an unknown agent."""
    async with store(tmp_path) as central:
        await register(central)
        other = {"agent_id": "other-agent-prod", "display_name": "Other"}
        assert (await central.rest.call("POST", "/api/agents/registry", other)).status == 201
        body = {"role": "sidecar", "name": "bound", "agents": [AGENT]}
        central.key_file.write_text((await central.rest.call("POST", "/api/keys", body)).body["key"])
        given = settings(tmp_path, central.grpc_address, subscription=Subscription(agents=(AGENT,)))
        async with sidecar(given) as beside:
            await beside.sidecar.reached(2)
            await beside.evaluate(risk_score=10)
            assert await beside.reason(agent_id="other-agent-prod") == "AGENT_NOT_REGISTERED"
            await decisions_reach(central, 2)
            assert (await beside.samples())["pdp_decisions_refused_total", ()] == 0


async def test_the_store_shows_what_a_sidecar_is_called(tmp_path: Path) -> None:
    """The name is only for display: the node id still identifies the sidecar."""
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address, node_name="edge-7 (Oslo)")):

        async def listed() -> Answer:
            return await central.rest.call("GET", "/api/sidecars")

        answer = await eventually_gives(listed, lambda answer: answer.body["sidecars"])
        (shown,) = answer.body["sidecars"]
        node_id = (tmp_path / "sidecar" / "node-id").read_text()
        assert (shown["node_name"], shown["node_id"]) == ("edge-7 (Oslo)", node_id)
