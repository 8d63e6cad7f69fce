"""A sidecar of this version takes over the log of an earlier one, of which a real store has the first records."""

import uuid
from pathlib import Path

import grpc

from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncStub
from tests.pdp.decision_log.old_logs import FOLDER, copied, documents_of, records_of
from tests.waiting import BOUND_SECONDS, eventually_gives
from tests.whole import Answer, settings, sidecar, store

SENT = 4


async def test_the_store_gets_the_rest_of_the_log_in_an_unbroken_chain(tmp_path: Path) -> None:
    """Each decision once, under its number, whether it came in the old form or in the new one."""
    (tmp_path / "sidecar").mkdir()
    copied(tmp_path / "sidecar")
    node_id = str(uuid.uuid4())
    (tmp_path / "sidecar" / "node-id").write_text(node_id)
    old = records_of(FOLDER)
    sent = [
        pb.DecisionRecord(sequence=one[0], document=one[1], previous_hash=one[2], hash=one[3]) for one in old[:SENT]
    ]
    async with store(tmp_path) as central:
        async with grpc.aio.insecure_channel(central.grpc_address) as channel:
            answer = await RegistrySyncStub(channel).ReportDecisions(
                pb.ReportDecisionsRequest(node_id=node_id, records=sent),
                metadata=(("authorization", f"Bearer {central.key_file.read_text()}"),),
                timeout=BOUND_SECONDS,
            )
        assert answer.sequence == SENT
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await eventually_gives(beside.samples, lambda samples: samples["pdp_spool_records", ()] == 0)
            assert (await beside.samples())["pdp_decisions_refused_total", ()] == 0

        async def found() -> Answer:
            return await central.rest.call("GET", "/api/decisions?limit=500")

        page = await eventually_gives(found, lambda answer: answer.body["total"] >= SENT)
    decided = {
        document["decision_id"]: number
        for (number, *_), document in zip(old, documents_of(FOLDER), strict=True)
        if "answer" in document
    }
    assert {one["decision_id"]: one["sequence"] for one in page.body["decisions"]} == decided
    assert (page.body["missing"], page.body["breaks"]) == (3, 0)
