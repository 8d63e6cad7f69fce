"""Time of requests about decisions with 10,000 and with 1,000,000 decisions, on SQLite and on PostgreSQL.

python -m benchmarks.decisions_scale [ROUNDS]

Both stores answer over HTTP and gRPC on this machine. Requests alternate between them, so that other load affects both
equally. Medians; the ratio must stay below 3. Then the time to delete the older half.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from registry_store import retention
from registry_store.database import migrate
from registry_store.database.transactions import connect
from registry_store.settings import Settings, database_url
from tests import postgresql
from tests.postgresql import Cluster
from tests.registry_store.reporting import Log, decision, report
from tests.registry_store.serving import Answer, Rest, Served, in_own_loop, served

SMALL, LARGE = 10_000, 1_000_000
AGENTS = 100
BATCH = 1_000
MAX_RATIO = 3.0
ID = {
    "sqlite": "printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, n)",
    "postgresql": "lpad(to_hex(ms >> 16), 8, '0') || '-' || lpad(to_hex(ms & 65535), 4, '0') || '-7000-8000-'"
    " || lpad(to_hex(n), 12, '0')",
}
OLD = {"sqlite": "datetime('now', '-80 days')", "postgresql": "now() - interval '80 days'"}
TIDY = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE"}  # as a server's own housekeeping does a minute later
NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {decisions})",
    "postgresql": "WITH numbers AS (SELECT n FROM generate_series(1, {decisions}) n)",
}
# One decision per second up to now; the older half was received 80 days ago; the first agent is never blocked.
FILL = """
INSERT INTO decisions
    (decision_id, batch_id, position, agent_id, outcome, reason, policy_id, tool, shadow_block, dry_run, decided_at)
{numbers}, timed AS (SELECT n, {now} - ({decisions} - n) * 1000 AS ms FROM numbers)
SELECT {id}, 1 + n / {batch}, n % {batch}, 'agent-' || n % {agents} || '-prod',
    CASE WHEN n % {agents} = 0 OR n % 20 < 18 THEN 'allow' WHEN n % 20 = 18 THEN 'block' ELSE 'escalate' END,
    CASE WHEN n % ({decisions} / 40) = 1 THEN 'MCP_TOOL_BLOCKED' ELSE 'RISK_BELOW_AUTO_APPROVE' END,
    CASE WHEN n % 10 = 0 THEN 'pol_' || n % 500 END, CASE WHEN n % 4 = 0 THEN 'tool-' || n % 50 END,
    CASE WHEN n % 7 = 0 THEN 1 END, dry_run, decided_at
FROM timed, decisions
"""
# The batch of the one decision that was reported, many times.
BATCHES = """
INSERT INTO decision_batches
    (batch_id, node_id, number, first_sequence, last_sequence, is_converted, previous_hash, hash, content, omitted,
    received_at, head)
{numbers}
SELECT n + 1, node_id, n + 1, 1 + n * {batch}, (n + 1) * {batch}, is_converted, previous_hash, hash, content, omitted,
    CASE WHEN n <= {batches} / 2 THEN {old} ELSE received_at END, head
FROM numbers, decision_batches
"""


class Filled(NamedTuple):
    """A store with this many decisions, an admin's client, and a sidecar's key."""

    store: Served
    admin: Rest
    sidecar_key: str
    decisions: int


@contextmanager
def filled(settings: Settings, kind: str, decisions: int) -> Iterator[Filled]:
    """A store with one reported batch and copies of it."""
    with served(settings) as store:
        started = time.perf_counter()
        admin = store.rest()
        admin.register("agent-0-prod")
        noted = [decision(agent_id="agent-0-prod", action={"attributes": {"note": "x" * 300}}) for _ in range(BATCH)]
        report(store, *noted, key=store.key("sidecar"))
        run(store, f"DELETE FROM decisions WHERE decision_id <> '{noted[0]['decision_id']}'")  # noqa: S608 - its own id
        values = {"decisions": decisions, "agents": AGENTS, "now": int(time.time() * 1000), "batch": BATCH}
        numbers = NUMBERS[kind].format(decisions=decisions - 1)
        run(store, FILL.format(numbers=numbers, id=ID[kind], **values))
        batches = decisions // BATCH - 1
        numbers = NUMBERS[kind].format(decisions=batches)
        run(store, BATCHES.format(numbers=numbers, batches=batches, old=OLD[kind], batch=BATCH))
        if kind == "postgresql":
            run(store, f"SELECT setval('decision_batch_ids', {batches + 1})")
        run(store, TIDY[kind])
        print(f"{kind}, {decisions:,} decisions: made in {time.perf_counter() - started:.0f} s", flush=True)
        yield Filled(store, admin, store.key("sidecar"), decisions)


def run(store: Served, statement: str) -> None:
    """Execute a statement in a separate transaction without a time limit."""
    database = store.running._store.database

    async def work() -> None:
        if database.is_sqlite:
            async with database.engine.begin() as connection:
                await connection.exec_driver_sql(statement)
            return
        single = await connect(database.url, patient=True)
        await single.execute(statement)
        await single.close()

    asyncio.run_coroutine_threadsafe(work(), store.loop).result(900)


def check(answer: Answer) -> None:
    """Exit at an unexpected answer."""
    if answer.status != 200:
        sys.exit(f"{answer.status}: {answer.body}")


def requests() -> dict[str, Callable[[Filled, int], None]]:
    """The measured requests by name; each is called with its number."""

    def list_(query: str) -> Callable[[Filled, int], None]:
        return lambda filled, _: check(filled.admin.get(f"/api/decisions?limit=50&{query}"))

    hour_ago = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    logs: dict[int, Log] = {}

    def receive(filled: Filled, n: int) -> None:
        log = logs.setdefault(filled.decisions, Log("node-1"))
        said = [decision(agent_id=f"agent-{(n + each) % AGENTS}-prod") for each in range(BATCH)]
        report(filled.store, *said, log=log, key=filled.sidecar_key)

    return {
        "list, first page": list_(""),
        "list, 5,000 left out": list_("offset=5000"),
        "list by agent": list_("agent_id=agent-7-prod"),
        "list by outcome": list_("outcome=escalate"),
        "list by agent and outcome": list_("agent_id=agent-7-prod&outcome=allow"),
        "list by agent and outcome, none": list_("agent_id=agent-0-prod&outcome=block"),
        "list by reason": list_("reason=RISK_BELOW_AUTO_APPROVE"),
        "list by rare reason": list_("reason=MCP_TOOL_BLOCKED"),
        "list by agent and rare reason, none": list_("agent_id=agent-7-prod&reason=MCP_TOOL_BLOCKED"),
        "list by agent and reason": list_("agent_id=agent-7-prod&reason=RISK_BELOW_AUTO_APPROVE"),
        "list by outcome and rare reason": list_("outcome=allow&reason=MCP_TOOL_BLOCKED"),
        "list by policy": list_("policy=pol_10"),
        "list by tool": list_("tool=tool-4"),
        "list by tool and outcome": list_("tool=tool-4&outcome=block"),
        "list by shadow verdict": list_("shadow=block"),
        "list by shadow verdict and outcome": list_("shadow=block&outcome=allow"),
        "list of the last hour": list_(f"since={hour_ago}"),
        "list by agent and outcome until then": list_(f"agent_id=agent-7-prod&outcome=allow&until={hour_ago}"),
        "read": lambda filled, _: check(filled.admin.get(f"/api/decisions/{newest(filled)}")),
        "usage": lambda filled, _: check(filled.admin.get("/api/agents/registry/agent-0-prod/usage")),
        f"report of {BATCH:,}": receive,
    }


def newest(filled: Filled) -> str:
    """The id of the newest decision."""
    found: str = filled.admin.get("/api/decisions?limit=1").body["decisions"][0]["decision_id"]
    return found


def measure(small: Filled, large: Filled, rounds: int) -> Iterator[tuple[str, float, float]]:
    """The median of each request at both sizes, in ms."""
    for name, call in requests().items():
        taken: tuple[list[float], list[float]] = ([], [])
        for n in range(rounds + 3):
            for filled, times in ((small, taken[0]), (large, taken[1])):
                started = time.perf_counter()
                call(filled, n)
                times.append((time.perf_counter() - started) * 1000)
        yield name, statistics.median(taken[0][3:]), statistics.median(taken[1][3:])


def seconds_to_delete(filled: Filled) -> float:
    """Seconds to delete the older half in batches once it is 90 days old."""
    store = filled.store.running._store
    started = time.perf_counter()
    work = retention.tidy(store.database, store.settings.retention(), datetime.now(UTC) + timedelta(days=20))
    asyncio.run_coroutine_threadsafe(work, filled.store.loop).result(900)
    return time.perf_counter() - started


def settings_of(kind: str, cluster: Cluster, folder: Path, decisions: int) -> Settings:
    """Settings of a store on a new database."""
    if kind == "sqlite":
        return Settings(f"sqlite:///{folder / f'{decisions}.db'}", "127.0.0.1:0", "127.0.0.1:0")
    url = cluster.url(cluster.create())
    in_own_loop(migrate.migrated(database_url(url)))
    return Settings(url, "127.0.0.1:0", "127.0.0.1:0", pepper_file=folder / f"{decisions}.pepper")


def compare(kind: str, cluster: Cluster, rounds: int) -> float:
    """Print the table of one database; returns the worst ratio."""
    worst = 0.0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        small, large = (
            stack.enter_context(filled(settings_of(kind, cluster, folder, size), kind, size)) for size in (SMALL, LARGE)
        )
        print(f"\n{f'{kind}: median of {rounds}, ms':38}{SMALL:>10,}{LARGE:>11,}{'ratio':>8}")
        for name, at_small, at_large in measure(small, large, rounds):
            worst = max(worst, at_large / at_small)
            print(f"{name:38}{at_small:10.1f}{at_large:11.1f}{at_large / at_small:8.2f}", flush=True)
        print(f"{LARGE // 2:,} old ones deleted in {seconds_to_delete(large):.0f} s\n", flush=True)
    return worst


def main(rounds: int = 20) -> None:
    """Print both tables; exit code 1 when a request takes three times as long or more."""
    with postgresql.cluster() as cluster:
        worst = max(compare(kind, cluster, rounds) for kind in ("sqlite", "postgresql"))
    sys.exit(worst >= MAX_RATIO)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
