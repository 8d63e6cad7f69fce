"""What the named agents have left of their limits and budgets, as metrics."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pdp.core.compile import CompiledAgent
from pdp.core.localtime import local_time
from pdp.core.model import Now
from pdp.core.usage import UNKNOWN_MICROS
from pdp.counters.counters import Counters
from pdp.metrics import Metrics

MICROS = 1_000_000


def watch(
    metrics: Metrics,
    counters: Counters,
    names: Sequence[str],
    agents: Callable[[], Mapping[str, CompiledAgent]],
    clock: Callable[[], Now],
) -> None:
    """Registers the gauges of the agents in `names`, for those of them that `agents()` holds at a scrape."""

    def collect() -> Iterator[Metric]:
        held = agents()
        return _families(counters, [held[name] for name in names if name in held], clock())

    if names:
        metrics.watch_families(collect)


def _families(counters: Counters, agents: Sequence[CompiledAgent], now: Now) -> Iterator[Metric]:
    remaining = GaugeMetricFamily(
        "pdp_rate_limit_remaining", "Actions that a rate limit still admits", labels=["agent_id", "window"]
    )
    spent = GaugeMetricFamily("pdp_budget_spent_usd", "Spend of the local day", labels=["agent_id"])
    budget = GaugeMetricFamily("pdp_budget_limit_usd", "Budget of a day", labels=["agent_id"])
    for agent in agents:
        usage = counters.of(agent.agent_id, agent.zone, now.boot)
        for window, left in usage.remaining(agent.limits, now.boot)._asdict().items():
            if left is not None:
                remaining.add_metric([agent.agent_id, window], left)
        if agent.budget_micros is not None:
            micros = usage.spent(local_time(agent.zone, now.wall).day)
            used = agent.budget_micros if micros >= UNKNOWN_MICROS else micros  # an unknown spend counts as all of it
            spent.add_metric([agent.agent_id], used / MICROS)
            budget.add_metric([agent.agent_id], agent.budget_micros / MICROS)
    yield from (remaining, spent, budget)
