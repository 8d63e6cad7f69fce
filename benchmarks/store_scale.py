"""Time of the registry's requests with 1,000 and with 100,000 agents, each with three policies, on PostgreSQL.

python -m benchmarks.store_scale [ROUNDS]

Both stores answer over HTTP on this machine, each from its own database in one server. Requests alternate between them,
so that other load affects both equally. Medians; the ratio must stay below 3.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from registry_store.database import migrate
from registry_store.settings import Settings, database_url
from tests import postgresql
from tests.postgresql import Cluster
from tests.registry_store.serving import Answer, Rest, Served, in_own_loop, served

SMALL, LARGE = 1_000, 100_000
POLICIES = 3
VERSIONS = 3
REGISTRY = "/api/agents/registry"
MAX_RATIO = 3.0
AGENT = {
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
    CREATE TEMPORARY TABLE made AS SELECT
        'agent-' || lpad(n::text, 6, '0') || '-prod' AS agent_id,
        (ARRAY['active', 'active', 'active', 'draft', 'suspended'])[1 + n % 5] AS status,
        (ARRAY['autonomous', 'supervised', 'advisory', 'custom'])[1 + n % 4] AS agent_type,
        ARRAY['team-' || n % 20, 'region-' || n % 3] AS tags
    FROM generate_series(1, {agents}) n
    """,
    """
    INSERT INTO agents
        (agent_id, status, agent_type, configuration, version, latest_minor, revision, created_at, updated_at)
    SELECT m.agent_id, m.status, m.agent_type,
        configuration || jsonb_build_object(
            'agent_id', m.agent_id, 'agent_type', m.agent_type, 'tags', to_jsonb(m.tags)),
        '1.{minor}.0', {minor}, revision, created_at, updated_at
    FROM made m, agents WHERE agents.agent_id = '{template}'
    """,
    """
    INSERT INTO agent_tags (agent_id, tag, status, agent_type)
    SELECT agent_id, unnest(tags), status, agent_type FROM made
    """,
    """
    INSERT INTO agent_versions (agent_id, minor, version_notes, configuration, created_at, created_by)
    SELECT a.agent_id, minor, 'SEC-' || minor, configuration, created_at, 'benchmark'
    FROM agents a, generate_series(0, {minor}) minor WHERE a.agent_id <> '{template}'
    """,
    """
    INSERT INTO policies
        (policy_id, agent_id, policy_name, priority, body, size, revision, created_at, updated_at)
    SELECT 'pol_' || m.agent_id || '_' || n, m.agent_id, 'policy-' || n, n,
        body || jsonb_build_object('policy_name', 'policy-' || n, 'priority', n), size, revision, created_at, updated_at
    FROM made m, policies, generate_series(1, {policies}) n WHERE policies.agent_id = '{template}'
    """,
    "DROP TABLE made",
)


@contextmanager
def store(cluster: Cluster, folder: Path, agents: int) -> Iterator[Rest]:
    """A store with this many agents; yields an admin's client."""
    name = cluster.create()
    url = cluster.url(name)
    in_own_loop(migrate.migrated(database_url(url)))
    pepper = folder / f"{agents}.pepper"
    with served(Settings(url, "127.0.0.1:0", "127.0.0.1:0", pepper_file=pepper)) as running:
        fill(cluster, name, running, agents)
        yield running.rest()


def fill(cluster: Cluster, name: str, running: Served, agents: int) -> None:
    """Register one agent over REST, and copy it."""
    admin, started = running.rest(), time.perf_counter()
    admin.register(**AGENT)
    check(admin.post(f"{REGISTRY}/{AGENT['agent_id']}/policies", POLICY), 201)
    values = {"agents": agents, "policies": POLICIES, "minor": VERSIONS - 1, "template": AGENT["agent_id"]}
    cluster.sql(name, "; ".join(statement.format(**values) for statement in FILL))
    cluster.sql(name, "VACUUM ANALYZE")  # as the server's own housekeeping does a minute later
    print(f"{agents} agents, {agents * POLICIES} policies: made in {time.perf_counter() - started:.0f} s", flush=True)


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


def main(rounds: int = 40) -> None:
    """Print the table; exit code 1 when a request takes three times as long or more."""
    worst = 0.0
    with ExitStack() as stack:
        cluster = stack.enter_context(postgresql.cluster())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        small, large = (stack.enter_context(store(cluster, folder, agents)) for agents in (SMALL, LARGE))
        print(f"\n{'median of ' + str(rounds) + ', ms':38}{SMALL:>9,}{LARGE:>9,}{'ratio':>8}")
        for name, at_small, at_large in measure(small, large, rounds):
            ratio = at_large / at_small
            worst = max(worst, ratio)
            print(f"{name:38}{at_small:9.1f}{at_large:9.1f}{ratio:8.2f}", flush=True)
    sys.exit(worst >= MAX_RATIO)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
