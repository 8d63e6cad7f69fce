"""A real Prometheus scrapes the programs, and has every metric and label that a rule or panel names."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import pytest_asyncio
import trustme

from pdp import app
from pdp.core.model import StaleMode
from pdp.serving.tls.certificates import Files
from pdp.settings import Subscription, host_and_port
from tests import whole
from tests.monitoring import files
from tests.monitoring.prometheus import Prometheus, scraping
from tests.pdp.injector.calling import webhook
from tests.tls import running
from tests.tls.certificates import write_pair
from tests.waiting import eventually_gives
from tests.whole import AGENT, FINANCIAL, HIGH_VALUE

FREE = "127.0.0.1:0"
ADDED = {"namespace", "pod", "container", "instance", "job"}
"""Labels of the target, which the operator adds."""
RECORDED_LATER = {"registry_store:http_errors:ratio5m"}
"""There is no series of it while no request fails."""
CHANGED = {"max_daily_budget_usd": 100, "webhook_url": None}
SHADOW = HIGH_VALUE | {"policy_name": "Shadow", "policy_action": "block", "mode": "shadow", "priority": 1}


class Scraped:
    """A Prometheus that has scraped everything, and the labels of each series that it has."""

    def __init__(self, prometheus: Prometheus, labels: dict[str, list[dict[str, str]]]) -> None:
        self.prometheus = prometheus
        self.labels = labels

    def names(self, metric: str) -> set[str]:
        """The labels of a metric, those of its target among them."""
        return {name for series in self.labels.get(metric, []) for name in series}


def job(name: str, address: str | None, **labels: str) -> dict[str, Any]:
    """A scrape job of one target, with the labels that it would have in a cluster."""
    return {"job_name": name, "static_configs": [{"targets": [address], "labels": {"namespace": "test", **labels}}]}


@asynccontextmanager
async def encrypted(folder: Path) -> AsyncIterator[list[dict[str, Any]]]:
    """The jobs of a store and a sidecar that speak TLS, but not on the port that is scraped."""
    pair = write_pair(folder / "tls", trustme.CA())
    async with AsyncExitStack() as stack:
        central = await stack.enter_async_context(running.central(folder / "store", pair, metrics=FREE))
        settings = whole.settings(
            running.made(folder / "sidecar"),
            f"localhost:{central.port}",
            key_file=central.key_file,
            tls=Files(pair.cert, pair.key, None),
            store_tls=running.client_files(pair),
            metrics=host_and_port("--metrics", FREE),
        )
        sidecar = await stack.enter_async_context(app.running(settings))
        yield [
            job("tls-store", central.running.metrics_address, container="registry-store", pod="tls-store-0"),
            job("tls-sidecar", sidecar.metrics_address, container="pdp-sidecar", pod="tls-sidecar"),
        ]


@asynccontextmanager
async def injecting(folder: Path) -> AsyncIterator[list[dict[str, Any]]]:
    """The job of an injector, on its HTTPS port."""
    async with webhook(folder) as injector:
        (folder / "ca.crt").write_bytes(injector.authority.cert_pem.bytes())
        tls = {"ca_file": str(folder / "ca.crt"), "server_name": "localhost"}
        target = job("injector", injector.injector.address, container="pdp-injector", pod="injector")
        yield [target | {"scheme": "https", "tls_config": tls}]


async def exercise(central: whole.Central, named: whole.Beside, every: whole.Beside) -> None:
    """One decision by a policy, with a shadow policy, that costs something, and one that waits for people."""
    path = f"/api/agents/registry/{AGENT}/policies"
    created = await central.rest.call("POST", "/api/agents/registry", FINANCIAL | CHANGED)
    assert created.status == 201, created.body
    for policy in (HIGH_VALUE, SHADOW):
        assert (await central.rest.call("POST", path, policy)).status == 201
    for beside in (named, every):
        await beside.until("POLICY_MATCHED", action_type="transaction.process", amount=50_000, risk_score=50)
        await beside.evaluate("transaction.process", amount=50_000, risk_score=50)
        await beside.evaluate(risk_score=1, estimated_cost_usd=1.5)
        assert (await beside.http.call("POST", "/v1/evaluate", {"action": {"agent_id": AGENT}})).status == 400


async def act(beside: whole.Beside) -> None:
    """One action that is allowed and succeeds, without a cost: rates need what goes on."""
    answer = await beside.evaluate(risk_score=1)
    outcome = {"decision_id": answer.decision_id, "result": "succeeded"}
    assert (await beside.http.call("POST", "/v1/outcomes", outcome)).status == 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scraped(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scraped]:
    folders = [tmp_path_factory.mktemp(name) for name in ("store", "named", "every", "prometheus")]
    async with AsyncExitStack() as stack:
        checkpoints = folders[0] / "checkpoints.jsonl"
        central = await stack.enter_async_context(whole.store(folders[0], metrics=FREE, checkpoint_file=checkpoints))
        named, every = [
            await stack.enter_async_context(whole.sidecar(sidecar_settings(folder, central, subscription)))
            for folder, subscription in ((folders[1], Subscription(agents=(AGENT,))), (folders[2], Subscription()))
        ]
        await exercise(central, named, every)
        jobs = [
            job("store", central.metrics_address, container="registry-store", pod="store-0"),
            job("named", named.sidecar.metrics_address, container="pdp-sidecar", pod="named"),
            job("every", every.sidecar.metrics_address, container="pdp-sidecar", pod="every"),
            *await stack.enter_async_context(encrypted(tmp_path_factory.mktemp("encrypted"))),
            *await stack.enter_async_context(injecting(tmp_path_factory.mktemp("injector"))),
        ]
        prometheus = await stack.enter_async_context(scraping(folders[3], jobs, files.rule_file()))
        wanted = files.recorded() - RECORDED_LATER

        async def labels() -> dict[str, list[dict[str, str]]]:
            await act(named)
            return await prometheus.labels()

        found = await eventually_gives(labels, lambda found: wanted <= found.keys())
        yield Scraped(prometheus, found)


def sidecar_settings(folder: Path, central: whole.Central, subscription: Subscription) -> Any:
    (folder / "sidecar.key").touch(0o600)
    (folder / "sidecar.key").write_text(central.key_file.read_text())
    return whole.settings(
        folder,
        central.grpc_address,
        subscription=subscription,
        metrics=host_and_port("--metrics", FREE),
        max_staleness=3600.0,
        stale_mode=StaleMode.SERVE,
    )


def faults(expression: str, scraped: Scraped) -> list[str]:
    """What an expression names and no scrape has: metrics, labels and values of labels."""
    parsed = promql.parse(expression)
    found = [fault for one in files.selectors(parsed) for fault in _unknown(one, scraped)]
    for part in files.nodes(parsed):
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            found += _groups(part.modifier.labels, part, scraped)
        if isinstance(part, promql.BinaryExpr) and part.modifier is not None and part.modifier.matching is not None:
            for side in (part.lhs, part.rhs):
                found += _groups(part.modifier.matching.labels, side, scraped)
    return found


def _unknown(selector: promql.VectorSelector, scraped: Scraped) -> list[str]:
    metric = selector.name
    if metric not in scraped.labels:
        return [] if metric in RECORDED_LATER else [f"{metric} is in no scrape"]
    found = []
    for matcher in selector.matchers.matchers:
        if matcher.name not in scraped.names(metric):
            found.append(f"{metric} has no label {matcher.name}")
        elif matcher.op == promql.MatchOp.Equal and not any(
            series.get(matcher.name) == matcher.value for series in scraped.labels[metric]
        ):
            found.append(f"{metric} has no {matcher.name}={matcher.value}")
    return found


def _groups(labels: Sequence[str], part: Any, scraped: Scraped) -> list[str]:
    metrics = [one.name for one in files.selectors(part) if one.name in scraped.labels]
    return [
        f"{metric} has no label {label}"
        for metric in metrics
        for label in labels
        if label not in scraped.names(metric) | ADDED
    ]


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_and_label_of_a_rule_or_panel_is_in_a_scrape(scraped: Scraped) -> None:
    """By the parsed expressions, so that what is only in a function's name or a string does not count."""
    expressions = files.expressions()
    assert len(expressions) > 80
    assert {one: found for one in expressions if (found := faults(one, scraped))} == {}
    for expression in expressions:
        await scraped.prometheus.query(expression)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(pdp_decision_total[5m])", "pdp_decision_total is in no scrape"),
        ('sum(pdp_decisions_total{result="allow"})', "pdp_decisions_total has no label result"),
        ('sum(pdp_outcomes_total{result="fail"})', "pdp_outcomes_total has no result=fail"),
        ("sum by (policy) (pdp_decisions_total)", "pdp_decisions_total has no label policy"),
        ("pdp_ready and on (agent_id) pdp_stale", "pdp_ready has no label agent_id"),
    ],
)
async def test_a_fault_of_an_expression_is_found(scraped: Scraped, expression: str, fault: str) -> None:
    """The test of the test."""
    assert fault in faults(expression, scraped)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_agent_is_a_label_only_where_the_sidecar_serves_named_agents(scraped: Scraped) -> None:
    """Neither as `agent_id` nor as the value of any other label, at a sidecar of all agents and at the store."""
    where = {
        (series["job"], name)
        for some in scraped.labels.values()
        for series in some
        if "job" in series
        for name, value in series.items()
        if value == AGENT
    }
    assert where == {("named", "agent_id")}


@pytest.mark.asyncio(loop_scope="module")
async def test_no_alert_fires_at_once_where_nothing_is_wrong(scraped: Scraped) -> None:
    """The others wait for a time, which may pass on a machine that is too busy to be scraped."""
    at_once = [rule for rule in files.alerts() if "for" not in rule]
    assert len(at_once) > 10
    fired = {rule["alert"]: await scraped.prometheus.query(rule["expr"]) for rule in at_once}
    assert {name: found for name, found in fired.items() if found} == {}


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_sidecar_counts_arrives(scraped: Scraped) -> None:
    """The processes, the decision of a policy, what a shadow policy would have done, the budget, and who waits."""
    for expression in (
        'process_resident_memory_bytes{container="pdp-sidecar"} > 0',
        'process_cpu_seconds_total{container="registry-store"} > 0',
        'pdp_policy_decisions_total{policy=~"High-Value.*",outcome="require_approval",job="every"} >= 1',
        'pdp_shadow_decisions_total{policy="Shadow",verdict="block",outcome="require_approval",job="every"} >= 1',
        'pdp_budget_spent_usd{job="named"} == 1.5',
        'pdp_charged_usd_total{job="every"} == 1.5',
        'pdp_rate_limit_remaining{window="minute"} > 0',
        'pdp_certificate_expiry_timestamp_seconds{certificate="server",job="tls-sidecar"} > time()',
        'pdp_certificate_expiry_timestamp_seconds{certificate="store",job="tls-sidecar"} > time()',
        'registry_store_certificate_expiry_timestamp_seconds{certificate="server",job="tls-store"} > time()',
        'registry_store_approvals_pending{job="store"} == 1',
        "registry_store_approvals_oldest_pending_seconds > 0",
        'registry_store_alerts_total{kind="approval_requested"} >= 1',
    ):
        await eventually_gives(lambda sent=expression: scraped.prometheus.query(sent), bool)
