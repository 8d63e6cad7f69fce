"""Every metric of the injector."""

import platform
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.process_collector import ProcessCollector

from pdp.injector.verdicts import Refusal, Result, Skip, Verdict
from pdp.serving.monitoring.certificates import Certificates
from pdp.serving.version import VERSION

BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
EVENT_RESULTS = ("sent", "failed", "dropped")


class Metrics:
    """The metrics of one injector; every label has values of a fixed list, all there from the start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.certificates = Certificates("pdp_injector", self.registry)
        self._reviews = self._counter("reviews", "Reviews by result", "result")
        self._skips = self._counter("skips", "Pods admitted without a sidecar, by reason", "reason")
        self._refusals = self._counter("refusals", "Pods and changes of pods refused, by reason", "reason")
        self._events = self._counter("events", "Events about skipped pods, by what became of them", "result")
        self._malformed = Counter(
            "pdp_injector_malformed_requests", "Requests that are not an AdmissionReview", registry=self.registry
        )
        self._duration = Histogram(
            "pdp_injector_review_duration_seconds",
            "Time from the whole request to its answer",
            buckets=BUCKETS,
            registry=self.registry,
        )
        for counter, values in (
            (self._reviews, Result),
            (self._skips, Skip),
            (self._refusals, Refusal),
            (self._events, EVENT_RESULTS),
        ):
            for value in values:
                counter.labels(str(value))
        Info("pdp_injector_build", "What runs", registry=self.registry).info(
            {"version": VERSION, "python": platform.python_version()}
        )

    def reviewed(self, verdict: Verdict, seconds: float) -> None:
        """Count one review, and the time that it took."""
        self._reviews.labels(verdict.result.value).inc()
        self._duration.observe(seconds)
        if verdict.result is Result.SKIPPED:
            self._skips.labels(verdict.reason).inc()
        elif verdict.result is Result.REFUSED:
            self._refusals.labels(verdict.reason).inc()

    def malformed(self) -> None:
        """Count one request that is no review."""
        self._malformed.inc()

    def event(self, result: str) -> None:
        """Count one Event by what became of it."""
        self._events.labels(result).inc()

    def watch(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Make a gauge that `read` answers at each scrape."""
        Gauge(name, about, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str, label: str) -> Counter:
        return Counter(f"pdp_injector_{name}", about, [label], registry=self.registry)
