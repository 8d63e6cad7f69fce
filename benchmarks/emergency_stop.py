"""Time of an emergency stop of every agent, and of its release, on SQLite and on PostgreSQL.

python -m benchmarks.emergency_stop [FEW] [MANY]

Each agent has two tags. All writers wait while it runs, and other work of the store waits while it blocks the event
loop; so both times are shown, beside the longest statement. `one by one` suspends the few agents with the function for
a single agent, in one transaction: the time of a stop without bulk statements.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import Status
from registry_store.database import migrate
from registry_store.database.transactions import Database
from registry_store.journal.activity import Actor
from registry_store.records import agents, emergency_stops
from registry_store.settings import database_url
from tests import postgresql

MAX_SECONDS = 15.0
LOOP_TICK_SECONDS = 0.005
TEMPLATE = {"agent_id": "template-agent-prod", "display_name": "Template", "allowed_resources": ["banking_api"]}
FILL = (
    """
    INSERT INTO agents
        (agent_id, status, agent_type, configuration, version, latest_minor, revision, created_at, updated_at)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :agents - 1)
    SELECT 'agent-' || (1000000 + n) || '-prod', status, agent_type, configuration, version, latest_minor, revision,
        created_at, updated_at
    FROM numbers, agents
    """,
    """
    INSERT INTO agent_tags (agent_id, tag, status, agent_type)
    SELECT agent_id, tag || substr(agent_id, 12, 1), status, agent_type
    FROM agents, (SELECT 'team-' AS tag UNION SELECT 'region-') AS tags
    """,
)

Work = Callable[[AsyncSession, Actor], Awaitable[Any]]


@dataclass
class Taken:
    """Seconds: of the transaction, of its longest statement, and of the longest block of the event loop."""

    whole: float = 0.0
    statement: float = 0.0
    loop: float = 0.0


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, URL]]:
    """A new database of each kind."""
    with postgresql.cluster() as cluster:
        yield {
            "SQLite": database_url(f"sqlite:///{folder}/registry.db"),
            "PostgreSQL": database_url(cluster.url(cluster.create())),
        }


@asynccontextmanager
async def filled(url: URL, number: int) -> AsyncIterator[Database]:
    """The database with `number` active agents."""
    await migrate.migrated(url)
    database = Database(url)
    try:
        async with database.writing() as session:
            await agents.register(session, TEMPLATE, actor(), activate=True)
            for statement in FILL:
                await session.execute(text(statement), {"agents": number})
            await session.execute(text("ANALYZE"))  # as PostgreSQL's own housekeeping does a minute later
        yield database
    finally:
        await database.close()


def actor() -> Actor:
    """The actor, with the current time."""
    return Actor("benchmark", "cli", datetime.now(UTC))


async def measured(database: Database, work: Work) -> Taken:
    """The time of `work` in one transaction."""
    taken, began = Taken(), 0.0

    def before(*_: Any) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: Any) -> None:
        taken.statement = max(taken.statement, time.perf_counter() - began)

    listeners = {"before_cursor_execute": before, "after_cursor_execute": after}
    for name, listener in listeners.items():
        event.listen(database.engine.sync_engine, name, listener)
    ticking = asyncio.create_task(_tick(taken))
    started = time.perf_counter()
    async with database.writing() as session:
        await work(session, actor())
    taken.whole = time.perf_counter() - started
    ticking.cancel()
    for name, listener in listeners.items():
        event.remove(database.engine.sync_engine, name, listener)
    return taken


async def _tick(taken: Taken) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(LOOP_TICK_SECONDS)
        taken.loop = max(taken.loop, time.perf_counter() - before - LOOP_TICK_SECONDS)


async def one_by_one(session: AsyncSession, by: Actor) -> None:
    """Suspend every agent as a person suspends one."""
    found = await session.execute(text("SELECT agent_id FROM agents ORDER BY agent_id"))
    for agent_id in found.scalars():
        await agents.set_status(session, await agents.get(session, agent_id), Status.SUSPENDED, "", by)


async def stop(session: AsyncSession, by: Actor) -> None:
    """Stop every agent."""
    await emergency_stops.stop(session, {"all": True, "reason": "benchmark"}, by)


async def release(session: AsyncSession, by: Actor) -> None:
    """Release the one stop."""
    ((stopped, *_), _) = await emergency_stops.page(session, 1, 0)
    await emergency_stops.release(session, {"stop_id": stopped["stop_id"]}, by)


async def compare(kind: str, url: URL, number: int, *, with_one_by_one: bool) -> float:
    """Print the time of a stop and a release of `number` agents; return the longer one in seconds."""
    longest, one = 0.0, 0.0
    async with filled(url, number) as database:
        for name, work in {"stop": stop, "release": release}.items():
            longest = max(longest, await _row(f"{kind}, {name}", number, database, work))
        if with_one_by_one:
            one = await _row(f"{kind}, one by one", number, database, one_by_one)
            print(f"{'':38}{one / longest:9.1f} times as long")
    return longest


async def _row(name: str, number: int, database: Database, work: Work) -> float:
    taken = await measured(database, work)
    each = taken.whole / number * 1e6
    print(f"{name:26}{number:>12,}{taken.whole:9.2f}{each:9.0f}{taken.statement:11.3f}{taken.loop:9.3f}", flush=True)
    return taken.whole


def main(few: int = 2_000, many: int = 100_000) -> None:
    """Print the table; exit code 1 when a stop of many takes too long."""
    longest = 0.0
    print(f"{'seconds':26}{'agents':>12}{'whole':>9}{'µs each':>9}{'statement':>11}{'loop':>9}")
    for number in (few, many):
        with tempfile.TemporaryDirectory() as folder, databases(Path(folder)) as urls:
            for kind, url in urls.items():
                took = asyncio.run(compare(kind, url, number, with_one_by_one=number == few))
                longest = max(longest, took)
    sys.exit(longest >= MAX_SECONDS)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
