"""Decisions from a real sidecar to a real store, through restarts, kills and outages of the store."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from pdp import upload
from pdp.decision_log.redaction import Redaction
from pdp.decision_log.verify import records
from pdp.settings import SettingsError
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.programs import BIN, started
from tests.waiting import BOUND_SECONDS, eventually_gives
from tests.whole import AGENT, FINANCIAL, Answer, Central, Http, settings, sidecar, store

NOWHERE = "127.0.0.1:1"
FREE = {f"max_actions_per_{window}": None for window in ("minute", "hour", "day")}


async def register(central: Central) -> None:
    answer = await central.rest.call("POST", "/api/agents/registry", FINANCIAL | FREE)
    assert answer.status == 201, answer


async def decisions(central: Central, count: int) -> list[dict[str, Any]]:
    """The store's decisions of the agent, oldest first, once there are enough; none is broken or missing."""

    async def found() -> Answer:
        return await central.rest.call("GET", f"/api/decisions?agent_id={AGENT}&limit=500")

    page = await eventually_gives(found, lambda answer: answer.body["total"] >= count)
    assert (page.body["total"], page.body["missing"], page.body["breaks"]) == (count, 0, 0)
    one_by_one: list[dict[str, Any]] = page.body["decisions"]
    while len(one_by_one) < count:
        before = one_by_one[-1]["decision_id"]
        path = f"/api/decisions?agent_id={AGENT}&limit=500&before={before}"
        one_by_one += (await central.rest.call("GET", path)).body["decisions"]
    return one_by_one[::-1]


async def test_every_decision_is_with_the_store_as_it_was_answered(tmp_path: Path) -> None:
    """Each outcome, dry runs too; each once, in order, attributes redacted."""
    async with store(tmp_path) as central:
        await register(central)
        given = settings(tmp_path, central.grpc_address)
        async with sidecar(given) as beside:
            await beside.sidecar.reached(1)
            answers = [
                await beside.evaluate(risk_score=10),
                await beside.evaluate(risk_score=85),
                await beside.evaluate(resource="production_secrets"),
                await beside.evaluate(risk_score=10, dry_run=True),
            ]
            found = await decisions(central, 4)
    assert [one["decision_id"] for one in found] == [answer.decision_id for answer in answers]
    assert [one["answer"]["outcome"] for one in found] == ["allow", "escalate", "block", "allow"]
    assert [one["dry_run"] for one in found] == [False, False, False, True]
    assert [one["sequence"] for one in found] == [1, 2, 3, 4]
    assert found[0]["latency_seconds"] > 0


async def test_attributes_that_are_redacted_never_leave_the_sidecar(tmp_path: Path) -> None:
    """Neither to the disk nor to the store."""
    async with store(tmp_path) as central:
        await register(central)
        given = settings(tmp_path, central.grpc_address, redact=Redaction.of(["customer.ssn"]))
        async with sidecar(given) as beside:
            await beside.sidecar.reached(1)
            attributes = {"customer": {"ssn": "123-45-6789", "tier": 2}}
            action = {"agent_id": AGENT, "action_type": "api.read", "resource": "banking_api", "attributes": attributes}
            assert (await beside.http.call("POST", "/v1/evaluate", {"action": action})).status == 200
            (found,) = await decisions(central, 1)
    assert found["action"]["attributes"] == {"customer": {"ssn": "[redacted]", "tier": 2}}
    assert not any(b"123-45-6789" in content for content in all_bytes(tmp_path))


def all_bytes(folder: Path) -> list[bytes]:
    """The content of every file in `folder`."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_decisions_made_during_an_outage_of_the_store_are_sent_afterwards(tmp_path: Path) -> None:
    """Also if the sidecar was restarted meanwhile."""
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(1)
            await beside.evaluate(risk_score=10)
            await decisions(central, 1)
            await eventually_gives(beside.samples, lambda samples: samples["pdp_spool_records", ()] == 0)
    for _ in range(2):
        async with sidecar(settings(tmp_path, NOWHERE)) as beside:
            for _ in range(20):
                await beside.evaluate(risk_score=10)
    async with store(tmp_path) as central, sidecar(settings(tmp_path, central.grpc_address)) as beside:
        await beside.evaluate(risk_score=10)
        found = await decisions(central, 42)
        shipped = ("pdp_decisions_shipped_total", ())
        await eventually_gives(beside.samples, lambda samples: samples[shipped] == 41)
    assert [one["sequence"] for one in found] == list(range(1, 43))


async def test_a_stop_sends_the_last_decisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits on the disk of a pod that may never come back."""
    monkeypatch.setattr(upload, "DRAIN_SECONDS", BOUND_SECONDS)
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(1)
            for _ in range(100):
                await beside.evaluate(risk_score=10)
        found = await central.rest.call("GET", f"/api/decisions?agent_id={AGENT}&limit=1")
    assert found.body["total"] == 100


def arguments(folder: Path, store_address: str) -> list[str]:
    """The command line of a sidecar on free ports."""
    return [
        "serve",
        f"--store={store_address}",
        f"--key-file={folder / 'sidecar.key'}",
        "--all-agents",
        "--listen=127.0.0.1:0",
        "--http=127.0.0.1:0",
        f"--data-dir={folder / 'sidecar'}",
        "--log-format=json",
    ]


@asynccontextmanager
async def stub(address: str) -> AsyncIterator[PolicyDecisionPointStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield PolicyDecisionPointStub(channel)


async def ready(address: str) -> None:
    """Waits until the sidecar with this HTTP port decides; what it logs comes in no certain order."""
    http = Http(address)
    await http.until_probed(200)
    http.close()


async def ask_until_it_dies(address: str, answered: list[str]) -> None:
    """Decision after decision, as fast as possible, until there is no answer."""
    action = pb.Action(agent_id=AGENT, action_type="api.read", resource="banking_api", risk_score=10)
    async with stub(address) as sidecar:
        while True:
            try:
                answer = await sidecar.Evaluate(pb.EvaluateRequest(action=action), timeout=BOUND_SECONDS)
            except grpc.aio.AioRpcError:
                return
            answered.append(answer.decision_id)


def on_disk(folder: Path) -> dict[int, str]:
    """The decisions in the log files, from complete batches, by sequence."""
    lines = map(json.loads, records(folder / "sidecar" / "decisions"))
    return {line["sequence"]: line["decision_id"] for line in lines}


async def test_a_sidecar_that_is_killed_under_load_loses_no_decision_that_was_on_the_disk(tmp_path: Path) -> None:
    """It loses only the newest; after the restart the store has the others, in order, with an unbroken chain."""
    answered: list[str] = []
    async with store(tmp_path) as central:
        await register(central)
        async with started("pdp", *arguments(tmp_path, central.grpc_address)) as program:
            addresses = await program.logged("listening")
            await ready(addresses["http"])
            address = addresses["grpc"][0]
            load = [asyncio.create_task(ask_until_it_dies(address, answered)) for _ in range(8)]
            await decisions_reach(central, 200)
            program.process.send_signal(signal.SIGKILL)
            await asyncio.gather(*load)
            await program.process.wait()
        written = on_disk(tmp_path)
        first, last = min(written), max(written)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(1)
            await beside.evaluate(risk_score=10)
            found = [one["decision_id"] for one in await decisions(central, last + 1)]
    assert found[first - 1 : -1] == list(written.values()), "files before the first have gone as the store had them"
    assert list(written) == list(range(first, last + 1))
    assert found == sorted(found)
    assert set(answered[: last - 8]) <= set(found), "only the newest are lost"


async def decisions_reach(central: Central, count: int) -> None:
    path = f"/api/decisions?agent_id={AGENT}&limit=1"
    await eventually_gives(lambda: central.rest.call("GET", path), lambda answer: answer.body["total"] >= count)


async def test_a_full_log_that_blocks_stops_decisions_until_there_is_room(tmp_path: Path) -> None:
    """UNAVAILABLE and 503 while it is full; in the end the store has all records."""
    async with store(tmp_path) as central:
        await register(central)
        async with sidecar(settings(tmp_path, central.grpc_address)) as beside:
            await beside.sidecar.reached(1)
    action = pb.Action(agent_id=AGENT, action_type="api.read", resource="banking_api", risk_score=10)
    batch = pb.EvaluateBatchRequest(requests=[pb.EvaluateRequest(action=action)] * 200)
    given: dict[str, Any] = {"log_bytes": 1 << 20, "log_full": "block"}
    made = 0
    async with sidecar(settings(tmp_path, NOWHERE, **given)) as beside:
        refused: list[pb.EvaluateResult] = []
        status = 200
        while not (refused and status == 503):  # what waits in memory for the disk counts for more than on it
            results = (await beside.stub.EvaluateBatch(batch, timeout=BOUND_SECONDS)).results
            refused = [result for result in results if result.HasField("error")]
            action_too = {"agent_id": AGENT, "action_type": "x"}
            status = (await beside.http.call("POST", "/v1/evaluate", {"action": action_too})).status
            made += len(results) - len(refused) + (status == 200)
            assert made < 5000, "a mebibyte is never full"
    assert refused[0].error.message == "the decision log is full and `--log-full` is `block`"
    async with (
        store(tmp_path) as central,
        sidecar(settings(tmp_path, central.grpc_address, **given)) as beside,
    ):
        for count in range(0, made, 100):  # in many small files, each of which is a commit
            await decisions_reach(central, count)
        await decisions(central, made)
        assert (await beside.evaluate(risk_score=10)).outcome == pb.OUTCOME_ALLOW
        await decisions(central, made + 1)


async def test_a_folder_that_cannot_hold_the_log_stops_the_start(tmp_path: Path) -> None:
    """With the setting's name."""
    (tmp_path / "sidecar").mkdir()
    (tmp_path / "sidecar" / "decisions").write_text("")
    with pytest.raises(SettingsError, match=r"`--data-dir`: cannot use the decision log in .*: File exists"):
        async with sidecar(settings(tmp_path, NOWHERE)):
            pass


@pytest.mark.parametrize("reader", ["reads", "is gone"])
async def test_decisions_are_lines_on_standard_output_if_asked(tmp_path: Path, reader: str) -> None:
    """The same documents that the store gets; a reader that disconnects stops nothing."""
    async with store(tmp_path) as central:
        await register(central)
        reading, writing = os.pipe()
        process = await asyncio.create_subprocess_exec(
            BIN / "pdp",
            *arguments(tmp_path, central.grpc_address),
            "--log-decisions",
            stdout=writing,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing)
        try:
            assert process.stderr is not None
            async with asyncio.timeout(BOUND_SECONDS):
                while b"listening" not in (line := await process.stderr.readline()):
                    assert line, "it has ended"
            addresses = json.loads(line)
            await ready(addresses["http"])
            if reader == "is gone":
                os.close(reading)
            async with stub(addresses["grpc"][0]) as asked:
                action = pb.Action(agent_id=AGENT, action_type="api.read", resource="banking_api", risk_score=10)
                for _ in range(3):
                    await asked.Evaluate(pb.EvaluateRequest(action=action), timeout=BOUND_SECONDS)
                found = await decisions(central, 3)
                if reader == "reads":
                    with os.fdopen(reading) as file:
                        async with asyncio.timeout(BOUND_SECONDS):
                            lines = [await asyncio.to_thread(file.readline) for _ in found]
                    assert [json.loads(line)["decision_id"] for line in lines] == [one["decision_id"] for one in found]
            process.terminate()
            async with asyncio.timeout(BOUND_SECONDS):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
