"""The metrics that Prometheus reads match what happened."""

import json
import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pdp import wire
from pdp.core.action import Action
from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.localtime import local_time
from pdp.core.model import Now, Outcome, Reason, RecordKind, Source
from pdp.counters import gauges
from pdp.counters.counters import Counters
from pdp.idempotency import MAX_REPEATS, Answers, TooManyRepeatsError
from pdp.metrics import DURATION_BUCKETS, MAX_POLICIES, OTHER, Metrics, PolicyCounts
from pdp.state import Holder, RawRecord, build
from tests.core.records import policy_record
from tests.deciding import Bench
from tests.given import NOON, agent

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
OF_DATA = ("pdp_registry_revision", "pdp_agents", "pdp_staleness_seconds", "pdp_key_revoked", "pdp_stale")


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
    metrics.in_flight += 2
    metrics.in_flight -= 1
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


def test_policies_are_counted_by_what_was_decided_and_shadow_policies_by_what_they_would_have_done() -> None:
    """A dry run counts as in the other decisions; a repeat under an idempotency key and an explanation do not."""
    bench = Bench()
    deciding = policy("pol-decides", "allow", priority=2)
    bench.put(agent("agent-a", policies=[deciding, policy("pol-shadow", "block", mode="shadow")]))
    request = wire.Request(Action("agent-a", "api.read", "ledger"), idempotency_key="once")
    for _ in range(2):
        bench.service.point.evaluate(request)
    bench.service.point.evaluate(wire.Request(request.action, dry_run=True))
    bench.service.point.evaluation(request.action)
    found = samples(bench.metrics)
    named = (("outcome", "allow"), ("policy", "decides"), ("policy_id", "pol-decides"))
    assert found["pdp_policy_decisions_total", named] == 2
    shadow = (("outcome", "allow"), ("policy", "shadow"), ("policy_id", "pol-shadow"), ("verdict", "block"))
    assert found["pdp_shadow_decisions_total", shadow] == 2
    assert sum(decisions(bench.metrics).values()) == 3


def test_policies_beyond_a_number_share_one_counter() -> None:
    """Whoever writes policies cannot fill the memory of a sidecar or of Prometheus; known ones count on."""
    counts = PolicyCounts()
    compiled = [
        CompiledPolicy(policy_record(policy_id=f"pol-{n}", policy_name=f"n{n}")) for n in range(MAX_POLICIES + 5)
    ]
    for _ in range(2):
        for one in compiled:
            counts.add(Decision(Outcome.ALLOW, Reason.POLICY_MATCHED, policy=one, shadow=(one,)))
    for family in counts.families():
        by_policy = {sample.labels["policy_id"]: sample.value for sample in family.samples}
        assert len(by_policy) == MAX_POLICIES + 1
        assert (by_policy["pol-0"], by_policy[OTHER]) == (2, 10)


def test_what_was_charged_is_counted_in_dollars() -> None:
    """By agent where agents are named; the empty label is that of all others."""
    bench = Bench(agents=["agent-a"])
    bench.put(agent("agent-a"), agent("agent-b"))
    for agent_id, cost in (("agent-a", 1_250_000), ("agent-b", 500_000), ("agent-a", 0)):
        action = Action(agent_id, "api.read", "ledger", risk_score=1, estimated_cost_micros=cost)
        bench.service.point.evaluate(wire.Request(action))
        bench.service.point.evaluate(wire.Request(action, dry_run=True))
    found = samples(bench.metrics)
    assert found["pdp_charged_usd_total", (("agent_id", "agent-a"),)] == 1.25
    assert found["pdp_charged_usd_total", (("agent_id", ""),)] == 0.5


def test_the_data_in_force_shows_its_revision_and_its_age() -> None:
    """The age is read at the scrape: beyond the maximum the data is stale. Without data it is infinite."""
    metrics, holder, clock = Metrics(), Holder(60.0), Now(NOON, 100.0)
    holder.watch(metrics, lambda: clock)

    def shown() -> tuple[float, ...]:
        found = samples(metrics)
        return tuple(found[name, ()] for name in OF_DATA)

    assert shown() == (0, 0, math.inf, 0, 0)
    state, _ = build([RawRecord(RecordKind.AGENT, "agent-a", json.dumps(agent("agent-a")).encode())], "epoch", 7)
    holder.swap(state, Source.LIVE)
    holder.confirm(70.0)
    assert shown() == (7, 1, 30.0, 0, 0)
    clock = Now(NOON, 131.0)
    holder.key_revoked = True
    assert shown() == (7, 1, 61.0, 1, 1)


def test_remembered_answers_are_counted() -> None:
    """Those in memory, those evicted, and repeats that were refused."""
    metrics, answers = Metrics(), Answers(max_bytes=1000)
    answers.watch(metrics)
    for key in ("first", "second"):
        answers.put("agent-a", key, b"", b"x" * 400, 1.0)
    entry = answers.get("agent-a", "second", 2.0)
    assert entry is not None
    for _ in range(MAX_REPEATS):
        answers.repeat(entry, 2.0)
    with pytest.raises(TooManyRepeatsError):
        answers.repeat(entry, 2.0)
    found = samples(metrics)
    names = ("pdp_idempotency_answers", "pdp_idempotency_evicted_total", "pdp_idempotency_refused_total")
    assert [found[name, ()] for name in names] == [1, 1, 1]


def test_named_agents_show_what_is_left_of_their_limits_and_budgets() -> None:
    """Read at the scrape, of agents that the registry holds; a limit that is not set has no sample."""
    bench, metrics, counters = Bench(), Metrics(["agent-a", "agent-gone"]), Counters()
    limits = {"max_actions_per_minute": 5, "max_actions_per_hour": None, "max_actions_per_day": None}
    bench.put(agent("agent-a", max_daily_budget_usd="2.5", **limits), agent("agent-b", max_daily_budget_usd="9"))
    held = bench.holder.current
    assert held is not None
    gauges.watch(metrics, counters, ["agent-a", "agent-gone"], lambda: held.agents, lambda: bench.now)
    usage = counters.of("agent-a", "UTC", bench.now.boot)
    usage.count(bench.now.boot, 2)
    usage.spend(local_time("UTC", bench.now.wall).day, 750_000)
    found = samples(metrics)
    shown = {key: value for key, value in found.items() if key[0].startswith(("pdp_rate_limit", "pdp_budget"))}
    assert shown == {
        ("pdp_rate_limit_remaining", (("agent_id", "agent-a"), ("window", "minute"))): 3,
        ("pdp_budget_spent_usd", (("agent_id", "agent-a"),)): 0.75,
        ("pdp_budget_limit_usd", (("agent_id", "agent-a"),)): 2.5,
    }
    bench.pass_seconds(86_400)
    assert samples(metrics)["pdp_budget_spent_usd", (("agent_id", "agent-a"),)] == 0


def test_unknown_spend_shows_as_the_whole_budget() -> None:
    """After the loss of the counters every budget counts as spent."""
    bench, metrics = Bench(), Metrics(["agent-a"])
    bench.put(agent("agent-a", max_daily_budget_usd="2.5"))
    held = bench.holder.current
    assert held is not None
    gauges.watch(metrics, Counters(lost_until=bench.now), ["agent-a"], lambda: held.agents, lambda: bench.now)
    assert samples(metrics)["pdp_budget_spent_usd", (("agent_id", "agent-a"),)] == 2.5


def test_the_process_is_measured_and_its_certificates_too() -> None:
    """A certificate is read at each scrape, because it is renewed while the process runs."""
    metrics, expiries = Metrics(), iter([100.0, 200.0])
    assert samples(metrics)["process_resident_memory_bytes", ()] > 1 << 20
    metrics.certificates.watch("server", lambda: next(expiries))
    key = ("pdp_certificate_expiry_timestamp_seconds", (("certificate", "server"),))
    assert [samples(metrics)[key] for _ in range(2)] == [100, 200]


def policy(policy_id: str, action: str, **fields: Any) -> dict[str, Any]:
    """An agent's policy that always holds, as the store sends it."""
    described = {"policy_id": policy_id, "policy_name": policy_id.removeprefix("pol-"), "policy_action": action}
    return described | {"conditions": {}, "created_at": "2026-01-01T00:00:00.000000Z"} | fields
