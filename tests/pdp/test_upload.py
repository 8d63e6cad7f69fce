"""Uploads to the store: each decision once and in order, through faults of the store and the connection."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pdp import upload
from pdp.core.action import Action
from pdp.decision_log.record import Entry
from pdp.decision_log.spool import Spool
from pdp.metrics import Metrics
from pdp.serving.backoff import Backoff
from pdp.sync.uplink import Uplink
from pdp.upload import Reporter
from pdp.v1 import decision_pb2 as pdp_pb
from tests.deciding import entry_of
from tests.pdp.decision_log.chains import numbers, opened
from tests.pdp.reported_store import METADATA, ReportedStore, connected_store
from tests.waiting import eventually


def entry(number: int) -> Entry:
    answer = pdp_pb.EvaluateResponse(outcome=1, reason=15, decision_id=str(number))
    return entry_of(Action("billing-agent-prod", "api.read"), answer)


class Sidecar:
    """The part of a sidecar that uploads decisions."""

    def __init__(self, folder: Path, store: ReportedStore, channel: grpc.aio.Channel, **limits: Any) -> None:
        self.store = store
        self.uplink = Uplink()
        self.log = opened(folder, 64 << 20, **limits)
        self.spool = Spool(self.log)
        self.reporter = Reporter(self.spool, self.uplink, "node-1")
        self.metrics = Metrics()
        self.spool.watch(self.metrics)
        self.reporter.watch(self.metrics)
        self._channel = channel
        self._connection = ExitStack()

    def connect(self) -> None:
        """The subscription has a connection."""
        self._connection.enter_context(self.uplink.connected(self._channel, METADATA))

    def disconnect(self) -> None:
        """The subscription has no connection any more."""
        self._connection.close()

    def decide(self, numbers: Iterable[int], *, urgent: bool = False) -> None:
        """Decisions are made."""
        for number in numbers:
            self.spool.append(entry(number), urgent=urgent)

    def metric(self, name: str) -> float:
        """The value of a metric as a scrape reads it."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}[name]

    def arrived(self) -> list[int]:
        """The decisions that the store has kept."""
        return numbers(self.store.kept)

    async def until_arrived(self, count: int) -> None:
        """Waits until the store has so many, and the sidecar knows."""
        await eventually(lambda: len(self.store.kept.documents()) == count and self.metric("pdp_spool_records") == 0)


@asynccontextmanager
async def sending(folder: Path, **limits: Any) -> AsyncIterator[Sidecar]:
    """Such a part, at work and not connected yet, with a store."""
    async with connected_store() as (store, channel):
        sidecar = Sidecar(folder, store, channel, **limits)
        tasks = [asyncio.create_task(sidecar.spool.run()), asyncio.create_task(sidecar.reporter.run())]
        try:
            yield sidecar
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            sidecar.spool.end()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "REST_SECONDS", 0.01)
    monkeypatch.setattr(upload, "BACKOFF", Backoff(first=0.02, maximum=0.02))


async def test_decisions_reach_the_store_in_order_with_an_unbroken_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those from before the connection and those since; each once, and a bounded number in a report."""
    monkeypatch.setattr(upload, "MAX_RECORDS", 1000)
    async with sending(tmp_path) as sidecar:
        sidecar.decide(range(2500))
        await eventually(lambda: sidecar.spool.last == 2500)
        assert sidecar.metric("pdp_spool_records") == 2500
        sidecar.connect()
        await sidecar.until_arrived(2500)
        sidecar.decide(range(2500, 2600))
        await sidecar.until_arrived(2600)
        assert sidecar.arrived() == list(range(2600))
        assert sidecar.store.kept.breaks == 0
        assert sidecar.store.node_ids == {"node-1"}
        assert max(map(len, sidecar.store.batches)) == 1000
        assert sidecar.metric("pdp_decisions_logged_total") == sidecar.metric("pdp_decisions_shipped_total") == 2600
        assert sidecar.metric("pdp_spool_records") == 0
        assert sidecar.metric("pdp_spool_bytes") == sidecar.log.bytes


async def test_an_urgent_decision_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People can only decide about an approval that the store knows of."""
    monkeypatch.setattr(upload, "REST_SECONDS", 3600)
    monkeypatch.setattr("pdp.decision_log.spool.FLUSH_SECONDS", 3600)
    async with sending(tmp_path) as sidecar:
        sidecar.connect()
        sidecar.decide([0], urgent=True)
        await sidecar.until_arrived(1)
        sidecar.decide([1])
        sidecar.decide([2], urgent=True)
        await sidecar.until_arrived(3)


@pytest.mark.parametrize(
    "fault", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL]
)
async def test_uploads_to_a_failing_store_are_retried(
    tmp_path: Path, fault: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost, and the outage is logged once, not for every try."""
    caplog.set_level(logging.INFO)
    async with sending(tmp_path) as sidecar:
        sidecar.store.faults = [fault] * 5
        sidecar.connect()
        sidecar.decide(range(10))
        await sidecar.until_arrived(10)
        assert sidecar.arrived() == list(range(10))
    messages = [record.message for record in caplog.records if record.name == "pdp.upload"]
    assert messages == [
        f"cannot send decisions to the store, so they wait on disk: {fault.name}: as the test has it",
        "decisions are sent to the store again",
    ]


async def test_after_a_lost_answer_the_store_recognizes_the_repeat(tmp_path: Path) -> None:
    """Sent twice, kept once."""
    async with sending(tmp_path) as sidecar:
        sidecar.store.loses_answer = True
        sidecar.connect()
        sidecar.decide(range(10))
        await sidecar.until_arrived(10)
        assert sidecar.store.asked >= 2
        assert sidecar.arrived() == list(range(10))


async def test_a_connection_that_ends_under_a_report_loses_nothing(tmp_path: Path) -> None:
    """The rest uses the next connection."""
    async with sending(tmp_path) as sidecar:
        sidecar.store.answering.clear()
        sidecar.connect()
        sidecar.decide(range(10))
        await eventually(lambda: sidecar.store.asked)
        sidecar.disconnect()
        sidecar.store.answering.set()
        sidecar.decide(range(10, 20))
        sidecar.connect()
        await sidecar.until_arrived(20)
        assert sidecar.arrived() == list(range(20))


async def test_a_batch_that_the_store_refuses_delays_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside in a file, logged with its sequences, counted, and replaced by a gap record."""
    async with sending(tmp_path) as sidecar:
        sidecar.store.malformed = lambda sequence, _: sequence in (3, 14)
        for start in range(0, 20, 5):
            sidecar.decide(range(start, start + 5))
            await eventually(lambda: sidecar.spool.last == start + 5)  # noqa: B023 - it is awaited at once
        sidecar.connect()
        await eventually(lambda: len(sidecar.store.kept.gaps()) == 2)
        assert sidecar.arrived() == [0, *range(5, 10), *range(15, 20)]
        assert sidecar.store.kept.missing() == {*range(2, 6), *range(11, 16)}
        assert sidecar.store.kept.breaks == 0
        assert sidecar.metric("pdp_decisions_refused_total") == 9
    lines = (tmp_path / "decisions" / "refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision_id"] for line in lines] == ["1", "2", "3", "4", "10", "11", "12", "13", "14"]
    assert "the store refused records 2 to 5 of the decision log: batches[0].content: is malformed" in caplog.text


async def test_single_records_that_the_store_refuses_are_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has their batch, so no gap record takes their place."""
    async with sending(tmp_path) as sidecar:
        sidecar.store.refused = lambda sequence, _: sequence in (3, 700)
        sidecar.decide(range(1000))
        await eventually(lambda: sidecar.spool.last == 1000)
        sidecar.connect()
        await sidecar.until_arrived(1000)
        await eventually(lambda: sidecar.metric("pdp_decisions_shipped_total") == 998)
        assert sidecar.metric("pdp_decisions_refused_total") == 2
        assert sidecar.store.kept.gaps() == []
        aside = tmp_path / "decisions" / "refused.jsonl"
        await eventually(lambda: aside.exists() and aside.read_text().count("\n") == 2)
    lines = aside.read_text().splitlines()
    assert [json.loads(line)["decision_id"] for line in lines] == ["2", "699"]
    assert "the store refused 2 records of the decision log, the first is 3: as the test has it" in caplog.text


async def test_refused_records_outlive_a_disk_that_cannot_take_them(tmp_path: Path) -> None:
    """Their batch is sent again until they are set aside."""
    aside = tmp_path / "decisions" / "refused.jsonl"
    async with sending(tmp_path) as sidecar:
        sidecar.store.refused = lambda sequence, _: sequence == 3
        aside.mkdir()
        sidecar.decide(range(5))
        sidecar.connect()
        await eventually(lambda: sidecar.store.asked >= 4)
        assert sidecar.log.kept < 3
        assert sidecar.metric("pdp_decisions_refused_total") == 0
        aside.rmdir()
        await eventually(lambda: sidecar.metric("pdp_decisions_shipped_total") == 4)
        assert sidecar.metric("pdp_decisions_refused_total") == 1
        assert sidecar.arrived() == list(range(5))
    assert [json.loads(line)["decision_id"] for line in aside.read_text().splitlines()] == ["2"]


async def test_a_refused_gap_record_leads_to_no_other(tmp_path: Path) -> None:
    """A refused gap record is not replaced: the log settles, and later records are sent."""
    async with sending(tmp_path) as sidecar:
        sidecar.store.malformed = lambda sequence, record: record.HasField("gap") or sequence == 3
        sidecar.connect()
        for number in range(3):
            sidecar.decide([number])
            await eventually(lambda: sidecar.spool.last > number)  # noqa: B023 - it is awaited at once
        await eventually(lambda: sidecar.metric("pdp_decisions_refused_total") == 2)
        await eventually(lambda: sidecar.metric("pdp_spool_records") == 0)
        assert not sidecar.log.has_gaps_due
        sidecar.decide(range(10, 13))
        await sidecar.until_arrived(5)
        assert sidecar.metric("pdp_decisions_refused_total") == 2
        assert sidecar.spool.last == 7
    lines = (tmp_path / "decisions" / "refused.jsonl").read_bytes().splitlines()
    assert [line.startswith(b'{"gap"') for line in lines] == [False, True]


async def test_a_store_of_an_earlier_version_gets_nothing_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses a report without records in the old form; the decisions wait until it is upgraded."""
    async with sending(tmp_path) as sidecar:
        sidecar.store.complaint = "records: has 0 items, but must have 1 to 1000"
        sidecar.connect()
        sidecar.decide(range(5))
        await eventually(lambda: sidecar.store.asked >= 3)
        assert (sidecar.log.kept, sidecar.metric("pdp_decisions_refused_total")) == (0, 0)
        sidecar.store.complaint = ""
        await sidecar.until_arrived(5)
    assert "the store refuses reports of this sidecar: records: has 0 items" in caplog.text


async def test_a_store_without_progress_is_not_flooded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an answer without progress there is a pause, and nothing counts as acknowledged."""
    async with sending(tmp_path) as sidecar:
        with monkeypatch.context() as changed:
            changed.setattr(sidecar.store.kept, "take", lambda batches: 0)
            sidecar.connect()
            sidecar.decide(range(5))
            await eventually(lambda: sidecar.store.asked >= 3)
            assert sidecar.log.kept == 0
        await sidecar.until_arrived(5)


async def test_a_restored_store_gets_new_records(tmp_path: Path) -> None:
    """It sees a jump in the sequences; deleted records cannot be sent again."""
    async with sending(tmp_path) as sidecar:
        sidecar.connect()
        sidecar.decide(range(10))
        await sidecar.until_arrived(10)
        del sidecar.store.kept.records[5:]
        sidecar.decide(range(10, 12))
        await eventually(lambda: sidecar.store.kept.sequence == 12)
        assert sidecar.arrived() == [0, 1, 2, 3, 4, 10, 11]


@pytest.mark.parametrize("unsent", [0, 3])
async def test_a_sidecar_with_a_restored_folder_loses_no_new_decision(
    tmp_path: Path, unsent: int, caplog: pytest.LogCaptureFixture
) -> None:
    """New decisions do not count as repeats of earlier ones with the same sequences."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with sending(tmp_path / "a") as before:
        before.connect()
        before.decide(range(20))
        await before.until_arrived(20)
        kept = before.store.kept
    async with sending(tmp_path / "b") as sidecar:
        sidecar.store.kept = kept
        sidecar.decide(range(100, 100 + unsent))
        await eventually(lambda: sidecar.spool.last == unsent)
    async with sending(tmp_path / "b") as sidecar:
        sidecar.store.kept = kept
        sidecar.decide(range(200, 230))
        await eventually(lambda: sidecar.spool.last == unsent + 30)
        sidecar.connect()
        await sidecar.until_arrived(20 + unsent + 30)
        assert sidecar.arrived() == [*range(20), *range(100, 100 + unsent), *range(200, 230)]
    assert "restored from a backup" in caplog.text


async def test_the_last_decisions_are_sent_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as possible in the time, if there is a connection; the others wait for the next start."""
    monkeypatch.setattr(upload, "DRAIN_SECONDS", 3600)
    async with connected_store() as (store, channel):
        sidecar = Sidecar(tmp_path, store, channel)
        spooling = asyncio.create_task(sidecar.spool.run())
        sidecar.connect()
        sidecar.decide(range(1500))
        sidecar.spool.close()
        await spooling
        await sidecar.reporter.drain()
        assert sidecar.arrived() == list(range(1500))
        sidecar.disconnect()
        await sidecar.reporter.drain()
        sidecar.spool.end()


async def test_a_drain_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer does not delay a stop."""
    monkeypatch.setattr(upload, "DRAIN_SECONDS", 0.05)
    async with connected_store() as (store, channel):
        sidecar = Sidecar(tmp_path, store, channel)
        spooling = asyncio.create_task(sidecar.spool.run())
        store.answering.clear()
        sidecar.connect()
        sidecar.decide(range(5))
        sidecar.spool.close()
        await spooling
        await sidecar.reporter.drain()
        assert sidecar.log.kept == 0
        store.answering.set()
        sidecar.spool.end()
