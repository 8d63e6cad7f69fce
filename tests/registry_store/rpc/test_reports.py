"""Reports under load and faults: several stores, a database outage, too many reports."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import grpc
import pytest
from sqlalchemy import select

from registry_store.database.decision_tables import DecisionLog
from registry_store.rpc import reports
from registry_store.settings import Settings
from registry_store.v1 import sync_pb2 as pb
from tests.postgresql import Cluster
from tests.registry_store.decisions.test_decisions import counted, kept, log_of
from tests.registry_store.reporting import Log, decision, new_id, reporter
from tests.registry_store.serving import WAIT_SECONDS, Served, in_thread, served
from tests.waiting import eventually, eventually_gives

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_sent_is_kept_once_and_what_is_not_is_missing(fresh: Served, seed: int) -> None:
    """A random sidecar that sends, repeats and drops records: the store has exactly what was sent."""
    random, log = Random(seed), Log()
    sent: list[pb.ChainedBatch] = []
    ids: set[str] = set()
    missing = given_up = last = 0
    async with reporter(fresh) as sidecar:
        for _ in range(40):
            said = [decision(cost_micros=1) for _ in range(random.randint(1, 12))]
            batch = log.batch(*said)
            if random.random() < 0.2:
                given_up += len(said)
                continue
            again = sent[random.randint(0, len(sent)) :] if random.random() < 0.4 else []
            request = pb.ReportDecisionsRequest(node_id="node-1", batches=[*again, batch])
            assert await sidecar.send(request) == log.sequence
            sent.append(batch)
            last = log.sequence
            ids |= {one["decision_id"] for one in said}
            missing = given_up
    assert kept(fresh) == sorted(ids)
    assert counted(fresh) == {"allow": (len(ids), len(ids))}
    assert log_of(fresh) == (last, sent[-1].hash.hex(), missing, 0)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_two_stores_keep_what_comes_by_both_once(settings: Settings) -> None:
    """One log and others, by both stores at once, with and without approvals to open: each record is kept once."""
    logs = [Log(f"node-{number}") for number in range(3)]
    fifteen = [[decision(cost_micros=1) for _ in range(15)] for _ in logs]
    asking = [decision("escalate", opens=new_id(), action={"amount": number}) for number in range(3)]
    first = [log.report(*said, one) for log, said, one in zip(logs, fifteen, asking, strict=True)]
    batches = [*first, *(log.report(*(decision(cost_micros=1) for _ in range(16))) for log in logs)]
    with served(settings) as one, served(settings) as other:
        async with reporter(one) as by_one, reporter(other) as by_other:
            for _ in range(2):
                await asyncio.gather(*(way.send(batch) for batch in batches for way in (by_one, by_other)))
        assert len(kept(one)) == 3 * 32
        assert counted(one) == {"allow": (93, 93), "escalate": (3, 0)}
        assert {log_of(one, log.node_id)[:2] for log in logs} == {(32, log.hash.hex()) for log in logs}
        assert one.sql("SELECT count(*) FROM approvals") == [(3,)]


async def test_without_the_database_a_report_is_unavailable(own: tuple[Cluster, Settings]) -> None:
    """The sidecar has to try again; then nothing is lost and nothing is stored twice."""
    cluster, settings = own
    request = Log().report(decision(), decision())
    with served(settings) as store:
        async with reporter(store) as sidecar:
            await sidecar.send(Log("other").report(decision()))
            cluster.stop(signal.SIGQUIT)
            assert (await sidecar.refused(request))[0] is grpc.StatusCode.UNAVAILABLE
            cluster.start()
            anyone = store.rest(None)
            await eventually_gives(lambda: in_thread(anyone.get, "/readyz"), lambda answer: answer.status == 200)
            assert await sidecar.send(request) == 2
        assert counted(store) == {"allow": (3, 0)}


@asynccontextmanager
async def held(store: Served, node_id: str) -> AsyncIterator[None]:
    """Another transaction locks the log of this sidecar while the block runs."""
    ready, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hold() -> None:
        async with store.running._store.database.beside() as session:
            await session.scalar(select(DecisionLog).where(DecisionLog.node_id == node_id).with_for_update())
            loop.call_soon_threadsafe(ready.set)
            await release.wait()

    holding = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hold(), store.loop))
    async with asyncio.timeout(WAIT_SECONDS):
        await ready.wait()
    try:
        yield
    finally:
        store.loop.call_soon_threadsafe(release.set)
        await holding


async def test_who_waits_for_too_long_is_told_to_come_back(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting reports are limited in number and time; a refused report succeeds on retry."""
    monkeypatch.setattr(reports, "WAIT_SECONDS", 3600.0)
    monkeypatch.setattr(reports, "MAX_WAITING", 2)
    log = Log()
    async with reporter(fresh) as sidecar:
        await sidecar.send(log.report(decision()))
        batches = [log.report(decision()) for _ in range(reports.MAX_CONCURRENT + 5)]
        async with held(fresh, "node-1"):
            sending = [asyncio.create_task(sidecar.send(batch)) for batch in batches[:-1]]
            await eventually(lambda: sum(task.done() for task in sending) == 2)
            refused = [task.exception() for task in sending if task.done()]
            monkeypatch.setattr(reports, "MAX_WAITING", 3)
            monkeypatch.setattr(reports, "WAIT_SECONDS", 0.1)
            late = await sidecar.refused(batches[-1])
        await asyncio.wait(sending)
        for batch in batches:
            await sidecar.send(batch)
    assert [(error.code(), error.details()) for error in refused if isinstance(error, grpc.aio.AioRpcError)] == [
        (EXHAUSTED, "too many reports are waiting: try again later")
    ] * 2
    assert late == (EXHAUSTED, "other reports took too long: try again later")
    assert len(kept(fresh)) == 1 + len(batches)
