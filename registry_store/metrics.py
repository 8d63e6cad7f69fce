"""Every metric of the store."""

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pdp.serving import lag

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one store, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "registry_store_http_requests_total",
            "HTTP requests by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "registry_store_http_request_duration_seconds",
            "Time from request to answer.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.loop_lag = Histogram(
            "registry_store_event_loop_lag_seconds",
            "Time that the event loop kept a timer waiting.",
            buckets=lag.BUCKETS,
            registry=self.registry,
        )
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
        self.decision_repeats = Counter(
            "registry_store_decision_repeats_total", "Records that were kept already.", registry=self.registry
        )
        self.decisions_missing = Counter(
            "registry_store_decisions_missing_total",
            "Records that a sidecar had to give up before they came in.",
            registry=self.registry,
        )
        self.decision_breaks = Counter(
            "registry_store_decision_breaks_total",
            "Records that do not follow from those before by their hash.",
            registry=self.registry,
        )
        self.approvals = Counter(
            "registry_store_approvals_total",
            "Approvals that came into a state through this store: pending as they are asked for.",
            ["state"],
            registry=self.registry,
        )
        self.approvals_pending = Gauge(
            "registry_store_approvals_pending", "Approvals that wait for a person.", registry=self.registry
        )
        build = Gauge("registry_store_build_info", "The software.", ["version"], registry=self.registry)
        build.labels(version("agent-pdp")).set(1)

    def watch(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Make a gauge that `read` answers at each scrape."""
        Gauge(name, about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)
