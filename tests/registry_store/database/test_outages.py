"""While PostgreSQL is away the log says so once, and once that it is back."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from sqlalchemy import URL

from registry_store.database import notifications, transactions
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
    "database.notifications.RETRY_SECONDS",
    "database.notifications.CHECK_SECONDS",
    "rpc.calls.KEY_CHECK_SECONDS",
    "audit.checkpointer.EVERY_SECONDS",
    "access.authentication.SAVE_SECONDS",
)
MAX_LINES = 5
"""Of a kind: of the connections that were cut off, one may be found so after another has worked."""


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
async def test_an_outage_is_two_lines_for_each_kind_of_work(
    own: tuple[Cluster, Settings],
    tmp_path: Path,
    go_away: Callable[[Cluster, str], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However often the work is tried and however many ask meanwhile; there is no traceback, and each line is one."""
    cluster, settings = own
    for period in PERIODS:
        monkeypatch.setattr(f"registry_store.{period}", 0.02)
    monkeypatch.setattr("registry_store.rest.exchange.problems.TOLD_SECONDS", 3600.0, raising=False)
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
            await eventually(lambda: has_all_back(caplog.messages))
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in told if record.exc_info or "\n" in record.getMessage()] == []
    lines = Counter(record.getMessage().partition(" failed: ")[0] for record in told)
    assert max(lines.values()) <= MAX_LINES, lines


def has_all_back(said: list[str]) -> bool:
    """Whether all work that was said to fail is said to work again."""
    failing = {line.partition(" failed: ")[0] for line in said if " failed: " in line}
    return failing == {line.removesuffix(" works again") for line in said if line.endswith(" works again")}
