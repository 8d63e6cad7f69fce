"""PostgreSQL as the database of several stores: woken at once, retried, lost and found again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from click.testing import CliRunner
from sqlalchemy import make_url

from registry_store.cli import main
from registry_store.database import migrate, transactions
from registry_store.database.notifications import Notifications
from registry_store.database.transactions import Database
from registry_store.settings import Settings, database_url
from tests import postgresql
from tests.postgresql import Cluster
from tests.registry_store.browsing import browser
from tests.registry_store.serving import PATIENT, Rest, Served, document, in_own_loop, in_thread, served, subscriber
from tests.waiting import eventually, eventually_gives

REGISTRY = "/api/agents/registry"
BEATING = replace(PATIENT, heartbeat=0.1)


@pytest.fixture(scope="module", params=["postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """What is said here is said of PostgreSQL alone."""
    kind: str = request.param
    return kind


@pytest.fixture
def two(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, Served]]:
    """Two stores on one database, which poll so seldom that only notifications can wake them."""
    monkeypatch.setattr("registry_store.sync.feed.POLL_SECONDS", 3600)
    monkeypatch.setattr("registry_store.database.notifications.CHECK_SECONDS", 3600)
    with served(settings, PATIENT) as one, served(settings, PATIENT) as other:
        yield one, other


async def notified(store: Served) -> None:
    """Wait until the store hears the commits of others."""
    rest = store.rest(None)
    await eventually_gives(
        lambda: in_thread(rest.get, "/metrics"), lambda answer: "registry_store_notified 1.0" in answer.body
    )


async def test_a_change_through_one_store_wakes_the_subscribers_of_another(two: tuple[Served, Served]) -> None:
    """A notification, and not the poll, brings it; and listening is taken up again after its connection is lost."""
    one, other = two
    admin = one.rest()
    for store in two:
        await notified(store)
    async with subscriber(other.running.grpc_address, other.key("sidecar")) as sidecar:
        await sidecar.hello()
        await sidecar.snapshot()
        await in_thread(admin.register, "payments-worker-prod")
        (change,) = await sidecar.changes_to(1)
        assert document(change.records[0])["agent_id"] == "payments-worker-prod"
        ended = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query ILIKE 'LISTEN %' AND datname = current_database()"
        )
        assert len(await in_thread(one.sql, ended)) == 2
        await in_thread(admin.put, f"{REGISTRY}/payments-worker-prod", {"default_risk_score": 7})
        (change,) = await sidecar.changes_to(2)
        assert document(change.records[0])["default_risk_score"] == 7


async def test_polling_finds_what_no_notification_tells(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a pooler that drops notifications the change comes with the next poll."""
    monkeypatch.setattr("registry_store.database.transactions.CHANNEL", "nobody_listens")
    monkeypatch.setattr("registry_store.sync.feed.POLL_SECONDS", 0.05)
    with served(settings, PATIENT) as one, served(settings, PATIENT) as other:
        admin = one.rest()
        async with subscriber(other.running.grpc_address, other.key("sidecar")) as sidecar:
            await sidecar.hello()
            await sidecar.snapshot()
            await in_thread(admin.register, "payments-worker-prod")
            await sidecar.changes_to(1)


async def test_listening_ends_although_its_connection_takes_long_to_close(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that stops waits for no answer of its database, and does not take its absence for another outage."""
    monkeypatch.setattr("registry_store.database.notifications.CLOSE_SECONDS", 0.0)
    database = Database(settings.url())
    listening = Notifications(database, lambda: None)
    task = asyncio.create_task(listening.run())
    await eventually(lambda: listening.heard)
    task.cancel()
    await eventually(task.done)
    assert task.cancelled()
    await database.close()


async def test_a_deadlock_is_retried_and_the_change_is_made_once(
    fresh: Served, settings: Settings, cluster: Cluster
) -> None:
    """The transaction that PostgreSQL ends is run again whole, and the caller hears of nothing."""
    admin = fresh.rest()
    await in_thread(admin.register, "contended-agent-prod")
    log = cluster.folder / "log"
    before = log.read_text().count("deadlock detected")
    async with transaction(settings) as other:
        await other.execute("SET deadlock_timeout = '1h'")  # so that the store's transaction is the one that is ended
        await other.execute("SELECT * FROM agents FOR UPDATE")
        async with transaction(settings) as first:  # so that the store's wait is the one that closes the circle
            await first.execute("LOCK TABLE activity IN EXCLUSIVE MODE")
            path = f"{REGISTRY}/contended-agent-prod"
            change = asyncio.create_task(in_thread(admin.put, path, {"auto_approve_below": 20}))
            await waiting(first, "$1 = ANY(pg_blocking_pids(pid))", first.get_server_pid())
            circle = asyncio.create_task(other.execute("SELECT * FROM meta FOR UPDATE"))
            await waiting(first, "pid = $1", other.get_server_pid())
        await circle
    answer = await change
    assert (answer.status, answer.body["version"], answer.body["revision"]) == (200, "1.1.0", 2)
    assert log.read_text().count("deadlock detected") == before + 1
    assert await in_thread(fresh.sql, "SELECT count(*), max(activity_type) FROM activity WHERE sequence > 2") == [
        (1, "updated")
    ]


async def waiting(connection: asyncpg.Connection[asyncpg.Record], who: str, pid: int) -> None:
    """Wait until such a transaction waits for a lock."""
    asked = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {who}"
    await eventually_gives(lambda: connection.fetchval(asked, pid), bool)


async def test_a_serialisation_failure_is_retried_but_not_for_ever(fresh: Served) -> None:
    """A server whose transactions fail twice answers the third; one whose all fail is a 503, and nothing is kept."""
    admin = fresh.rest()
    for statement in (
        "CREATE SEQUENCE tries",
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('tries') <= 2 OR NEW.agent_id LIKE 'never%' THEN"
        " RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure'; END IF;"
        " RETURN NEW; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON agents FOR EACH ROW EXECUTE FUNCTION fail()",
    ):
        await in_thread(fresh.sql, statement)
    assert (await in_thread(admin.register, "third-time-prod"))["revision"] == 1
    assert await in_thread(fresh.sql, "SELECT last_value FROM tries") == [(3,)]
    answer = await in_thread(admin.post, REGISTRY, {"agent_id": "never-written-prod", "display_name": "x"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert await in_thread(fresh.sql, "SELECT last_value FROM tries") == [(3 + transactions.TRIES,)]
    assert await in_thread(fresh.sql, "SELECT count(*) FROM agents") == [(1,)]


async def test_a_lost_database_is_a_503_and_comes_back_by_itself(own: tuple[Cluster, Settings]) -> None:
    """Requests are told when to try again, streams end; then all goes on, and nothing is lost."""
    cluster, settings = own
    with served(settings, BEATING) as store:
        admin, key = store.rest(), store.key("sidecar")
        person = await in_thread(browser, store)
        await in_thread(admin.register, "outage-survivor-prod")
        path = f"{REGISTRY}/outage-survivor-prod"
        async with subscriber(store.running.grpc_address, key) as sidecar:
            await sidecar.hello()
            epoch = (await sidecar.snapshot()).welcome.epoch
            cluster.stop(signal.SIGQUIT)
            for call in (admin.get, admin.put):
                answer = await in_thread(call, path)
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert answer.headers["content-type"] == "application/problem+json"
            page = await in_thread(person.get, "/approvals")
            assert (page.status, page.headers["retry-after"]) == (503, "1")
            assert "the database is out of reach" in page.text
            feed = store.running._store.feed
            feed.confirmed_at -= BEATING.silence  # so long has the database been silent now
            assert (await sidecar.ended())[0] is grpc.StatusCode.UNAVAILABLE
        async with subscriber(store.running.grpc_address, key) as early:
            assert (await early.ended())[0] is grpc.StatusCode.UNAVAILABLE
        cluster.start()
        await eventually_gives(lambda: in_thread(admin.get, path), lambda answer: answer.status == 200)
        await notified(store)
        await eventually(lambda: time.monotonic() - feed.confirmed_at < BEATING.silence)
        assert (await in_thread(admin.put, path, {"default_risk_score": 7})).status == 200
        async with subscriber(store.running.grpc_address, key) as sidecar:
            await sidecar.hello(epoch=epoch, revision=1)
            assert (await sidecar.next()).welcome.resumed
            (change,) = await sidecar.changes_to(2)
            assert document(change.records[0])["default_risk_score"] == 7


def test_a_store_is_not_ready_without_its_database(
    own: tuple[Cluster, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """readyz says so once the database has been silent for too long, and healthz goes on answering."""
    monkeypatch.setattr("registry_store.rest.resources.operations.MAX_DATABASE_AGE_SECONDS", 0.5)
    cluster, settings = own
    monkeypatch.setattr("registry_store.sync.feed.POLL_SECONDS", 0.05)
    with served(settings) as store:
        anyone = store.rest(None)
        in_own_loop(until(anyone, 200))
        cluster.stop()
        in_own_loop(until(anyone, 503))
        assert anyone.get("/healthz").status == 200
        cluster.start()
        in_own_loop(until(anyone, 200))


async def until(anyone: Rest, status: int) -> None:
    await eventually_gives(lambda: in_thread(anyone.get, "/readyz"), lambda answer: answer.status == status)


async def test_a_writer_that_waits_for_too_long_is_a_503(
    settings: Settings, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock that is not free in time is not the request's fault, and not an outage of the database."""
    monkeypatch.setitem(transactions.SESSION_SETTINGS, "lock_timeout", "100ms")
    with served(settings) as store:
        admin = store.rest()
        async with transaction(settings) as other:
            await other.execute("SELECT * FROM meta FOR UPDATE")
            answer = await in_thread(admin.post, REGISTRY, {"agent_id": "locked-out-prod", "display_name": "x"})
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        await in_thread(admin.register, "locked-out-prod")
    assert "out of reach" not in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"database": "nobody_made_this"}, "does not exist"),
        ({"username": "stranger"}, "role"),
        ({"query": {"host": "/nowhere"}}, "No such file"),
        ({"host": "127.0.0.1", "query": {"sslmode": "maybe"}}, "sslmode"),
    ],
)
def test_what_keeps_a_store_from_its_postgresql_is_one_line(
    settings: Settings, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """Exit code 2, the reason as the server tells it, and how to bring an empty database to the schema."""
    url = make_url(settings.database).set(**change).render_as_string(hide_password=False)
    ended = CliRunner().invoke(main, ["serve", "--database", url, "--pepper-file", str(tmp_path / "pepper")])
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert words in line


def test_an_empty_postgresql_is_migrated_by_the_command_alone(cluster: Cluster, tmp_path: Path) -> None:
    """serve says which command brings the schema, for several stores must not migrate as they start."""
    url, pepper = cluster.url(cluster.create()), str(tmp_path / "pepper")
    ended = CliRunner().invoke(main, ["serve", "--database", url, "--pepper-file", pepper])
    assert (ended.exit_code, "run `registry-store migrate`" in ended.stderr) == (2, True)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: asyncio.run(migrate.migrated(database_url(url))), range(3)))
    assert cluster.sql(url.split("?")[0].rpartition("/")[2], "SELECT count(*) FROM meta") == "1"


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_ci_skips_no_test_of_postgresql(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    """Where the server's programs are missing CI fails and a person's run skips; both say how to install them."""
    monkeypatch.setattr(postgresql, "binaries", lambda: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install"), postgresql.cluster():
        pass


@asynccontextmanager
async def transaction(settings: Settings) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A transaction of somebody else on the store's database."""
    connection = await asyncpg.connect(settings.database)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()
