"""The metrics that Prometheus reads match what happened."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pdp.core.model import Outcome, Reason
from pdp.metrics import DURATION_BUCKETS, Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def decisions(metrics: Metrics) -> dict[tuple[tuple[str, str], ...], float]:
    return {labels: value for (name, labels), value in samples(metrics).items() if name == "pdp_decisions_total"}


def test_decisions_are_counted_by_outcome_and_reason() -> None:
    """Also those of limits on their own."""
    metrics = Metrics()
    for _ in range(3):
        metrics.decided("agent-a", Outcome.ALLOW, Reason.RISK_BELOW_AUTO_APPROVE, 0.0001)
    metrics.decided("agent-b", Outcome.BLOCK, Reason.RATE_LIMIT_EXCEEDED, 0.0001)
    metrics.decided("agent-b", Outcome.BLOCK, Reason.BUDGET_EXCEEDED, 0.0001)
    assert decisions(metrics) == {
        (("outcome", "allow"), ("reason", "RISK_BELOW_AUTO_APPROVE")): 3,
        (("outcome", "block"), ("reason", "RATE_LIMIT_EXCEEDED")): 1,
        (("outcome", "block"), ("reason", "BUDGET_EXCEEDED")): 1,
    }
    assert samples(metrics)["pdp_limit_refusals_total", (("limit", "rate"),)] == 1
    assert samples(metrics)["pdp_limit_refusals_total", (("limit", "budget"),)] == 1


def test_every_outcome_with_every_reason_has_a_counter() -> None:
    """No two share a counter."""
    metrics = Metrics()
    for outcome in Outcome:
        for reason in Reason:
            metrics.decided("agent-a", outcome, reason, 0.0001)
    assert len(decisions(metrics)) == len(Outcome) * len(Reason)
    assert set(decisions(metrics).values()) == {1}


def test_agents_are_labels_only_where_they_are_named() -> None:
    """Other ids share the empty label, so that callers cannot fill the memory."""
    metrics = Metrics(["agent-a"])
    metrics.decided("agent-a", Outcome.ALLOW, Reason.POLICY_MATCHED, 0.0001)
    for number in range(100):
        metrics.decided(f"made-up-{number}", Outcome.BLOCK, Reason.AGENT_NOT_REGISTERED, 0.0001)
    assert decisions(metrics) == {
        (("agent_id", "agent-a"), ("outcome", "allow"), ("reason", "POLICY_MATCHED")): 1,
        (("agent_id", ""), ("outcome", "block"), ("reason", "AGENT_NOT_REGISTERED")): 100,
    }


def test_durations_fall_into_cumulative_buckets() -> None:
    """A bound belongs to its own bucket; what is longer than all shows at +Inf; the sum is in seconds."""
    metrics = Metrics()
    for seconds in (*DURATION_BUCKETS, 5.0):
        metrics.decided("agent-a", Outcome.ALLOW, Reason.APPROVED, seconds)
    found = samples(metrics)
    for index, bound in enumerate(DURATION_BUCKETS):
        assert found["pdp_decision_duration_seconds_bucket", (("le", str(bound)),)] == index + 1
    assert found["pdp_decision_duration_seconds_bucket", (("le", "+Inf"),)] == len(DURATION_BUCKETS) + 1
    assert found["pdp_decision_duration_seconds_count", ()] == len(DURATION_BUCKETS) + 1
    assert found["pdp_decision_duration_seconds_sum", ()] == pytest.approx(sum(DURATION_BUCKETS) + 5)


def test_malformed_requests_are_counted_by_a_bounded_set_of_fields() -> None:
    """A path within a field counts for the field, and an unknown name counts as other."""
    metrics = Metrics()
    for field in ("action.risk_score", "action.attributes.a.b", "action.data_classifications[3]", "dry_run", "évil"):
        metrics.refused(field)
    found = {
        labels[0][1]: value for (name, labels), value in samples(metrics).items() if name.endswith("requests_total")
    }
    assert found == {"risk_score": 1, "attributes": 1, "data_classifications": 1, "dry_run": 1, "other": 1}


def test_in_flight_goes_up_and_down() -> None:
    """It is a gauge of current decisions."""
    metrics = Metrics()
    metrics.in_flight.inc()
    metrics.in_flight.inc()
    metrics.in_flight.dec()
    assert samples(metrics)["pdp_decisions_in_flight", ()] == 1


def test_a_watched_gauge_is_read_at_each_scrape() -> None:
    """Staleness grows without an event."""
    metrics, values = Metrics(), iter([1.0, 2.0])
    metrics.watch("pdp_test", "Test", lambda: next(values))
    assert [samples(metrics)["pdp_test", ()] for _ in range(2)] == [1, 2]


def test_two_sidecars_in_one_process_count_apart() -> None:
    """Nothing is global."""
    one, other = Metrics(), Metrics()
    one.decided("agent-a", Outcome.ALLOW, Reason.APPROVED, 0.0001)
    one.unavailable()
    assert decisions(other) == {}
    assert samples(other)["pdp_unavailable_total", ()] == 0
