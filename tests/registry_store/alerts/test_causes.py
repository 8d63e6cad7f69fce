"""What raises an alert, seen over REST: each cause, in the transaction that makes it known."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry_store.approvals import expiry
from tests.registry_store.approving import opened
from tests.registry_store.reporting import Log, decision, ended, gap, report
from tests.registry_store.serving import Rest, Served

REGISTRY = "/api/agents/registry"


@pytest.fixture
def agent(admin: Rest) -> str:
    """An agent of the test's own, with alerts on high risk."""
    return new_agent(admin, alert_on_high_risk=True)


def new_agent(admin: Rest, **fields: Any) -> str:
    agent_id = f"alerting-{uuid.uuid4().hex[:8]}-prod"
    admin.register(agent_id, **fields)
    assert admin.post(f"{REGISTRY}/{agent_id}/activate").status == 200
    return agent_id


def alerts(admin: Rest, **wanted: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    answer = admin.get(f"/api/alerts?limit=500&{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.body["alerts"]
    return found


def counts(admin: Rest, **wanted: str) -> dict[str, int]:
    """The number of events by kind."""
    return {alert["kind"]: alert["count"] for alert in alerts(admin, **wanted)}


def test_escalations_and_risks_above_the_maximum_raise_alerts(store: Served, admin: Rest, agent: str) -> None:
    """A risk above the maximum whatever became of it; a risk at the maximum, a dry run and a repeat do not."""
    allowed = decision("allow", agent_id=agent)
    allowed["answer"]["risk_score"] = 80
    risky = decision("block", agent_id=agent, action={"resource": "vault"})
    risky["answer"]["risk_score"] = 81
    escalated = decision("escalate", agent_id=agent)
    repeat = decision("escalate", agent_id=agent, repeat_of=escalated["decision_id"])
    report(store, allowed, decision("escalate", agent_id=agent, dry_run=True), risky, escalated, repeat)
    assert counts(admin, agent_id=agent) == {"escalation": 1, "high_risk": 2}
    (high,) = alerts(admin, agent_id=agent, kind="high_risk")
    expected = {"decision_id": risky["decision_id"], "outcome": "block", "risk_score": 81, "resource": "vault"}
    assert expected.items() <= high["detail"].items()
    assert high["agent_id"] == agent


def test_a_report_that_comes_twice_counts_once(store: Served, admin: Rest, agent: str) -> None:
    """The store keeps each decision once, and so its alert."""
    log, said = Log(f"node-{uuid.uuid4()}"), decision("escalate", agent_id=agent)
    report(store, said, log=log.copy())
    report(store, said, log=log)
    assert counts(admin, agent_id=agent) == {"escalation": 1, "high_risk": 1}


def test_an_autonomous_agent_has_its_own_maximum(store: Served, admin: Rest) -> None:
    """61 is above it, and below that of a supervised one."""
    for agent_type, expected in (("autonomous", {"high_risk": 1}), ("supervised", {})):
        agent = new_agent(admin, alert_on_high_risk=True, agent_type=agent_type)
        risky = decision("require_approval", agent_id=agent)
        risky["answer"]["risk_score"] = 61
        report(store, risky)
        assert counts(admin, agent_id=agent) == expected


def test_without_the_setting_no_risk_raises_an_alert(store: Served, admin: Rest) -> None:
    """That is the default."""
    agent = new_agent(admin)
    report(store, decision("escalate", agent_id=agent))
    assert alerts(admin, agent_id=agent) == []


def test_a_requested_approval_raises_an_alert(store: Served, admin: Rest, agent: str) -> None:
    """With what is needed to find it."""
    approval_id = str(uuid.uuid4())
    action = {"action_type": "transaction.process", "resource": "banking_api"}
    report(store, decision("require_approval", agent_id=agent, opens=approval_id, action=action))
    (alert,) = alerts(admin, agent_id=agent)
    expected = {"approval_id": approval_id, "outcome": "require_approval", **action}
    assert alert["kind"] == "approval_requested"
    assert expected.items() <= alert["detail"].items()


def test_an_approval_that_nobody_decides_raises_an_alert(store: Served, admin: Rest) -> None:
    """One that was decided, and not used, does not."""
    agent, at = new_agent(admin), datetime.now(UTC)
    approved, _ = (opened(store, agent_id=agent, timeout=3600) for _ in range(2))
    assert admin.post(f"/api/approvals/{approved}/approve").status == 200
    running = store.running._store
    store.run(expiry.tick(running.database, running.metrics, at + timedelta(hours=2)))
    assert counts(admin, agent_id=agent) == {"approval_requested": 2, "approval_expired": 1}


def test_the_threshold_of_a_budget_raises_one_alert_a_day(store: Served, admin: Rest) -> None:
    """At the share that the agent says, of what all sidecars spent on its local day."""
    agent = new_agent(
        admin, max_daily_budget_usd=10, budget_alert_threshold_percent=50, time_window_timezone="Asia/Tokyo"
    )
    noon = datetime.now(UTC).replace(hour=3, minute=0) - timedelta(days=1)  # in Tokyo, where the day is half over

    def spend(usd: float, at: datetime) -> dict[str, int]:
        report(store, decision(agent_id=agent, at=at, cost_micros=int(usd * 1_000_000)))
        return counts(admin, agent_id=agent)

    assert spend(4.99, noon) == {}
    assert spend(4.99, noon + timedelta(hours=13)) == {}  # tomorrow in Tokyo, and today in UTC
    assert spend(0.01, noon + timedelta(hours=1)) == {"budget_threshold": 1}
    assert spend(3, noon + timedelta(hours=2)) == {"budget_threshold": 1}
    (alert,) = alerts(admin, agent_id=agent)
    assert alert["detail"] == {"spent_usd": 5.0, "budget_usd": 10.0, "threshold_percent": 50, "day": f"{noon:%Y-%m-%d}"}
    spend(1, noon + timedelta(hours=14))
    assert len(alerts(admin, agent_id=agent)) == 2


def test_an_action_that_cost_more_than_its_estimate_passes_the_threshold(store: Served, admin: Rest) -> None:
    """The outcome comes with no new decision; one that cost less than its estimate raises nothing."""
    agent = new_agent(admin, max_daily_budget_usd=10, budget_alert_threshold_percent=50)
    first, second = (decision(agent_id=agent, cost_micros=2_000_000) for _ in range(2))
    report(store, first, second)
    report(store, ended(first, charged_micros=2_000_000, actual_cost_micros=1_000_000))
    assert counts(admin, agent_id=agent) == {}
    report(store, ended(second, charged_micros=2_000_000, actual_cost_micros=4_500_000))
    (alert,) = alerts(admin, agent_id=agent)
    assert (alert["kind"], alert["detail"]["spent_usd"]) == ("budget_threshold", 5.5)


def test_what_was_spent_long_ago_raises_no_alert(store: Served, admin: Rest) -> None:
    """A sidecar that reports the spend of last week is late enough."""
    agent = new_agent(admin, max_daily_budget_usd=1)
    report(store, decision(agent_id=agent, at=datetime.now(UTC) - timedelta(days=7), cost_micros=1_000_000))
    assert alerts(admin, agent_id=agent) == []


def test_a_suspension_raises_an_alert(admin: Rest, agent: str) -> None:
    """With its reason and who did it; activating does not."""
    admin.post(f"{REGISTRY}/{agent}/suspend", {"reason": "SEC-1"})
    admin.post(f"{REGISTRY}/{agent}/activate")
    (alert,) = alerts(admin, agent_id=agent)
    assert (alert["kind"], alert["detail"]) == ("suspended", {"reason": "SEC-1", "performed_by": "tester"})


def test_an_emergency_stop_raises_one_alert_for_all(admin: Rest) -> None:
    """And one for each agent that has channels of its own."""
    fields: list[dict[str, Any]] = [{}, {"webhook_url": "https://a.example"}, {"alert_recipients": ["a@example.com"]}]
    tag = f"tag-{uuid.uuid4()}"
    stopped = [new_agent(admin, tags=[tag], **one) for one in fields]
    assert admin.post("/api/agents/emergency-stop", {"tags": [tag], "reason": "SEC-2"}).body["suspended"] == 3
    found = [alert for alert in alerts(admin, kind="suspended") if alert["detail"]["reason"].endswith("SEC-2")]
    assert sorted((alert["count"], alert["agent_id"] or "") for alert in found) == sorted(
        [(1, stopped[1]), (1, stopped[2]), (3, "")]
    )


def test_records_that_are_lost_raise_an_alert(store: Served, admin: Rest) -> None:
    """With their number, also those that the sidecar itself says it gave up."""
    node_id = f"node-{uuid.uuid4()}"
    log = Log(node_id)
    report(store, decision(), log=log)
    log.sequence += 3
    report(store, gap(2, 4), decision(), log=log)
    found = [alert for alert in alerts(admin, kind="log_records_lost") if alert["detail"]["node_id"] == node_id]
    assert [(alert["count"], alert["agent_id"]) for alert in found] == [(3, None)]


def test_an_alert_without_a_channel_is_listed(admin: Rest, agent: str) -> None:
    """With the status none, and by each filter."""
    admin.post(f"{REGISTRY}/{agent}/suspend")
    for query in (f"agent_id={agent}", f"agent_id={agent}&kind=suspended", f"agent_id={agent}&kind=suspended&limit=1"):
        answer = admin.get(f"/api/alerts?{query}").body
        assert (answer["total"], [alert["kind"] for alert in answer["alerts"]]) == (1, ["suspended"])
    (found,) = wait_for(admin, agent, "none")
    assert (found["attempts"], found["deliveries"], found["next_attempt_at"]) == (1, [], None)
    assert alerts(admin, agent_id=agent, kind="high_risk") == alerts(admin, agent_id=agent, status="failed") == []


def wait_for(admin: Rest, agent: str, status: str) -> list[dict[str, Any]]:
    while not (found := alerts(admin, agent_id=agent, status=status)):
        pass
    return found


def test_an_alert_is_sent_again_on_request(admin: Rest, agent: str) -> None:
    """By an admin; an unknown one is not found."""
    admin.post(f"{REGISTRY}/{agent}/suspend")
    (alert,) = wait_for(admin, agent, "none")
    answer = admin.post(f"/api/alerts/{alert['alert_id']}/retry")
    assert (answer.status, answer.body["status"]) == (200, "pending")
    assert wait_for(admin, agent, "none")[0]["attempts"] == 2
    assert admin.post("/api/alerts/alert_0/retry").status == 404


def test_only_those_who_read_the_registry_see_alerts(store: Served) -> None:
    """No key of an agent or a sidecar; and only an admin's sends one again."""
    for role, status in (("viewer", 200), ("approver", 200), ("agent", 403), ("sidecar", 403)):
        rest = store.rest(role)
        assert rest.get("/api/alerts").status == status
        assert rest.post("/api/alerts/alert_0/retry").status == 403


@pytest.mark.parametrize("query", ["status=done", "kind=fire", "limit=0", "colour=red"])
def test_a_wrong_filter_is_refused(admin: Rest, query: str) -> None:
    """It names the parameter."""
    answer = admin.get(f"/api/alerts?{query}")
    assert (answer.status, answer.body["errors"][0]["path"]) == (422, query.partition("=")[0])


def test_metrics_show_the_outbox(store: Served) -> None:
    """How many alerts wait, and how many were given up."""
    text = store.rest(None).get("/metrics").body
    assert "registry_store_alerts_pending " in text
    assert "registry_store_alerts_dead 0.0" in text
