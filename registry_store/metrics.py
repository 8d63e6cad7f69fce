"""Every metric of the store."""

import time
from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pdp.serving import lag
from registry_store.approvals.watching import ApprovalFeed
from registry_store.audit.checkpointer import Checkpointer
from registry_store.audit.sender import CheckpointSender
from registry_store.database.notifications import Notifications
from registry_store.sync.feed import Feed
from registry_store.sync.sidecars import Sidecars

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one store, in a registry of their own."""

    def __init__(self, feed: Feed, sidecars: Sidecars, notifications: Notifications | None) -> None:
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
        self._gauge("registry_store_revision", "The newest revision.", lambda: feed.revision)
        self._gauge("registry_store_connected_sidecars", "Sidecars with an open stream.", sidecars.count)
        self._gauge(
            "registry_store_database_age_seconds",
            "Time since the database last confirmed the revision.",
            lambda: time.monotonic() - feed.confirmed_at,
        )
        if notifications is not None:
            self._gauge(
                "registry_store_notified",
                "1 while other stores' commits are heard at once, 0 while polling alone finds them.",
                lambda: notifications.heard,
            )
        build = Gauge("registry_store_build_info", "The software.", ["version"], registry=self.registry)
        build.labels(version("agent-pdp")).set(1)

    def watch(self, checkpointer: Checkpointer) -> None:
        """Show how far the activity log is signed, and whether it is still what it was."""
        name = "registry_store_activity_signed_sequence"
        self._gauge(name, "The last entry of the activity log under a checkpoint.", lambda: checkpointer.sequence)
        name = "registry_store_activity_log_intact"
        self._gauge(name, "0 once the activity log is not what was signed.", lambda: checkpointer.fault is None)

    def watch_sender(self, sender: CheckpointSender) -> None:
        """Show how far the checkpoints have reached their receiver."""
        name = "registry_store_activity_sent_sequence"
        self._gauge(name, "The last entry whose checkpoint was sent since the start.", lambda: sender.sequence)

    def watch_approvals(self, feed: ApprovalFeed) -> None:
        """Show how many wait for news of an approval."""
        name = "registry_store_approval_watchers"
        self._gauge(name, "Open streams that wait for news of an approval.", lambda: feed.watches)

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        Gauge(name, about, registry=self.registry).set_function(read)
