"""Which sidecars people are told of: those that refuse a record, do not apply changes, or fall silent."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from pdp.core.model import RecordKind
from registry_store.alerts import outbox
from registry_store.database.migrate import opened
from registry_store.database.tables import Alert
from registry_store.database.transactions import Database
from registry_store.settings import Settings
from registry_store.sync import watching
from registry_store.sync.sidecars import Refusal, Sidecar, Sidecars
from registry_store.sync.subscriptions import Subscription
from registry_store.sync.watching import SidecarWatch
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.serving import Served, in_thread, subscriber
from tests.waiting import eventually, eventually_gives

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
AGENT = "finance-transaction-processor-prod"
SECOND = timedelta(seconds=1)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with opened(settings.url()) as database:
        yield database


def sidecar(node_id: str = "node-1", at: datetime = NOON, **fields: Any) -> Sidecar:
    values = {"key_id": "k", "key_name": "k", "software_version": "1", "subscription": Subscription()} | fields
    return Sidecar(node_id=node_id, connected_at=at, last_heard_at=at, **values)


def watch(database: Database, *watched: Sidecar, began: datetime = NOON) -> SidecarWatch:
    sidecars = Sidecars()
    for one in watched:
        sidecars.connected(one)
    return SidecarWatch(database, sidecars, Settings().patience(), began)


async def alerts(database: Database) -> list[tuple[str, str, int]]:
    return [(row.kind, row.subject, row.count) for row in await rows(database)]


async def rows(database: Database) -> list[Alert]:
    async with database.reading() as session:
        found, _ = await outbox.page(session, outbox.Filter(), 100, 0)
    return list(found)


async def test_a_sidecar_that_applies_nothing_is_stale(database: Database) -> None:
    """Once, after a minute in which it applied nothing of what it was sent; again when it got stuck anew."""
    stuck = sidecar(sent_revision=5, acknowledged_revision=3)
    looking = watch(database, stuck)
    for seconds in (0, 30, 59):
        await look(looking, stuck, NOON + seconds * SECOND)
    assert await alerts(database) == []
    for seconds in (60, 61, 3600):
        await look(looking, stuck, NOON + seconds * SECOND)
    assert await alerts(database) == [("sidecar_stale", "sidecar:node-1", 1)]
    stuck.acknowledged(4, [])
    for seconds in (3601, 3661):
        await look(looking, stuck, NOON + seconds * SECOND)
    assert len(await alerts(database)) == 2


async def look(looking: SidecarWatch, heard: Sidecar, at: datetime) -> None:
    heard.last_heard_at = at
    await looking.look(at)


async def test_a_sidecar_that_goes_on_is_not_stale(database: Database) -> None:
    """However much it is behind, and however long; neither is one that is gone."""
    behind, gone = sidecar(sent_revision=5000), sidecar("node-2", sent_revision=5, connected=False)
    looking = watch(database, behind, gone)
    for minute in range(10):
        behind.acknowledged(minute, [])
        await look(looking, behind, NOON + minute * 59 * SECOND)
    assert await alerts(database) == []


async def test_a_silent_sidecar_is_told_of_once(database: Database) -> None:
    """Until it is heard again."""
    quiet = sidecar()
    looking = watch(database, quiet)
    await looking.look(NOON)
    quiet.connected = False
    for minutes in (4, 5, 6, 60):
        await looking.look(NOON + timedelta(minutes=minutes))
    assert await alerts(database) == [("sidecar_silent", "sidecar:node-1", 1)]
    quiet.connected, quiet.last_heard_at = True, NOON + timedelta(minutes=61)
    await looking.look(NOON + timedelta(minutes=61))
    quiet.connected = False
    await looking.look(NOON + timedelta(minutes=70))
    assert len(await alerts(database)) == 2


async def test_a_sidecar_that_another_store_hears_is_not_silent(database: Database) -> None:
    """And of two stores that see one fall silent, one says so."""
    left, right = sidecar(), sidecar()
    first, second = watch(database, left), watch(database, right)
    await first.look(NOON)
    left.connected = False
    right.last_heard_at = NOON + timedelta(minutes=10)
    await second.look(NOON + timedelta(minutes=10))
    await first.look(NOON + timedelta(minutes=10))
    assert await alerts(database) == []
    right.connected = False
    for looking in (first, second):
        await looking.look(NOON + timedelta(minutes=16))
    assert await alerts(database) == [("sidecar_silent", "sidecar:node-1", 1)]


async def test_a_sidecar_that_was_stopped_is_not_silent(database: Database) -> None:
    """It ended its stream itself."""
    stopped = sidecar()
    looking = watch(database, stopped)
    await looking.look(NOON)
    stopped.connected, stopped.left = False, True
    for minutes in (1, 60):
        await looking.look(NOON + timedelta(minutes=minutes))
    assert await alerts(database) == []


async def test_no_silence_counts_from_before_the_store_ran(database: Database) -> None:
    """A store that was away for an hour gives its sidecars the time to come back."""
    await watch(database, sidecar()).look(NOON)
    later = NOON + timedelta(hours=1)
    looking = watch(database, began=later)
    await looking.look(later)
    assert await alerts(database) == []
    await looking.look(later + timedelta(minutes=5))
    assert await alerts(database) == [("sidecar_silent", "sidecar:node-1", 1)]


async def test_sidecars_are_forgotten(database: Database) -> None:
    """With what else the store knows of them, in the end."""
    await watch(database, sidecar(), sidecar("node-2", NOON + SECOND)).look(NOON)
    async with database.beside() as session:
        await watching.forget_before(session, NOON + SECOND)
    looking = watch(database)
    await looking.look(NOON + timedelta(hours=1))
    assert await alerts(database) == [("sidecar_silent", "sidecar:node-2", 1)]


async def test_a_refusal_that_could_not_be_told_is_told_later(database: Database) -> None:
    """No failure of the database loses it."""
    one = sidecar()
    one.acknowledged(1, [Refusal(RecordKind.AGENT, AGENT, ("unknown operator",))])
    looking = watch(database, one)
    outbox_add, outbox.add = outbox.add, never_works
    try:
        with pytest.raises(OSError, match="away"):
            await looking.look(NOON)
    finally:
        outbox.add = outbox_add
    assert len(one.unreported) == 1
    await looking.look(NOON)
    assert one.unreported == []


async def never_works(*_: object) -> None:
    raise OSError("away")


async def acknowledging(store: Served, *refusals: pb.Refusal, agents: pb.Subscription | None = None) -> None:
    """A sidecar that refuses these records of its snapshot."""
    key = await in_thread(store.key, "sidecar")
    async with subscriber(store.running.grpc_address, key) as stream:
        await stream.hello(**({"subscription": agents} if agents is not None else {}))
        await stream.snapshot()
        await stream.acknowledge(1, *refusals)
        await eventually(lambda: all(one.acknowledged_revision for one in store.running._store.sidecars.all()))
        await stream.call.done_writing()
        await stream.ended()


async def test_a_refused_record_raises_an_alert(fresh: Served) -> None:
    """If the sidecar gets this record: it can raise none for another. The sidecar said goodbye, so it is not missed."""
    admin = await in_thread(fresh.rest)
    for agent_id in (AGENT, "other-agent-prod"):
        await in_thread(admin.register, agent_id)
    refusals = [
        pb.Refusal(kind=pb.RECORD_KIND_AGENT, id=agent_id, problems=["unknown operator\r\nx"])
        for agent_id in (AGENT, "other-agent-prod", "no-agent-prod")
    ]
    refusals.append(pb.Refusal(kind=pb.RECORD_KIND_ORGANISATION_POLICY, id="pol_0", problems=["x"]))
    only = pb.Subscription(agents=pb.Subscription.Agents(agent_ids=[AGENT]))
    await acknowledging(fresh, *refusals, agents=only)
    path = "/api/alerts?kind=record_refused"
    answer = await eventually_gives(partial(in_thread, admin.get, path), lambda answer: answer.body["total"])
    (alert,) = answer.body["alerts"]
    detail = {"node_id": "node-1", "record": AGENT, "problems": ["unknown operator\r\nx"]}
    assert (alert["agent_id"], alert["detail"]) == (AGENT, detail)
    assert all(one.left or not one.connected for one in fresh.running._store.sidecars.all())
    presence = partial(in_thread, fresh.sql, "SELECT node_id FROM watched_sidecars")
    await eventually_gives(presence, [].__eq__)
