"""A store that is killed after a change and before its alert was sent."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import trustme

from tests.ports import reserved
from tests.programs import run, started
from tests.registry_store.alerts.receivers import receiving
from tests.registry_store.serving import Rest, in_thread
from tests.waiting import eventually, eventually_gives

AGENT = "finance-transaction-processor-prod"


def alerts(path: Path, condition: str = "true") -> list[str]:
    """The ids of the alerts in a database, as it is on the disk."""
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute(f"SELECT alert_id FROM alerts WHERE {condition}")]


async def test_the_next_store_sends_what_a_killed_one_could_not(
    tmp_path: Path, authority: trustme.CA, ca: Path
) -> None:
    """By itself, once, under the id that the alert had before."""
    path = tmp_path / "registry.db"
    database = ("--database", f"sqlite:///{path}")
    key = (await run("registry-store", "keys", "create", *database, "--role", "admin", "--name", "root")).out.strip()
    with reserved() as http, reserved() as grpc, reserved() as hook:
        port = int(hook.rpartition(":")[2])
        private = ("--webhook-private", "--webhook-ca", str(ca))
        serve = ("registry-store", "serve", *database, "--http", http, "--grpc", grpc, *private)
        admin = Rest(http, key)
        async with started(*serve) as store:
            await eventually_gives(partial(in_thread, admin.is_ready), bool)
            await in_thread(partial(admin.register, AGENT, webhook_url=f"https://localhost:{port}/"))
            for change in ("activate", "suspend"):
                await in_thread(admin.post, f"/api/agents/registry/{AGENT}/{change}")
            await eventually(lambda: alerts(path, "failures > 0"))
            store.process.kill()
            await store.process.wait()
        with receiving(authority, port) as receiver:
            async with started(*serve):
                await eventually(lambda: receiver.bodies)
                await eventually(lambda: alerts(path, "status = 'delivered'"))
    (alert_id,) = alerts(path)
    assert [headers["webhook-id"] for headers in receiver.headers] == [alert_id]
