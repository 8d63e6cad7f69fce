"""Every metric of the store."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from pdp.core.model import Outcome, Result, Trigger
from pdp.serving.lag import LoopLag
from pdp.serving.monitoring.certificates import Certificates

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
WAITS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 86_400)
"""Seconds that people take to decide; a policy gives them up to a week."""


class Metrics:
    """The metrics of one store, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.certificates = Certificates("registry_store", self.registry)
        self.requests = Counter(
            "registry_store_http_requests_total",
            "HTTP requests by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "registry_store_http_request_duration_seconds",
            "Time from request to response.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.loop_lag = LoopLag("registry_store", self.registry)
        self.propagation_seconds = Histogram(
            "registry_store_propagation_seconds",
            "Time from the commit of a change to its acknowledgement by a sidecar.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.snapshots = Counter("registry_store_snapshots_total", "Snapshots sent.", registry=self.registry)
        self.streams_ended = Counter(
            "registry_store_streams_ended_total",
            "Sync streams by the status that ended them.",
            ["status"],
            registry=self.registry,
        )
        self.refusals = Counter(
            "registry_store_refused_records_total", "Records that sidecars refused.", registry=self.registry
        )
        self.refused_keys = Counter(
            "registry_store_refused_keys_total", "Requests whose key was missing or wrong.", registry=self.registry
        )
        self.decisions = Counter(
            "registry_store_decisions_total",
            "Decisions that sidecars reported, each counted once, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.outcomes = Counter(
            "registry_store_outcomes_total",
            "Outcomes of actions that sidecars reported, each counted once, by result.",
            ["result"],
            registry=self.registry,
        )
        self.suspensions = Counter(
            "registry_store_suspensions_total",
            "Agents that this store suspended, by trigger.",
            ["trigger"],
            registry=self.registry,
        )
        self.decision_repeats = Counter(
            "registry_store_decision_repeats_total",
            "Reported records that the store already had.",
            registry=self.registry,
        )
        self.decisions_missing = Counter(
            "registry_store_decisions_missing_total",
            "Records that sidecars dropped before they were sent.",
            registry=self.registry,
        )
        self.decision_breaks = Counter(
            "registry_store_decision_breaks_total",
            "Records whose hash does not follow from the record before.",
            registry=self.registry,
        )
        self.approvals = Counter(
            "registry_store_approvals_total",
            "Approvals that changed to a state through this store; new ones count as pending.",
            ["state"],
            registry=self.registry,
        )
        self.approvals_pending = Gauge(
            "registry_store_approvals_pending", "Approvals that wait for a person.", registry=self.registry
        )
        self.approvals_oldest_pending = Gauge(
            "registry_store_approvals_oldest_pending_seconds",
            "For how long the oldest pending approval has waited; 0 without one.",
            registry=self.registry,
        )
        self.approval_wait = Histogram(
            "registry_store_approval_wait_seconds",
            "How long approvals waited for people, by the state that ended the wait.",
            ["state"],
            buckets=WAITS,
            registry=self.registry,
        )
        self.alerts = Counter(
            "registry_store_alerts_total",
            "Alerts by kind, counted by the store that first handed them to a channel, also where there is none.",
            ["kind"],
            registry=self.registry,
        )
        self.alerts_sent = Counter(
            "registry_store_alerts_sent_total",
            "Alerts that a receiver accepted, by channel.",
            ["channel"],
            registry=self.registry,
        )
        self.alerts_failed = Counter(
            "registry_store_alerts_failed_total",
            "Tries to send an alert that failed, by channel; they are repeated for a day.",
            ["channel"],
            registry=self.registry,
        )
        self.alerts_pending = Gauge(
            "registry_store_alerts_pending", "Alerts in the outbox that are not sent yet.", registry=self.registry
        )
        self.alerts_dead = Gauge(
            "registry_store_alerts_dead", "Alerts that were given up after a day.", registry=self.registry
        )
        build = Gauge("registry_store_build_info", "The software.", ["version"], registry=self.registry)
        build.labels(version("agent-pdp")).set(1)

    def start(self, *, alerts: Iterable[str], states: Iterable[str], channels: Iterable[str]) -> None:
        """Makes the counters of these kinds of alerts, states of approvals, and channels, at zero."""
        for counter, values in (
            (self.alerts, alerts),
            (self.approvals, states),
            (self.alerts_sent, channels),
            (self.alerts_failed, channels),
            (self.decisions, [outcome.name.lower() for outcome in Outcome]),
            (self.outcomes, [result.name.lower() for result in Result]),
            (self.suspensions, [trigger.value for trigger in Trigger]),
        ):
            for value in values:
                counter.labels(value)
        for state in ("approved", "denied", "expired"):
            self.approval_wait.labels(state)

    def approval_ended(self, state: str, waited: timedelta | None) -> None:
        """Counts one approval that people decided or that expired; None: it had not `waited` for people any more."""
        self.approvals.labels(state).inc()
        if waited is not None:
            self.approval_wait.labels(state).observe(waited.total_seconds())

    def watch(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Registers a gauge whose value is `read()` at each scrape."""
        Gauge(name, about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """The metrics in the exposition format of Prometheus."""
        return generate_latest(self.registry)
