"""Every metric of the sidecar, by name.

What each decision touches is a plain number that a scrape reads: one event loop owns them, so they need no lock.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from pdp.core.action import FIELDS, REPORT, REQUEST
from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.model import Outcome, Reason, RecordKind, Result, Trigger
from pdp.serving.lag import LoopLag
from pdp.serving.monitoring.certificates import Certificates
from pdp.serving.version import VERSION

DURATION_BUCKETS = (
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0,
)  # fmt: skip
SYNC_STATES = ("disconnected", "catching_up", "live")
REQUEST_FIELDS = FIELDS.keys() | REQUEST.keys() | REPORT.keys()
MAX_POLICIES = 500
"""Policies that have counters of their own, the first that decide; the others share one, whose labels are `other`."""
OTHER = "other"
_REASONS = max(Reason) + 1
_OUTCOMES = max(Outcome) + 1


class _Row:
    """The counts of one policy: `decided` by outcome, `shadow` by verdict and outcome."""

    __slots__ = ("decided", "name", "shadow")

    def __init__(self) -> None:
        self.name = OTHER
        self.decided = [0] * _OUTCOMES
        self.shadow = [0] * _OUTCOMES**2


class _AgentRow:
    """The counts of one agent: decisions by outcome and reason, and the micro-dollars that they charged."""

    __slots__ = ("decided", "micros")

    def __init__(self) -> None:
        self.decided = [0] * (_OUTCOMES * _REASONS)
        self.micros = 0


class PolicyCounts:
    """How often each policy decided, and what shadow policies would have done; a policy keeps its first name here."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._others = _Row()

    def add(self, decision: Decision) -> None:
        """Counts the policy that decided, if one did, and each shadow policy that held."""
        if (policy := decision.policy) is not None:
            (self._rows.get(policy.policy_id) or self._row(policy)).decided[decision.outcome] += 1
        for policy in decision.shadow:
            row = self._rows.get(policy.policy_id) or self._row(policy)
            row.shadow[policy.outcome * _OUTCOMES + decision.outcome] += 1

    def families(self) -> Iterator[Metric]:
        """The counters, for prometheus_client."""
        labels = ["policy_id", "policy", "outcome"]
        decided = CounterMetricFamily("pdp_policy_decisions", "Decisions that a policy made", labels=labels)
        shadow = CounterMetricFamily(
            "pdp_shadow_decisions", "What shadow policies would have decided (verdict)", labels=[*labels, "verdict"]
        )
        for policy_id, row in [*self._rows.items(), (OTHER, self._others)]:
            for outcome, count in enumerate(row.decided):
                if count:
                    decided.add_metric([policy_id, row.name, _lower(outcome)], count)
            for index, count in enumerate(row.shadow):
                if count:
                    verdict, outcome = divmod(index, _OUTCOMES)
                    shadow.add_metric([policy_id, row.name, _lower(outcome), _lower(verdict)], count)
        yield from (decided, shadow)

    def _row(self, policy: CompiledPolicy) -> _Row:
        if len(self._rows) >= MAX_POLICIES:
            return self._others
        row = self._rows[policy.policy_id] = _Row()
        row.name = policy.policy_name
        return row


class Metrics(Collector):
    """The metrics of one sidecar; `agents` are those it is subscribed to by name, and only they become labels."""

    def __init__(self, agents: Iterable[str] = ()) -> None:
        self.in_flight = 0
        """How many decisions are being made."""
        self._agents = tuple(agents)
        self._unnamed = _AgentRow()
        self._named = {agent_id: _AgentRow() for agent_id in self._agents}
        self._buckets = [0] * (len(DURATION_BUCKETS) + 1)
        self._seconds = 0.0
        self.policies = PolicyCounts()
        self._totals: list[tuple[str, str, Callable[[], float]]] = []
        self._families: list[Callable[[], Iterator[Metric]]] = []
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.certificates = Certificates("pdp", self.registry)
        self._malformed = self._counter("pdp_malformed_requests", "Requests refused as malformed", ["field"])
        self._unavailable = self._counter("pdp_unavailable", "Requests refused for want of registry data")
        self._internal_errors = self._counter("pdp_internal_errors", "Decisions that failed, and so blocked")
        self._outcomes = self._counter("pdp_outcomes", "Outcomes of actions taken", ["result"])
        self._suspensions = self._counter("pdp_suspensions", "Agents suspended by this sidecar", ["trigger"])
        self._refused = self._counter("pdp_refused_records", "Records that did not compile here", ["kind"])
        # From zero on: what increases when it first appears is no increase to Prometheus, and no alert.
        for counter, values in (
            (self._outcomes, [result.name.lower() for result in Result]),
            (self._suspensions, [trigger.value for trigger in Trigger]),
            (self._refused, [*(kind.name.lower() for kind in RecordKind), "unknown"]),
        ):
            for value in values:
                counter.labels(value)
        self._reconnects = self._counter("pdp_sync_reconnects", "Sync streams opened after the first")
        self._snapshots = self._counter("pdp_sync_snapshots", "Snapshots taken in")
        self._changes = self._counter("pdp_sync_changes", "Changes taken in")
        self._unsaved = self._counter("pdp_last_good_failures", "Failures to write the last good state")
        self.loop_lag = LoopLag("pdp", self.registry)
        self._sync_state = Enum(
            "pdp_sync_state", "State of the sync stream", states=SYNC_STATES, registry=self.registry
        )
        self._info = Info("pdp_build", "What runs", registry=self.registry)
        self._info.info({"version": VERSION, "python": platform.python_version()})
        self.registry.register(self)

    def decided(self, agent_id: str, outcome: int, reason: int, seconds: float, micros: int = 0) -> None:
        """Counts one decision, by the numbers of its `Outcome` and `Reason`, the time that it took, and its charge."""
        row = self._named.get(agent_id, self._unnamed)
        row.decided[outcome * _REASONS + reason] += 1
        row.micros += micros
        self._buckets[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def decided_in_all(self) -> int:
        """How many decisions were counted since the start."""
        return sum(self._buckets)

    def refused(self, field: str) -> None:
        """Counts one malformed request, by the top field that is wrong."""
        name = field.removeprefix("action.").split(".", 1)[0].split("[", 1)[0]
        self._malformed.labels(name if name in REQUEST_FIELDS else "other").inc()

    def unavailable(self) -> None:
        """Counts one request that came before any registry data."""
        self._unavailable.inc()

    def internal_error(self) -> None:
        """Counts one decision that failed."""
        self._internal_errors.inc()

    def outcome(self, result: str) -> None:
        """Counts one outcome, succeeded or failed."""
        self._outcomes.labels(result).inc()

    def suspended(self, trigger: str) -> None:
        """Counts one suspension by this sidecar."""
        self._suspensions.labels(trigger).inc()

    def refused_record(self, kind: str) -> None:
        """Counts one record that did not compile here."""
        self._refused.labels(kind).inc()

    def sync_state(self, state: str) -> None:
        """Notes the state of the sync stream, one of `SYNC_STATES`."""
        self._sync_state.state(state)

    def reconnect(self) -> None:
        """Counts one sync stream after the first."""
        self._reconnects.inc()

    def snapshot(self) -> None:
        """Counts one snapshot taken in."""
        self._snapshots.inc()

    def change(self) -> None:
        """Counts one change taken in."""
        self._changes.inc()

    def last_good_failure(self) -> None:
        """Counts one failure to write the last good state."""
        self._unsaved.inc()

    def watch(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Makes a gauge that `read` answers at each scrape."""
        Gauge(name, about, registry=self.registry).set_function(read)

    def watch_total(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Makes a counter that `read`, which never goes down, answers at each scrape."""
        self._totals.append((name, about, read))

    def watch_families(self, read: Callable[[], Iterator[Metric]]) -> None:
        """Makes the metrics that `read` answers at each scrape; only named agents may be labels."""
        self._families.append(read)

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What each decision touches, for prometheus_client."""
        yield self._decisions()
        yield self._refusals()
        yield self._durations()
        yield self._charges()
        yield from self.policies.families()
        for families in self._families:
            yield from families()
        yield GaugeMetricFamily("pdp_decisions_in_flight", "Decisions being made", value=self.in_flight)
        for name, about, read in self._totals:
            yield CounterMetricFamily(name, about, value=read())

    def _counter(self, name: str, about: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _rows(self) -> list[tuple[str, _AgentRow]]:
        """The counts of all agents that are not named, under an empty id, and of each named one."""
        return [("", self._unnamed), *self._named.items()]

    def _decisions(self) -> Metric:
        labels = ["outcome", "reason"] + (["agent_id"] if self._agents else [])
        family = CounterMetricFamily("pdp_decisions", "Decisions by outcome and reason", labels=labels)
        for agent_id, row in self._rows():
            for index, count in enumerate(row.decided):
                if count:
                    outcome, reason = divmod(index, _REASONS)
                    values = [_lower(outcome), Reason(reason).name]
                    family.add_metric(values + ([agent_id] if self._agents else []), count)
        return family

    def _refusals(self) -> Metric:
        family = CounterMetricFamily("pdp_limit_refusals", "Decisions that a limit blocked", labels=["limit"])
        for limit, reason in (("rate", Reason.RATE_LIMIT_EXCEEDED), ("budget", Reason.BUDGET_EXCEEDED)):
            index = Outcome.BLOCK * _REASONS + reason
            family.add_metric([limit], sum(row.decided[index] for _, row in self._rows()))
        return family

    def _charges(self) -> Metric:
        labels = ["agent_id"] if self._agents else []
        family = CounterMetricFamily(
            "pdp_charged_usd", "Estimated cost of the actions that were allowed", labels=labels
        )
        for agent_id, row in self._rows():
            family.add_metric([agent_id] if self._agents else [], row.micros / 1e6)
        return family

    def _durations(self) -> Metric:
        family = HistogramMetricFamily("pdp_decision_duration_seconds", "Time from request to answer")
        bounds = [*map(str, DURATION_BUCKETS), "+Inf"]
        total, buckets = 0, []
        for bound, count in zip(bounds, self._buckets, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric([], buckets, self._seconds)
        return family


def _lower(outcome: int) -> str:
    return Outcome(outcome).name.lower()
