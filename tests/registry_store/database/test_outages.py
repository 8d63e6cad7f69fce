"""When PostgreSQL goes the log says so in one line, and in one more when it is back."""

from __future__ import annotations

import logging
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from pdp.serving.backoff import Backoff
from registry_store.database import notifications, transactions
from registry_store.database.attempts import Attempts
from registry_store.database.outages import Outage
from registry_store.errors import NotFoundError
from registry_store.settings import Settings
from tests.postgresql import Cluster
from tests.registry_store.approving import opened, sidecar
from tests.registry_store.serving import PATIENT, in_thread, served, subscriber
from tests.waiting import eventually, eventually_gives

REGISTRY = "/api/agents/registry"
TRIES = 100
PERIODS = (
    "sync.feed.POLL_SECONDS",
    "approvals.watching.POLL_SECONDS",
    "approvals.expiry.PERIOD_SECONDS",
    "retention.PERIOD_SECONDS",
    "database.notifications.CHECK_SECONDS",
    "rpc.calls.KEY_CHECK_SECONDS",
    "audit.checkpointer.EVERY_SECONDS",
    "access.authentication.SAVE_SECONDS",
)
BACK = "the database is back after "


def stop(cluster: Cluster, _name: str) -> Callable[[], None]:
    """The server crashes; gives what brings it back."""
    cluster.stop(signal.SIGQUIT)
    return cluster.start


def refuse(cluster: Cluster, name: str) -> Callable[[], None]:
    """The server runs, ends every connection and takes no new one."""
    cluster.sql("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    cluster.sql("postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    return lambda: (cluster.sql("postgres", f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"), None)[1]


@pytest.mark.parametrize("go_away", [stop, refuse])
async def test_an_outage_is_two_lines(
    own: tuple[Cluster, Settings],
    tmp_path: Path,
    go_away: Callable[[Cluster, str], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For the whole store, however much is tried and asked meanwhile; no library adds a line or a traceback."""
    cluster, settings = own
    for period in PERIODS:
        monkeypatch.setattr(f"registry_store.{period}", 0.02)
    monkeypatch.setattr("registry_store.database.outages.SETTLED_SECONDS", 2.0)
    monkeypatch.setattr(notifications, "BACKOFF", Backoff(first=0.02, maximum=0.02))
    tried, really = Counter[str](), transactions.connect

    async def connect(url: URL, *, patient: bool = False) -> object:
        tried["to connect"] += 1
        return await really(url, patient=patient)

    monkeypatch.setattr(transactions, "connect", connect)
    monkeypatch.setattr(notifications, "connect", connect)
    with served(replace(settings, checkpoint_file=tmp_path / "checkpoints"), PATIENT) as store:
        admin, key = await in_thread(store.rest), await in_thread(store.key, "sidecar")
        approval_id = await in_thread(opened, store)
        async with subscriber(store.running.grpc_address, key) as stream, sidecar(store, key) as node:
            await stream.hello()
            await stream.snapshot()
            watching = node.watch(approval_id)
            await watching.next()
            caplog.clear()
            come_back = await in_thread(go_away, cluster, str(settings.url().database))
            tried.clear()
            while tried["to connect"] < TRIES:
                answers = [await in_thread(call, f"{REGISTRY}/x") for call in (admin.get, admin.put)]
                assert {answer.status for answer in answers} == {503}
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await node.use(approval_id)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            await in_thread(come_back)
            await eventually_gives(lambda: in_thread(admin.get, REGISTRY), lambda answer: answer.status == 200)
            await eventually(lambda: BACK in caplog.text)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    gone, back = (record.getMessage() for record in told)
    assert gone.startswith("the database is out of reach: ")
    assert back.startswith(BACK)
    assert not any(record.exc_info or "\n" in record.getMessage() for record in told)


class Clock:
    """A clock that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def transaction(outage: Outage, error: Exception | None = None) -> None:
    """One transaction, which works or fails by this error."""
    with suppress(Exception), outage.watched():
        if error is not None:
            raise error


def test_the_database_is_back_once_nothing_fails_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """Some connections work before others do: until five seconds have passed without a failure nothing is said."""
    clock = Clock()
    outage = Outage(clock)
    steps: list[tuple[float, Exception | None]] = [
        (100, None), (101, OSError("gone")), (102, OSError("again")), (110, None), (111, OSError("one more")),
        (112, None), (116.9, None), (117, None), (118, None),
    ]  # fmt: skip
    for clock.now, error in steps:
        transaction(outage, error)
    assert caplog.messages == ["the database is out of reach: gone", "the database is back after 11.0 s"]


def test_what_is_no_outage_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """A fault, a refusal, a conflict of two transactions or a lock that was not free in time is not an outage."""
    outage, conflict, lock, busy = Outage(), Exception(), Exception(), sqlite3.OperationalError("database is locked")
    conflict.sqlstate = "40001"  # type: ignore[attr-defined]
    lock.sqlstate = "55P03"  # type: ignore[attr-defined]
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    for error in (
        ValueError("a fault"),
        NotFoundError("no agent"),
        DBAPIError("", None, conflict),
        DBAPIError("", None, lock),
        OperationalError("", None, busy),
    ):
        transaction(outage, error)
        assert not outage.covers(error)
    assert not caplog.messages


def test_a_job_says_what_the_outage_does_not_explain(caplog: pytest.LogCaptureFixture) -> None:
    """While the database is away its failures are part of that; a full disk and a fault are told all the same."""
    outage = Outage()
    attempts = Attempts("taking checkpoints", outage)
    attempts.failed(OSError("disk full"))
    attempts.worked()
    transaction(outage, OSError("gone"))
    attempts.failed(OSError("gone"))
    attempts.failed(ValueError("wrong"))
    assert caplog.messages == [
        "taking checkpoints failed: disk full",
        "taking checkpoints works again",
        "the database is out of reach: gone",
        "internal error while taking checkpoints",
    ]
