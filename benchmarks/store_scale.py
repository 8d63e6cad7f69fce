"""Time of the registry's requests with 1,000 and with 100,000 agents, each with three policies, on both databases.

python -m benchmarks.store_scale [ROUNDS]

Both stores answer over HTTP on this machine, each from its own database. Requests alternate between them,
so that other load affects both equally. Medians; the ratio must stay below 3.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from registry_store.database import migrate
from registry_store.database.transactions import Database
from registry_store.settings import Settings, database_url
from tests import postgresql
from tests.registry_store.serving import Answer, Rest, in_own_loop, served

SMALL, LARGE = 1_000, 100_000
POLICIES = 3
VERSIONS = 3
REGISTRY = "/api/agents/registry"
MAX_RATIO = 3.0
FILL_SECONDS = 1200.0
AGENT: dict[str, Any] = {
    "agent_id": "template-agent-prod",
    "display_name": "Template",
    "description": "Settles invoices",
    "allowed_action_types": ["transaction.process", "api.read"],
    "allowed_resources": ["banking_api", "ledger"],
    "metadata": {"owner": "finance", "cost_center": "4711"},
}
POLICY = {
    "policy_name": "template",
    "policy_action": "require_approval",
    "conditions": {"amount_above": 10_000},
    "action_params": {"approvers": ["cfo@example.com"]},
}
FILL = (
    """
    CREATE TEMPORARY TABLE made AS
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {agents})
    SELECT
        'agent-' || substr('' || (1000000 + n), 2) || '-prod' AS agent_id,
        CASE n % 5 WHEN 3 THEN 'draft' WHEN 4 THEN 'suspended' ELSE 'active' END AS status,
        CASE n % 4 WHEN 0 THEN 'autonomous' WHEN 1 THEN 'supervised' WHEN 2 THEN 'advisory' ELSE 'custom' END
            AS agent_type,
        'team-' || (n % 20) AS team,
        'region-' || (n % 3) AS region
    FROM number
    """,
    """
    INSERT INTO agents
        (agent_id, status, agent_type, configuration, version, latest_minor, revision, created_at, updated_at)
    SELECT m.agent_id, m.status, m.agent_type, {configuration}, '1.{minor}.0', {minor}, revision, created_at, updated_at
    FROM made m, agents WHERE agents.agent_id = '{template}'
    """,
    """
    INSERT INTO agent_tags (agent_id, tag, status, agent_type)
    SELECT agent_id, team, status, agent_type FROM made
    UNION ALL SELECT agent_id, region, status, agent_type FROM made
    """,
    """
    INSERT INTO agent_versions (agent_id, minor, version_notes, configuration, created_at, created_by)
    WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < {minor})
    SELECT a.agent_id, n, 'SEC-' || n, configuration, created_at, 'benchmark'
    FROM agents a, number WHERE a.agent_id <> '{template}'
    """,
    """
    INSERT INTO policies
        (policy_id, agent_id, policy_name, priority, body, size, revision, created_at, updated_at)
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {policies})
    SELECT 'pol_' || m.agent_id || '_' || n, m.agent_id, 'policy-' || n, n, {policy},
        size, revision, created_at, updated_at
    FROM made m, policies, number WHERE policies.agent_id = '{template}'
    """,
    "DROP TABLE made",
)
JSON = {
    "postgresql": {
        "configuration": "configuration || jsonb_build_object('agent_id', m.agent_id, 'agent_type', m.agent_type,"
        " 'tags', jsonb_build_array(team, region))",
        "policy": "body || jsonb_build_object('policy_name', 'policy-' || n, 'priority', n)",
    },
    "sqlite": {
        "configuration": "json_set(configuration, '$.agent_id', m.agent_id, '$.agent_type', m.agent_type,"
        " '$.tags', json_array(team, region))",
        "policy": "json_set(body, '$.policy_name', 'policy-' || n, '$.priority', n)",
    },
}
"""How each database writes the documents of a copy."""


@contextmanager
def store(url: str, folder: Path, agents: int) -> Iterator[Rest]:
    """A store whose database holds this many agents; yields an admin's client."""
    in_own_loop(migrate.migrated(database_url(url)))
    pepper = folder / f"{agents}.pepper"
    with served(Settings(url, "127.0.0.1:0", "127.0.0.1:0", pepper_file=pepper)) as running:
        admin, started = running.rest(), time.perf_counter()
        admin.register(**AGENT)
        check(admin.post(f"{REGISTRY}/{AGENT['agent_id']}/policies", POLICY), 201)
        in_own_loop(fill(database_url(url), agents), FILL_SECONDS)
        print(
            f"{agents} agents, {agents * POLICIES} policies: made in {time.perf_counter() - started:.0f} s", flush=True
        )
        yield admin


async def fill(url: URL, agents: int) -> None:
    """Copy the one agent so many times, and vacuum as PostgreSQL itself does a minute later."""
    values = {"agents": agents, "policies": POLICIES, "minor": VERSIONS - 1, "template": AGENT["agent_id"]}
    database = Database(url, patient=True)
    name = database.engine.dialect.name
    try:
        async with database.engine.begin() as connection:
            for statement in FILL:
                await connection.exec_driver_sql(statement.format(**values, **JSON[name]))
        if name == "postgresql":
            async with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.exec_driver_sql("VACUUM ANALYZE")
    finally:
        await database.close()


def check(answer: Answer, status: int = 200) -> None:
    """Exit at an unexpected answer."""
    if answer.status != status:
        sys.exit(f"{answer.status}: {answer.body}")


def requests(agents: int) -> dict[str, Callable[[Rest, int], Answer]]:
    """The measured requests by name; each is called with its number."""

    def one(n: int) -> str:
        return f"{REGISTRY}/agent-{1 + n * 7919 % agents:06}-prod"

    def list_(query: str) -> Callable[[Rest, int], Answer]:
        return lambda rest, _: rest.get(f"{REGISTRY}?limit=50{query}")

    return {
        "list, first page": list_(""),
        "list, offset in the middle": list_(f"&offset={agents // 2}"),
        "list, last page": list_(f"&offset={agents - 50}"),
        "list by status": list_("&status=active"),
        "list by status, offset in the middle": list_(f"&status=active&offset={agents * 3 // 10}"),
        "list by type": list_("&type=advisory"),
        "list by tag": list_("&tag=team-7"),
        "list by tag, last page": list_(f"&tag=team-7&offset={max(0, agents // 20 - 50)}"),
        "list by status, type and tag": list_("&status=active&type=advisory&tag=region-1"),
        "read": lambda rest, n: rest.get(one(n)),
        "update": lambda rest, n: rest.put(one(n), {"max_actions_per_day": 20_000 + n}),
        "versions": lambda rest, n: rest.get(f"{one(n)}/versions"),
        "policies": lambda rest, n: rest.get(f"{one(n)}/policies"),
    }


def measure(small: Rest, large: Rest, rounds: int) -> Iterator[tuple[str, float, float]]:
    """The median of each request at both sizes, in ms."""
    at_small, at_large = requests(SMALL), requests(LARGE)
    for name in at_small:
        taken: tuple[list[float], list[float]] = ([], [])
        for n in range(rounds + 3):
            for rest, call, times in ((small, at_small[name], taken[0]), (large, at_large[name], taken[1])):
                started = time.perf_counter()
                check(call(rest, n))
                times.append((time.perf_counter() - started) * 1000)
        yield name, statistics.median(taken[0][3:]), statistics.median(taken[1][3:])


def compare(name: str, small: str, large: str, rounds: int) -> float:
    """Print the table of one database, whose two URLs are given; the worst ratio."""
    worst = 0.0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sizes = {SMALL: small, LARGE: large}
        rests = [stack.enter_context(store(url, folder, agents)) for agents, url in sizes.items()]
        print(f"\n{f'{name}, median of {rounds}, ms':38}{SMALL:>9,}{LARGE:>9,}{'ratio':>8}")
        for request, at_small, at_large in measure(rests[0], rests[1], rounds):
            ratio = at_large / at_small
            worst = max(worst, ratio)
            print(f"{request:38}{at_small:9.1f}{at_large:9.1f}{ratio:8.2f}", flush=True)
    print()
    return worst


def main(rounds: int = 40) -> None:
    """Print both tables; exit code 1 when a request takes three times as long or more."""
    with tempfile.TemporaryDirectory() as folder:
        worst = compare("SQLite", f"sqlite:///{folder}/small.db", f"sqlite:///{folder}/large.db", rounds)
    with postgresql.cluster() as cluster:
        small, large = (cluster.url(cluster.create()) for _ in range(2))
        worst = max(worst, compare("PostgreSQL", small, large, rounds))
    sys.exit(worst >= MAX_RATIO)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
