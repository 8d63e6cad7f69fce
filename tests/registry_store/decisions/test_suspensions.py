"""Suspensions that sidecars report, and the error rate over all sidecars: each suspends once, with its figures."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.registry_store.reporting import Log, decision, ended, new_id, report, reporter, suspended
from tests.registry_store.serving import Rest, Served

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REGISTRY = "/api/agents/registry"
FIGURES: dict[str, dict[str, Any]] = {
    "error_rate": {"failed": 8, "reported": 20, "limit": 0.35},
    "budget_exceeded": {"spent_micros": 98_000_000, "cost_micros": 5_000_000, "budget_micros": 100_000_000},
    "rate_exceeded": {"window": "minute", "actions": 3, "limit": 3},
}
SAID = {
    "error_rate": "auto-suspended: 8 of the last 20 outcomes failed, the limit is 0.35",
    "budget_exceeded": "auto-suspended: an action of 5.00 USD was refused, 98.00 USD of the day's budget of 100.00 USD"
    " were spent",
    "rate_exceeded": "auto-suspended: an action was refused, 3 of 3 for the minute were used",
}


def activate(admin: Rest, agent_id: str, **fields: Any) -> None:
    """An active agent, activated once."""
    admin.register(agent_id, **fields)
    assert admin.post(f"{REGISTRY}/{agent_id}/activate").status == 200


def status(admin: Rest, agent_id: str) -> str:
    """Of an agent."""
    return str(admin.get(f"{REGISTRY}/{agent_id}").body["status"])


def entries(admin: Rest, agent_id: str) -> list[dict[str, Any]]:
    """The log entries of its suspensions by the system, newest first."""
    found = admin.get(f"{REGISTRY}/{agent_id}/activity?type=suspended").body["activities"]
    return [one for one in found if one["performed_by"] == "system"]


def outcomes(agent_id: str, failures: int, successes: int, activations: int = 1) -> list[dict[str, Any]]:
    """Records of decisions and of how they ended, failures first."""
    made = [decision(agent_id=agent_id, at=NOON + timedelta(seconds=one)) for one in range(failures + successes)]
    results = ["failed"] * failures + ["succeeded"] * successes
    return made + [ended(one, result, activations=activations) for one, result in zip(made, results, strict=True)]


@pytest.mark.parametrize("trigger", FIGURES)
def test_a_reported_suspension_takes_effect_once_with_its_figures(store: Served, admin: Rest, trigger: str) -> None:
    """Sent again, by the same sidecar or another one, it changes nothing; nor after the agent is activated again."""
    agent_id = f"reported-{trigger.replace('_', '-')}-prod"
    activate(admin, agent_id)
    said = suspended(agent_id, trigger, 1, **FIGURES[trigger])
    report(store, said, log=Log(f"node-{trigger}"))
    (entry,) = entries(admin, agent_id)
    assert (status(admin, agent_id), entry["activity_description"]) == ("suspended", SAID[trigger])
    state = {"status": "suspended", "trigger": trigger, "figures": FIGURES[trigger], "node_id": f"node-{trigger}"}
    assert (entry["new_state"], entry["performed_via"]) == (state, "system")
    report(store, said)
    admin.post(f"{REGISTRY}/{agent_id}/activate")
    report(store, said)
    assert (status(admin, agent_id), len(entries(admin, agent_id))) == ("active", 1)
    report(store, suspended(agent_id, trigger, 2, **FIGURES[trigger]))
    assert (status(admin, agent_id), len(entries(admin, agent_id))) == ("suspended", 2)


def test_failures_at_several_sidecars_add_up(store: Served, admin: Rest) -> None:
    """None of them saw twenty outcomes; the store did."""
    activate(admin, "failing-agent-prod", auto_suspend_enabled=True, auto_suspend_on_error_rate=0.4)
    report(store, *outcomes("failing-agent-prod", 6, 4))
    assert status(admin, "failing-agent-prod") == "active"
    report(store, *outcomes("failing-agent-prod", 2, 8))
    (entry,) = entries(admin, "failing-agent-prod")
    assert status(admin, "failing-agent-prod") == "suspended"
    assert entry["new_state"]["figures"] == {"failed": 8, "reported": 20, "limit": 0.4}


def test_failures_from_before_the_activation_count_no_more(store: Served, admin: Rest) -> None:
    """Twenty outcomes must be reported anew, and late ones from before do not count."""
    activate(admin, "cleared-agent-prod", auto_suspend_enabled=True, auto_suspend_on_error_rate=0.5)
    report(store, *outcomes("cleared-agent-prod", 20, 0))
    assert status(admin, "cleared-agent-prod") == "suspended"
    admin.post(f"{REGISTRY}/cleared-agent-prod/activate")
    report(store, *outcomes("cleared-agent-prod", 30, 0))
    report(store, *outcomes("cleared-agent-prod", 19, 0, activations=2))
    assert status(admin, "cleared-agent-prod") == "active"
    report(store, *outcomes("cleared-agent-prod", 1, 0, activations=2))
    assert (status(admin, "cleared-agent-prod"), len(entries(admin, "cleared-agent-prod"))) == ("suspended", 2)


ON: dict[str, Any] = {"auto_suspend_enabled": True}
LIMITS: dict[str, tuple[dict[str, Any], int, int, str]] = {
    "off": ({"auto_suspend_on_error_rate": 0.1}, 20, 0, "active"),
    "unset": (ON, 20, 0, "active"),
    "few": (ON | {"auto_suspend_on_error_rate": 0.1}, 19, 0, "active"),
    "below": (ON | {"auto_suspend_on_error_rate": 0.5}, 9, 11, "active"),
    "at": (ON | {"auto_suspend_on_error_rate": 0.5}, 10, 10, "suspended"),
    "none": (ON | {"auto_suspend_on_error_rate": 0}, 0, 20, "active"),
    "one": (ON | {"auto_suspend_on_error_rate": 0}, 1, 19, "suspended"),
    "all": (ON | {"auto_suspend_on_error_rate": 1}, 20, 0, "suspended"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_error_rate_suspends_at_its_limit_from_twenty_on(store: Served, admin: Rest, name: str) -> None:
    """At least one failure is needed."""
    fields, failures, successes, expected = LIMITS[name]
    activate(admin, f"limited-{name}-prod", **fields)
    report(store, *outcomes(f"limited-{name}-prod", failures, successes))
    assert status(admin, f"limited-{name}-prod") == expected


def test_an_agent_in_an_emergency_stop_stays_suspended_after_its_release(store: Served, admin: Rest) -> None:
    """The sidecar suspended it while it was cut off; the stop undoes only its own suspension."""
    activate(admin, "stopped-agent-prod")
    stopped = admin.post("/api/agents/emergency-stop", {"agent_ids": ["stopped-agent-prod"]}).body
    report(store, suspended("stopped-agent-prod", "rate_exceeded", 1, **FIGURES["rate_exceeded"]))
    admin.post("/api/agents/emergency-stop/release", {"stop_id": stopped["stop_id"]})
    assert status(admin, "stopped-agent-prod") == "suspended"


def test_the_release_of_an_emergency_stop_clears_no_cause(store: Served, admin: Rest) -> None:
    """It is no decision about the agent: what led to a suspension still does."""
    activate(admin, "released-agent-prod")
    stopped = admin.post("/api/agents/emergency-stop", {"agent_ids": ["released-agent-prod"]}).body
    admin.post("/api/agents/emergency-stop/release", {"stop_id": stopped["stop_id"]})
    report(store, suspended("released-agent-prod", "rate_exceeded", 1, **FIGURES["rate_exceeded"]))
    assert status(admin, "released-agent-prod") == "suspended"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"trigger": "mood"}, "suspension.trigger"),
        ({"activations": -1}, "suspension.activations"),
        ({"figures": {"failed": "{x}", "reported": 20, "limit": 0.1}}, "suspension.figures.failed"),
        ({"figures": {}}, "suspension.figures.failed"),
    ],
)
async def test_a_malformed_suspension_is_named(store: Served, fields: dict[str, Any], path: str) -> None:
    """The sidecar then sets that record aside."""
    said = suspended("malformed-agent-prod", "error_rate", **FIGURES["error_rate"])
    said["suspension"] |= fields
    async with reporter(store) as sidecar:
        answer = await sidecar.answer(Log(new_id()).report(said))
    ((sequence, problem),) = [(one.sequence, one.problem) for one in answer.refused]
    assert sequence == 1
    assert problem.startswith(f"{path}: ")
