"""Agents over REST."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pdp.core.records import CONFIGURATION
from registry_store.records import versions
from registry_store.settings import Settings
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import Rest, Served, served

REGISTRY = "/api/agents/registry"
AGENT = {"agent_id": "ledger-writer-prod", "display_name": "Ledger"}


def test_registration_gives_a_draft_with_every_default(admin: Rest) -> None:
    """201 with every field of the contract, status, version, times and the record's address."""
    answer = admin.post(REGISTRY, {"agent_id": "defaults-reader-prod", "display_name": "Reader"})
    assert answer.status == 201
    assert answer.headers["location"] == f"{REGISTRY}/defaults-reader-prod"
    assert answer.body.keys() == CONFIGURATION.keys() | {
        *("status", "version", "revision", "created_at", "updated_at", "warnings")
    }
    expected = {
        "status": "draft",
        "version": "1.0.0",
        "agent_type": "supervised",
        "max_actions_per_minute": 100,
        "time_window_days": [1, 2, 3, 4, 5],
        "max_daily_budget_usd": None,
    }
    assert expected.items() <= answer.body.items()
    assert answer.body["created_at"].endswith("Z")
    assert len(answer.body["created_at"]) == len("2026-01-31T12:00:00.000000Z")


def test_what_was_sent_comes_back(admin: Rest) -> None:
    """Every value is kept as it was sent, enums, dollars and nested metadata too."""
    sent = {
        "agent_id": "round-trip-prod",
        "display_name": "Zoë — «é»",
        "description": "Books what comes in\n",
        "agent_type": "autonomous",
        "tags": ["a", "b"],
        "metadata": {"owner": {"team": ["x", 1, 1.5, None, True]}},
        "action_risk_scores": {"transaction.process": 70},
        "mcp_capabilities": {"files": ["*"]},
        "max_daily_budget_usd": 100.25,
        "max_actions_per_day": None,
        "auto_suspend_on_error_rate": 0.1,
        "limit_scope": "sidecar",
    }
    admin.post(REGISTRY, sent)
    assert sent.items() <= admin.get(f"{REGISTRY}/round-trip-prod").body.items()


def test_an_id_is_never_used_twice(admin: Rest) -> None:
    """A second registration is a 409, also after the agent was retired."""
    admin.register("once-only-prod")
    assert admin.post(REGISTRY, {**AGENT, "agent_id": "once-only-prod"}).status == 409
    assert admin.delete(f"{REGISTRY}/once-only-prod", {"reason": "done"}).body["status"] == "retired"
    assert admin.post(REGISTRY, {**AGENT, "agent_id": "once-only-prod"}).status == 409
    assert admin.get(f"{REGISTRY}/once-only-prod").body["status"] == "retired"


def test_every_problem_is_told_at_once(admin: Rest) -> None:
    """422 names each bad field by its path, unknown fields and contradictions among them."""
    answer = admin.post(
        REGISTRY,
        {
            "agent_id": "-x",
            "auto_approve_below": 90,
            "max_risk_threshold": 80,
            "risk": 1,
            "tags": ["a", 2],
            "time_window_timezone": "Mars/Olympus",
        },
    )
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert {error["path"] for error in answer.body["errors"]} == {
        *("agent_id", "display_name", "auto_approve_below", "risk", "tags[1]", "time_window_timezone")
    }
    assert answer.body["status"] == 422


@pytest.mark.parametrize(
    ("raw", "status", "word"),
    [
        (b"", 400, "not json"),
        (b"{", 400, "not json"),
        (b'{"agent_id": NaN}', 400, "nan"),
        (b'{"agent_id": "a", "agent_id": "b"}', 400, "duplicate"),
        (b"\xff", 400, "not json"),
        (b"[" * 100_000, 400, "not json"),
        (b'"text"', 422, "not an object"),
        (b"[]", 422, "not an object"),
        (b"null", 422, "not an object"),
        (b" " * (1024 * 1024 + 1), 413, "larger"),
    ],
)
def test_a_malformed_body_is_refused(admin: Rest, raw: bytes, status: int, word: str) -> None:
    """What is no JSON is a 400, what is no object a 422, what is too large a 413; all as problem+json."""
    answer = admin.post(REGISTRY, raw)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in json.dumps(answer.body).lower()


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"1"])
def test_a_change_that_is_no_object_is_refused(admin: Rest, raw: bytes) -> None:
    """A PUT takes an object of fields."""
    if admin.get(f"{REGISTRY}/{AGENT['agent_id']}").status == 404:
        admin.post(REGISTRY, AGENT)
    assert admin.put(f"{REGISTRY}/{AGENT['agent_id']}", raw).status == 422


def test_a_change_leaves_what_is_not_sent(admin: Rest) -> None:
    """PUT changes the fields sent, and no others."""
    before = admin.register("partial-change-prod", tags=["a"], description="text")
    after = admin.put(f"{REGISTRY}/partial-change-prod", {"display_name": "New"}).body
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"display_name", "updated_at", "revision"}


def test_a_change_is_checked_as_a_whole(admin: Rest) -> None:
    """A threshold that contradicts one stored earlier is refused, and nothing changes."""
    before = admin.register("whole-check-prod", max_risk_threshold=50)
    answer = admin.put(f"{REGISTRY}/whole-check-prod", {"auto_approve_below": 60, "tags": ["x"]})
    assert [error["path"] for error in answer.body["errors"]] == ["auto_approve_below"]
    assert admin.get(f"{REGISTRY}/whole-check-prod").body == {
        name: value for name, value in before.items() if name != "warnings"
    }


def test_the_id_cannot_be_changed(admin: Rest) -> None:
    """PUT with another agent_id is a 422; with the same one it is no error."""
    admin.register("fixed-id-prod")
    assert admin.put(f"{REGISTRY}/fixed-id-prod", {"agent_id": "other-id-prod"}).status == 422
    assert admin.put(f"{REGISTRY}/fixed-id-prod", {"agent_id": "fixed-id-prod"}).status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("auto_approve_below", 10),
        ("time_window_days", [1]),
        ("agent_type", "custom"),
        ("escalation_team", "security"),
    ],
)
def test_a_change_that_bears_on_security_makes_a_version(admin: Rest, field: str, value: object) -> None:
    """The next minor version, once for each change; a change to the same value makes none."""
    agent_id = f"versioned-{field.replace('_', '-')}"
    admin.register(agent_id)
    path = f"{REGISTRY}/{agent_id}"
    assert admin.put(path, {field: value}).body["version"] == "1.1.0"
    again = admin.put(path, {field: value})
    assert (again.body["version"], again.body["revision"]) == ("1.1.0", admin.get(path).body["revision"])
    assert admin.put(path, {"description": "text"}).body["version"] == "1.1.0"


def test_the_versioned_fields_are_fields() -> None:
    """Each name in the list is one of the configuration's."""
    assert CONFIGURATION.keys() > versions.VERSIONED


@pytest.mark.parametrize(
    ("steps", "last", "status"),
    [
        ([], "activate", 200),
        ([], "suspend", 409),
        (["activate"], "suspend", 200),
        (["activate"], "activate", 200),
        (["activate", "suspend"], "activate", 200),
        (["retire"], "activate", 409),
        (["retire"], "suspend", 409),
        (["retire"], "retire", 200),
        (["activate", "suspend"], "retire", 200),
    ],
)
def test_the_ways_between_states(admin: Rest, steps: list[str], last: str, status: int) -> None:
    """draft → active ⇄ suspended → retired, and no way back from retired."""
    agent_id = f"state-{'-'.join([*steps, last])}"
    admin.register(agent_id)
    calls = {
        "activate": lambda: admin.post(f"{REGISTRY}/{agent_id}/activate", {"reason": "ticket 1"}),
        "suspend": lambda: admin.post(f"{REGISTRY}/{agent_id}/suspend"),
        "retire": lambda: admin.delete(f"{REGISTRY}/{agent_id}"),
    }
    for step in steps:
        assert calls[step]().status == 200
    assert calls[last]().status == status


def test_a_retired_agent_stays_as_it_was(admin: Rest) -> None:
    """Neither the agent nor its policies can be changed any more."""
    admin.register("retired-for-good")
    admin.delete(f"{REGISTRY}/retired-for-good")
    assert admin.put(f"{REGISTRY}/retired-for-good", {"tags": ["x"]}).status == 409
    policy = {"policy_name": "late", "policy_action": "block"}
    assert admin.post(f"{REGISTRY}/retired-for-good/policies", policy).status == 409


def test_lists_filter_and_page(admin: Rest) -> None:
    """status, type and tag narrow the list; limit and offset cut it; total counts what was narrowed."""
    for number in range(5):
        admin.register(f"listed-{number}", tags=["listed", f"n{number}"], agent_type="advisory")
    admin.post(f"{REGISTRY}/listed-0/activate")
    found = admin.get(f"{REGISTRY}?tag=listed&type=advisory&limit=2&offset=1").body
    assert [agent["agent_id"] for agent in found["agents"]] == ["listed-1", "listed-2"]
    assert (found["total"], found["limit"], found["offset"]) == (5, 2, 1)
    assert admin.get(f"{REGISTRY}?tag=listed&status=active").body["total"] == 1
    assert admin.get(f"{REGISTRY}?tag=n4").body["agents"][0]["agent_id"] == "listed-4"
    admin.put(f"{REGISTRY}/listed-4", {"tags": ["listed"]})
    assert admin.get(f"{REGISTRY}?tag=n4").body["total"] == 0


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "offset=-1", "status=asleep", "type=robot", "limit=many"])
def test_a_wrong_parameter_is_refused(admin: Rest, query: str) -> None:
    """422 names the parameter."""
    answer = admin.get(f"{REGISTRY}?{query}")
    assert answer.status == 422
    assert answer.body["errors"][0]["path"] == query.split("=", maxsplit=1)[0]


def test_if_match_guards_against_lost_updates(admin: Rest) -> None:
    """A stale ETag is a 412 and changes nothing; the present one, or *, goes through."""
    tag = admin.post(REGISTRY, {"agent_id": "guarded-prod", "display_name": "x"}).headers["etag"]
    path = f"{REGISTRY}/guarded-prod"
    assert admin.get(path).headers["etag"] == tag
    assert admin.put(path, {"tags": ["one"]}, If_Match=tag).status == 200
    assert admin.put(path, {"tags": ["two"]}, If_Match=tag).status == 412
    assert admin.delete(path, If_Match=tag).status == 412
    assert admin.get(path).body["tags"] == ["one"]
    assert admin.put(path, {"tags": ["three"]}, If_Match="*").status == 200


def test_advice_on_ids_and_wildcards(admin: Rest) -> None:
    """The store warns about ids without meaning, and about `*` where entries match exactly."""
    vague = admin.register("agent-1", allowed_resources=["prod-*"])["warnings"]
    assert len(vague) == 2
    assert "agent-1" in vague[0]
    assert "prod-*" in vague[1]
    assert admin.register("finance-transaction-processor-prod")["warnings"] == []


def test_what_has_no_effect_yet_says_so(admin: Rest) -> None:
    """`limit_scope: agent` and `on_quota_unavailable` warn in every answer that writes them, and by default do not."""
    text = "`{}` has no effect yet: each sidecar enforces the whole limit until one limit over many sidecars exists"
    scope, quota = f"limit_scope {text.format('agent')}", f"on_quota_unavailable {text.format('block')}"
    fields = {"limit_scope": "agent", "on_quota_unavailable": "block"}
    path = f"{REGISTRY}/quota-writer-prod"
    assert admin.register("quota-writer-prod", **fields)["warnings"] == [scope, quota]
    assert admin.put(path, {"limit_scope": "agent"}).body["warnings"] == [scope]
    assert admin.put(path, {"max_actions_per_minute": 10}).body["warnings"] == []
    assert admin.put(path, {"limit_scope": "sidecar"}).body["warnings"] == []
    assert admin.post(f"{path}/rollback", {"target_version": "1.2.0"}).body["warnings"] == [quota]
    assert admin.post(f"{path}/rollback", {"target_version": "1.0.0"}).body["warnings"] == [scope, quota]
    declared = admin.put("/api/agents/declarations/quota-writer-prod", {"display_name": "x", **fields}).body
    assert declared["warnings"] == [scope, quota]
    plain = admin.put("/api/agents/declarations/quota-writer-prod", {"display_name": "x"}).body
    assert plain["warnings"] == []
    assert "warnings" not in admin.get(path).body


def test_receivers_that_no_alert_reaches_are_named(admin: Rest, tmp_path: Path) -> None:
    """Mail without a relay, and a private address, in every answer that writes them; not where the store has a way."""
    fields = {"alert_recipients": ["ann@example.com"], "webhook_url": "https://10.0.0.1:8443/x"}
    mail = "alert_recipients has no effect: this store sends no mail without `--smtp-url`"
    hook = "webhook_url has no effect: `10.0.0.1:8443` is not public, and this store runs without `--webhook-private`"
    path = f"{REGISTRY}/alerted-writer-prod"
    assert admin.register("alerted-writer-prod", **fields)["warnings"] == [mail, hook]
    assert admin.put(path, {"tags": ["one"]}).body["warnings"] == []
    assert admin.put(path, {"webhook_url": "https://example.com"}).body["warnings"] == []
    assert admin.put(path, {"alert_recipients": ["bob@example.com"]}).body["warnings"] == [mail]
    assert admin.post(f"{path}/rollback", {"target_version": "1.0.0"}).body["warnings"][-2:] == [mail, hook]
    declared = admin.put("/api/agents/declarations/alerted-writer-prod", {"display_name": "x", **fields}).body
    assert declared["warnings"] == [mail, hook]
    relay = {"smtp_url": "smtp://127.0.0.1:1025", "smtp_from": "registry@example.com"}
    with served(settings_in(tmp_path, webhook_private=True, **relay)) as equipped:
        assert equipped.rest().register("alerted-writer-prod", **fields)["warnings"] == []


def test_unknown_things_are_problems_too(admin: Rest) -> None:
    """404 and 405 are problem+json as every error is."""
    for answer, status in (
        (admin.get(f"{REGISTRY}/nobody-here"), 404),
        (admin.get("/api/nothing"), 404),
        (admin.call("PATCH", REGISTRY), 405),
    ):
        assert answer.status == answer.body["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"


def test_auto_activation_is_for_development(settings: Settings) -> None:
    """With --auto-activate an agent is active at once."""
    with served(replace(settings, auto_activate=True)) as store:
        assert store.rest().register("quick-start-dev")["status"] == "active"


def test_the_interface_describes_itself(admin: Rest, store: Served) -> None:
    """/openapi.json shows each field of a body with its bounds."""
    anyone = store.rest(None)
    schema = anyone.get("/openapi.json").body["paths"][REGISTRY]["post"]["requestBody"]["content"]["application/json"]
    assert schema["schema"]["properties"].keys() == CONFIGURATION.keys()
    assert schema["schema"]["properties"]["auto_approve_below"]["maximum"] == 100


def test_the_page_to_try_it_needs_no_other_host(store: Served) -> None:
    """What /docs loads comes from the store itself, so that it works where nothing else is reachable."""
    anyone = store.rest(None)
    loaded = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', anyone.get("/docs").body)
    assert len(loaded) == 2
    assert [anyone.get(path).status for path in loaded] == [200] * len(loaded)
