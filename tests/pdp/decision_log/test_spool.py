"""Decisions are soon on disk, bounded in memory, and never lost without a gap record."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pdp.core.action import Action
from pdp.decision_log import spool as module
from pdp.decision_log.record import Entry, Note, weight
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.decision_log.spool import Spool
from pdp.metrics import Metrics
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench, entry_of, served
from tests.given import agent
from tests.pdp.decision_log.chains import Kept, numbers, opened, ship
from tests.waiting import BOUND_SECONDS, eventually


def entry(number: int, **fields: Any) -> Entry:
    answer = pb.EvaluateResponse(outcome=1, reason=15, decision_id=str(number))
    return entry_of(Action("billing-agent-prod", "api.read", **fields), answer)


ENTRY_BYTES = weight(entry(10), NOTHING)


class Kit:
    """A spool on a log, and what is on the disk."""

    def __init__(self, folder: Path, *, log_bytes: int = 64 << 20, drop_oldest: bool = True, **how: Any) -> None:
        self.log = opened(folder, log_bytes, drop_oldest=drop_oldest)
        self.spool = Spool(self.log, **how)
        self.metrics = Metrics()
        self.spool.watch(self.metrics)

    def decide(self, numbers: Iterable[int], **fields: Any) -> None:
        """Decisions are made."""
        for number in numbers:
            self.spool.append(entry(number, **fields), urgent=False)

    async def until_written(self, last: int) -> None:
        """Waits until this is the newest sequence on the disk, and the spool knows."""
        await eventually(lambda: self.spool.last == last)

    async def until_failed_again(self) -> None:
        """Waits until the disk has failed with all that was decided so far."""
        seen = self.spool.failures
        await eventually(lambda: self.spool.failures > seen + 1)

    def metric(self, name: str) -> float:
        """The value of a metric as a scrape reads it."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {sample.name: sample.value for family in families for sample in family.samples}[name]

    def shipped(self) -> Kept:
        """A store that has got everything."""
        store = Kept()
        ship(self.log, store)
        return store


@asynccontextmanager
async def running(spool: Spool) -> AsyncIterator[None]:
    """The spool at work; in the end what is left is written."""
    task = asyncio.create_task(spool.run())
    try:
        yield
        spool.close()
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        spool.end()


@contextmanager
def held(spool: Spool) -> Iterator[None]:
    """A disk that takes its time, until the block is left."""
    moving = threading.Event()
    spool._writer._thread.submit(moving.wait)
    try:
        yield
    finally:
        moving.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.005)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.005)
    monkeypatch.setattr(module, "ROOM_SECONDS", BOUND_SECONDS)


async def test_an_appended_decision_is_soon_on_disk(tmp_path: Path) -> None:
    """In the order of decisions, redacted, and the sender is notified."""
    kit = Kit(tmp_path, redact=Redaction.of(["ssn"]))
    async with running(kit.spool):
        kit.decide(range(3), attributes={"ssn": "1"})
        await kit.spool.flushed.wait()
        await kit.until_written(3)
        assert not kit.spool.urgent.is_set()
        assert kit.metric("pdp_decisions_logged_total") == 3
    store = kit.shipped()
    assert numbers(store) == [0, 1, 2]
    assert store.documents()[0]["action"]["attributes"] == {"ssn": "[redacted]"}


async def test_appending_only_queues_the_decision(tmp_path: Path) -> None:
    """The decision does not wait for the disk."""
    kit = Kit(tmp_path)
    kit.decide(range(100))
    assert kit.log.last == 0
    assert kit.metric("pdp_spool_records") == 100
    kit.spool.end()


async def test_a_decision_is_counted_wherever_it_waits(tmp_path: Path) -> None:
    """In memory, in the hands of the thread, for a disk that fails, and on the disk."""
    kit = Kit(tmp_path)
    async with running(kit.spool):
        with held(kit.spool):
            kit.decide(range(3))
            await eventually(lambda: not kit.spool._pending)
            kit.decide(range(3, 5))
            assert kit.metric("pdp_spool_records") == 5
            broken(tmp_path)
        await kit.until_failed_again()
        assert kit.metric("pdp_spool_records") == 5
        mended(tmp_path, kit.spool)
        await kit.until_written(5)
        assert kit.metric("pdp_spool_records") == 5


async def test_decisions_left_at_a_stop_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the disk hangs for longer than the stop waits."""
    kit = Kit(tmp_path)
    with held(kit.spool):
        work = asyncio.create_task(kit.spool.run())
        kit.decide(range(4))
        await eventually(lambda: not kit.spool._pending)
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    kit.spool.end()
    assert "the decision log could not be written before the stop: 4 decisions are lost" in caplog.text


async def test_an_urgent_decision_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with all before it, and the sender is notified at once."""
    monkeypatch.setattr(module, "FLUSH_SECONDS", 3600)
    kit = Kit(tmp_path)
    async with running(kit.spool):
        kit.decide(range(2))
        kit.spool.append(entry(2), urgent=True)
        await kit.spool.urgent.wait()
        assert kit.log.last == 3


async def test_the_last_decisions_are_written_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop does not wait for the next turn."""
    monkeypatch.setattr(module, "FLUSH_SECONDS", 3600)
    kit = Kit(tmp_path)
    async with running(kit.spool):
        kit.decide(range(5))
    assert numbers(kit.shipped()) == list(range(5))


async def test_after_the_end_no_thread_uses_the_log(tmp_path: Path) -> None:
    """The thread has finished its work by then, even if the stop no longer waits for it."""
    kit, disk = Kit(tmp_path), threading.Event()
    keeping = kit.spool._writer._thread.submit(lambda: (disk.wait(), kit.log.keep(1)))
    threading.Timer(0.1, disk.set).start()
    kit.spool.end()
    assert keeping.done()


async def test_memory_is_bounded_and_the_oldest_are_dropped_with_a_gap(tmp_path: Path) -> None:
    """As when the disk is slower than the decisions; what is lost is counted in the log itself."""
    kit = Kit(tmp_path, max_bytes=10 * ENTRY_BYTES)
    kit.decide(range(25))
    async with running(kit.spool):
        await kit.until_written(26)
    store = kit.shipped()
    assert numbers(store) == list(range(15, 25))
    assert store.missing() == set(range(1, 16))
    assert kit.metric("pdp_decisions_dropped_total") == 15


async def test_large_attributes_count_by_their_size(tmp_path: Path) -> None:
    """A bound in records would be none in bytes."""
    kit = Kit(tmp_path, max_bytes=200_000)
    kit.decide(range(100), attributes={"text": "x" * 10_000})
    async with running(kit.spool):
        await eventually(lambda: kit.log.last)
    assert 0 < len(numbers(kit.shipped())) < 20


async def test_a_burst_is_written_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a burst does not reach the bound."""
    monkeypatch.setattr(module, "FLUSH_SECONDS", 3600)
    kit = Kit(tmp_path, max_bytes=80 * ENTRY_BYTES)
    async with running(kit.spool):
        kit.decide(range(11))
        await kit.spool.flushed.wait()
        await kit.until_written(11)


def broken(folder: Path) -> None:
    """The folder of the log is no folder any more."""
    (folder / "decisions").rename(folder / "elsewhere")
    (folder / "decisions").write_text("")


def mended(folder: Path, spool: Spool) -> None:
    """It is one again; done by the log's own thread, so that no try makes a new one in between."""

    def put_back() -> None:
        (folder / "decisions").unlink()
        (folder / "elsewhere").rename(folder / "decisions")

    spool._writer._thread.submit(put_back).result()


async def test_a_disk_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Decisions wait in memory; each failure is counted, and the outage is logged once."""
    kit = Kit(tmp_path)
    async with running(kit.spool):
        broken(tmp_path)
        kit.decide(range(5))
        await eventually(lambda: kit.spool.failures >= 3)
        kit.decide(range(5, 10))
        assert kit.metric("pdp_spool_failures_total") >= 3
        mended(tmp_path, kit.spool)
        await kit.until_written(10)
    assert numbers(kit.shipped()) == list(range(10))
    messages = [record.message for record in caplog.records if record.name == "pdp.decision_log.spool"]
    assert len(messages) == 2
    assert messages[0].startswith("cannot write the decision log: [Errno")
    assert messages[1] == "the decision log can be written again"


async def test_while_the_disk_fails_memory_is_bounded_too(tmp_path: Path) -> None:
    """The newest stay, and a gap record counts the others."""
    kit = Kit(tmp_path, max_bytes=1000)
    async with running(kit.spool):
        broken(tmp_path)
        for number in range(50):
            kit.decide([number])
            await kit.until_failed_again()
        mended(tmp_path, kit.spool)
        await eventually(lambda: kit.log.last)
    store = kit.shipped()
    assert numbers(store) == list(range(50 - len(numbers(store)), 50))
    assert len(store.missing()) + len(numbers(store)) == 50
    assert len(store.missing()) > 10


async def test_unwritten_decisions_are_logged_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The line has their number."""
    kit = Kit(tmp_path)
    broken(tmp_path)
    async with running(kit.spool):
        kit.decide(range(7))
    assert "the decision log could not be written before the stop: 7 decisions are lost" in caplog.text


async def test_a_log_that_drops_nothing_refuses_when_full_and_continues_with_room(
    tmp_path: Path,
) -> None:
    """`full` is true before a decision that would not fit, and nothing is lost."""
    kit = Kit(tmp_path, log_bytes=64_000, drop_oldest=False)
    made = 0
    async with running(kit.spool):
        for _ in range(2):
            while not kit.spool.full:
                kit.decide([made])
                made += 1
                if made % 10 == 0:
                    await kit.spool.flushed.wait()
                    kit.spool.flushed.clear()
            await kit.until_written(made)
            assert kit.log.bytes < 64_000 + 10 * 1500
            assert kit.spool.full or kit.log.bytes < 64_000
            kit.decide([made])
            made += 1
            await kit.until_written(made)
            while batches := await kit.spool.unsent(1000):
                await kit.spool.keep(batches[-1].last)
            assert not kit.spool.full
    assert made > 50
    assert kit.metric("pdp_decisions_dropped_total") == 0


async def test_a_log_that_drops_nothing_refuses_while_the_disk_fails(tmp_path: Path) -> None:
    """As soon as memory is full."""
    kit = Kit(tmp_path, drop_oldest=False, max_bytes=10 * ENTRY_BYTES)
    made = 0
    async with running(kit.spool):
        broken(tmp_path)
        while not kit.spool.full:
            kit.decide([made])
            made += 1
            await kit.until_failed_again()
        mended(tmp_path, kit.spool)
        await eventually(lambda: not kit.spool.full)
    assert numbers(kit.shipped()) == list(range(made))
    assert kit.metric("pdp_decisions_dropped_total") == 0


async def test_a_log_that_drops_nothing_loses_no_decision_of_a_burst(tmp_path: Path) -> None:
    """It is full before anything is dropped, even if no caller waits and one decision is larger than the bound."""
    kit = Kit(tmp_path, drop_oldest=False, max_bytes=10 * ENTRY_BYTES)
    kit.decide(range(7))
    kit.decide([7], attributes={"text": "x" * 100_000})
    assert kit.spool.full
    kit.decide([8], attributes={"text": "x" * 100_000})  # whoever asked before it was full
    async with running(kit.spool):
        await kit.until_written(9)
        assert not kit.spool.full
    assert numbers(kit.shipped()) == list(range(9))
    assert kit.metric("pdp_decisions_dropped_total") == 0


async def test_a_log_that_drops_nothing_keeps_decisions_while_the_disk_fails(tmp_path: Path) -> None:
    """All of them, because they were admitted."""
    kit = Kit(tmp_path, drop_oldest=False, max_bytes=10 * ENTRY_BYTES)
    async with running(kit.spool):
        broken(tmp_path)
        for number in range(5):
            kit.decide([number], attributes={"text": "x" * 100_000})
            await kit.until_failed_again()
        assert kit.spool.full
        mended(tmp_path, kit.spool)
        await kit.until_written(5)
    assert numbers(kit.shipped()) == list(range(5))


async def test_decisions_held_by_the_thread_count_too(tmp_path: Path) -> None:
    """Until it is on the disk."""
    kit = Kit(tmp_path, drop_oldest=False, max_bytes=10 * ENTRY_BYTES)
    async with running(kit.spool):
        with held(kit.spool):
            kit.decide(range(7))
            await eventually(lambda: not kit.spool._pending)
            assert (kit.spool.crowded, kit.spool.full) == (False, False)
            kit.decide(range(7, 9))
            assert kit.spool.crowded
            kit.decide(range(9, 11))
            assert kit.spool.full
        await kit.until_written(11)
        assert (kit.spool.crowded, kit.spool.full) == (False, False)


async def test_callers_that_wait_for_room_continue_when_there_is_room(tmp_path: Path) -> None:
    """Each of many callers checks again, so that they do not all continue at once."""
    kit = Kit(tmp_path, max_bytes=20 * ENTRY_BYTES)
    most = 0

    async def caller(number: int) -> None:
        nonlocal most
        await kit.spool.room()
        kit.decide([number])
        most = max(most, len(kit.spool._pending))

    with held(kit.spool):
        callers = [asyncio.create_task(caller(number)) for number in range(100)]
        await asyncio.sleep(0)
    async with running(kit.spool):
        await asyncio.gather(*callers)
        await kit.until_written(100)
    assert most <= 11
    assert kit.metric("pdp_decisions_dropped_total") == 0


async def test_no_caller_waits_for_a_failing_disk(tmp_path: Path) -> None:
    """Decisions continue at once and the oldest records are dropped, or decisions are refused."""
    kit = Kit(tmp_path, max_bytes=20 * ENTRY_BYTES)
    async with running(kit.spool):
        broken(tmp_path)
        with held(kit.spool):
            kit.decide(range(15))
            await eventually(lambda: not kit.spool._pending)
            kit.decide(range(15, 18))
            assert kit.spool.crowded
            waiting = asyncio.create_task(kit.spool.room())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        await kit.spool.room()
        assert kit.spool.failures > 0


async def test_waiting_for_room_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging disk delays a caller for a bounded time, and then no other caller until it works again."""
    monkeypatch.setattr(module, "ROOM_SECONDS", 0.01)
    kit = Kit(tmp_path, max_bytes=20 * ENTRY_BYTES)
    kit.decide(range(15))
    assert kit.spool.crowded
    await kit.spool.room()
    assert not kit.spool.crowded
    async with running(kit.spool):
        await kit.until_written(15)
        await eventually(lambda: not kit.spool._memory.stalled)
        with held(kit.spool):
            kit.decide(range(15, 30))
            assert kit.spool.crowded


@pytest.mark.parametrize("drop_oldest", [True, False])
async def test_every_action_of_a_large_batch_has_a_record(tmp_path: Path, drop_oldest: bool) -> None:
    """A thousand of them, more than may wait in memory, on a disk that works: none is lost and none refused."""
    kit = Kit(tmp_path, drop_oldest=drop_oldest, max_bytes=4 << 20)
    bench = Bench(kit.spool)
    bench.put(agent())
    request = pb.EvaluateRequest(action=pb.Action(agent_id="billing-reader-test", action_type="api.read"))
    request.action.attributes.update({"text": "x" * 3500})
    async with running(kit.spool), served(bench.service) as stub:
        answer = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[request] * 1000))
        await kit.until_written(1000)
    assert {result.WhichOneof("result") for result in answer.results} == {"response"}
    made = [result.response.decision_id for result in answer.results]
    assert [one["decision_id"] for one in kit.shipped().documents()] == made
    assert kit.metric("pdp_decisions_dropped_total") == 0


async def test_a_log_that_drops_the_oldest_is_never_full(tmp_path: Path) -> None:
    """It makes room itself."""
    kit = Kit(tmp_path, log_bytes=64_000)
    async with running(kit.spool):
        for start in range(0, 1000, 50):
            kit.decide(range(start, start + 50))
            assert not kit.spool.full
            await eventually(lambda: not kit.spool._pending)
    assert kit.metric("pdp_decisions_dropped_total") > 0


@pytest.mark.parametrize(
    ("unwritable", "logged"),
    [
        (Note("outcome", {"x": object()}), "outcome note cannot be made a record"),
        (Note("outcome", {"x": "\ud800"}), "outcome note cannot be made a record"),
        (entry(1, attributes={"ssn": "1"})._replace(request=b"\xff"), "decision 1 cannot be made a record"),
        (entry(1, resource="x" * (1 << 20)), "bytes, which is too large for the log"),
    ],
    ids=["no JSON", "no UTF-8", "no request", "too large"],
)
async def test_a_decision_without_a_record_is_logged_and_delays_no_other(
    tmp_path: Path, unwritable: Entry | Note, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No known request causes this; if one does, a gap record shows it."""
    kit = Kit(tmp_path, redact=Redaction.of(["ssn"]))
    async with running(kit.spool):
        kit.decide([0])
        kit.spool.append(unwritable, urgent=False)
        kit.decide([2])
    store = kit.shipped()
    assert numbers(store) == [0, 2]
    assert store.missing() == {2}
    assert logged in caplog.text


async def test_damage_from_the_last_run_is_recorded_without_a_decision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store gets the gap record as soon as there is a connection."""
    caplog.set_level(logging.CRITICAL)
    kit = Kit(tmp_path)
    async with running(kit.spool):
        kit.decide(range(3))
    path = next((tmp_path / "decisions").glob("*.log"))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    again = Kit(tmp_path)
    async with running(again.spool):
        await again.spool.flushed.wait()
    assert again.metric("pdp_spool_damaged_total") == 1
    assert again.metric("pdp_decisions_dropped_total") == 3
    assert again.shipped().missing() == {1, 2, 3}
