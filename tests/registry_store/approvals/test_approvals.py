"""Approvals: opened by reports of sidecars, decided once by an approver, used once for their action."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.errors import InvalidRecordError
from registry_store.access.keys import Caller, Role
from registry_store.approvals import approvals, deciding, expiry, lists
from registry_store.approvals.approvals import Claim
from registry_store.approvals.deciding import Verdict
from registry_store.database.tables import Approval
from registry_store.documents import instant
from registry_store.errors import ConflictError
from registry_store.journal.activity import Actor
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.approving import open_all, opened, record
from tests.registry_store.reporting import AGENT, Log, decision, report, reporter
from tests.registry_store.rest.test_lists import statements
from tests.registry_store.serving import Rest, Served, in_thread

APPROVALS = "/api/approvals"


def read(rest: Rest, approval_id: str) -> Any:
    answer = rest.get(f"{APPROVALS}/{approval_id}")
    assert answer.status == 200, answer.body
    return answer.body


def approve(rest: Rest, approval_id: str, **body: Any) -> Any:
    answer = rest.post(f"{APPROVALS}/{approval_id}/approve", body or None)
    assert answer.status == 200, answer.body
    return answer.body


def deny(rest: Rest, approval_id: str, comment: str = "no") -> Any:
    answer = rest.post(f"{APPROVALS}/{approval_id}/deny", {"comment": comment})
    assert answer.status == 200, answer.body
    return answer.body


def entries(rest: Rest, approval_id: str) -> list[Any]:
    """The activity log's entries on an approval, oldest first."""
    found = rest.get("/api/activity?limit=500").body["activities"]
    return [entry for entry in reversed(found) if entry["subject_id"] == approval_id]


def key_of(admin: Rest, role: str, name: str, *groups: str) -> Rest:
    body = {"role": role, "name": name, "groups": groups}
    return Rest(admin.address, admin.post("/api/keys", body).body["key"])


async def send(store: Served, request: pb.ReportDecisionsRequest) -> int:
    """Report it with the key of a separate sidecar."""
    async with reporter(store, await store.running.create_key("sidecar", "reporter")) as sidecar:
        return await sidecar.send(request)


def tick(store: Served, now: datetime) -> None:
    """Run the expiry of approvals at `now`."""
    inner = store.running._store
    store.run(expiry.tick(inner.database, inner.metrics, now))


def test_a_request_is_opened_once(store: Served, admin: Rest) -> None:
    """With all that a person needs to decide, once per id; the use id is never shown."""
    asked = record(params={"approvers": ["finance"], "team": "pay", "timeout_seconds": 600}, timeout=600)
    at = datetime.now(UTC)
    (approval_id,) = open_all(store, {"opens": None}, asked, asked, at=at)
    assert open_all(store, asked | {"decision_id": str(uuid4())}, node_id="node-2") == []
    shown = read(admin, approval_id)
    assert shown == {
        "approval_id": approval_id,
        "decision_id": asked["decision_id"],
        "node_id": "node-1",
        "agent_id": AGENT,
        "status": "pending",
        "outcome": "require_approval",
        "reason": "POLICY_MATCHED",
        "message": asked["answer"]["message"],
        "policy": {"id": "pol_1", "name": "High-Value Review", "priority": 10},
        "action": asked["action"],
        "action_sha256": asked["opens"]["action_sha256"],
        "approvers": ["finance"],
        "team": "pay",
        "next_team": None,
        "min_approvers": 1,
        "approved_by": [],
        "mfa_required": False,
        "timeout_seconds": 600,
        "requested_at": instant(at),
        "expires_at": instant(at + timedelta(seconds=600)),
        **dict.fromkeys(("decided_at", "decided_by", "comment", "used_at", "action_outcome")),
    }
    (entry,) = entries(admin, approval_id)
    assert (entry["activity_type"], entry["performed_by"], entry["performed_via"]) == (
        *("approval_requested", "node-1", "system"),
    )
    assert (entry["subject_kind"], entry["agent_id"], entry["previous_state"]) == ("approval", AGENT, None)
    assert "action" not in entry["new_state"]
    assert entry["new_state"]["action_sha256"] == asked["opens"]["action_sha256"]


def test_what_a_sidecar_reports_is_opened(fresh: Served) -> None:
    """With the decision that requests it, once, even if sent again; next to decisions without a request."""
    admin, asked = fresh.rest(), record()
    reported = Log("node-7").report(decision(), asked, decision("block"))
    for _ in range(2):
        assert fresh.run(send(fresh, reported)) == 3
    (shown,) = admin.get(APPROVALS).body["approvals"]
    assert (shown["approval_id"], shown["node_id"]) == (asked["opens"]["approval_id"], "node-7")
    assert admin.get(f"/api/decisions/{shown['decision_id']}").body["action"] == shown["action"]
    assert len(entries(admin, shown["approval_id"])) == 1
    assert 'registry_store_approvals_total{state="pending"} 1.0' in admin.get("/metrics").body


async def test_a_decision_that_asks_wrongly_is_refused_alone(fresh: Served) -> None:
    """It is not stored and opens nothing; the others of its report are stored, and open what they ask for."""
    bad = record()
    bad["opens"]["timeout_seconds"] = 0
    async with reporter(fresh) as sidecar:
        answer = await sidecar.answer(Log("asks-wrongly").report(record(), bad))
    ((sequence, problem),) = [(one.sequence, one.problem) for one in answer.refused]
    assert (answer.sequence, sequence) == (2, 2)
    assert "opens.timeout_seconds" in problem
    admin = await in_thread(fresh.rest)
    assert admin.get(APPROVALS).body["total"] == admin.get("/api/decisions").body["total"] == 1


def test_many_requests_are_opened_in_a_few_statements(fresh: Served) -> None:
    """No query is made for each."""
    with statements(fresh, of="work") as few:
        open_all(fresh, record())
    with statements(fresh, of="work") as many:
        open_all(fresh, *(record() for _ in range(50)))
    assert len(many) == len(few) <= 7, "\n".join(many)


@pytest.mark.parametrize("hours", [-400 * 24, -2, 0, 2, 400 * 24])
def test_the_stores_clock_alone_says_how_long_people_have(store: Served, admin: Rest, hours: int) -> None:
    """Exactly the timeout from its receipt, whatever the sidecar's clock shows."""
    now = datetime.now(UTC)
    (approval_id,) = open_all(store, record(at=now + timedelta(hours=hours), timeout=60), at=now)
    shown = read(admin, approval_id)
    assert (shown["requested_at"], shown["expires_at"]) == (instant(now), instant(now + timedelta(seconds=60)))
    (entry,) = entries(admin, approval_id)
    assert entry["new_state"]["status"] == "pending"


def test_an_approval_of_a_sidecar_whose_clock_is_behind_can_be_decided(fresh: Served) -> None:
    """As it is reported, over gRPC; its decision keeps the time that the sidecar gave it."""
    asked = record(at=datetime.now(UTC) - timedelta(hours=2), timeout=600)
    report(fresh, asked)
    admin = fresh.rest()
    assert approve(admin, asked["opens"]["approval_id"])["status"] == "approved"
    decision = admin.get(f"/api/decisions/{asked['decision_id']}").body
    assert decision["decided_at"] == asked["decided_at"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("decision_id", None),
        ("action", 7),
        ("action.agent_id", "no blanks please"),
        ("action.action_type", ""),
        ("answer.outcome", "allow"),
        ("answer.policy", []),
        ("answer.action_params.approvers", "finance"),
        ("answer.action_params.team", 5),
        ("opens", []),
        ("opens.approval_id", "1"),
        ("opens.action_sha256", "zz"),
        ("opens.timeout_seconds", 0),
        ("opens.timeout_seconds", 2_592_001),
    ],
)
def test_a_malformed_request_is_refused_by_its_path(store: Served, path: str, value: object) -> None:
    """And nothing beside it is opened."""
    good, bad = record(), record()
    *parents, name = path.split(".")
    part = bad
    for parent in parents:
        part = part[parent]
    part[name] = value
    with pytest.raises(InvalidRecordError) as refused:
        open_all(store, good, bad)
    assert f"records[1].{path}" in [problem.path for problem in refused.value.problems]
    assert open_all(store, good) == [good["opens"]["approval_id"]]


def test_an_approval_is_approved(store: Served, admin: Rest) -> None:
    """The whole timeout to use it starts then; the activity log records the change."""
    approval_id = opened(store, timeout=600, at=datetime.now(UTC) - timedelta(seconds=300))
    before = read(admin, approval_id)
    after = approve(admin, approval_id, comment="FIN-1")
    changed = {"status", "decided_at", "decided_by", "comment", "expires_at", "approved_by"}
    assert {name for name in after if after[name] != before[name]} == changed
    assert (after["status"], after["decided_by"], after["comment"]) == ("approved", "tester", "FIN-1")
    used_within = datetime.fromisoformat(after["expires_at"]) - datetime.fromisoformat(after["decided_at"])
    assert used_within == timedelta(seconds=600)
    entry = entries(admin, approval_id)[-1]
    assert entry["activity_type"] == "approval_approved"
    assert entry["new_state"] == {name: after[name] for name in changed}
    assert entry["previous_state"] == {name: before[name] for name in changed}
    assert (entry["performed_by"], entry["performed_via"]) == ("tester", "api")


def test_an_approval_is_denied(store: Served, admin: Rest) -> None:
    """With a comment, which the log keeps."""
    approval_id = opened(store)
    after = deny(admin, approval_id, "FIN-2: unknown payee")
    assert (after["status"], after["comment"]) == ("denied", "FIN-2: unknown payee")
    entry = entries(admin, approval_id)[-1]
    assert entry["activity_type"] == "approval_denied"
    assert entry["new_state"].keys() == {"status", "decided_at", "decided_by", "comment"}
    assert entry["activity_description"] == (
        "`transaction.process` on `banking_api` by `finance-transaction-processor-prod` denied: FIN-2: unknown payee"
    )


@pytest.mark.parametrize(
    ("verb", "body", "path"),
    [
        ("deny", {}, "comment"),
        ("deny", {"comment": ""}, "comment"),
        ("deny", {"comment": " \n"}, "comment"),
        ("deny", {"comment": "x" * 4097}, "comment"),
        ("approve", {"comment": "x" * 4097}, "comment"),
        ("approve", {"comment": 5}, "comment"),
        ("approve", {"reason": "x"}, "reason"),
    ],
)
def test_a_malformed_decision_is_refused(store: Served, admin: Rest, verb: str, body: Any, path: str) -> None:
    """422 names the field, and the approval stays pending."""
    approval_id = opened(store)
    answer = admin.post(f"{APPROVALS}/{approval_id}/{verb}", body)
    assert (answer.status, [error["path"] for error in answer.body["errors"]]) == (422, [path])
    assert read(admin, approval_id)["status"] == "pending"


def test_a_decision_on_what_has_changed_since_is_refused(store: Served, admin: Rest) -> None:
    """When If-Match names the state that was read."""
    approval_id = opened(store)
    tag = admin.get(f"{APPROVALS}/{approval_id}").headers["etag"]
    path = f"{APPROVALS}/{approval_id}/approve"
    assert admin.post(path, If_Match='"other"').status == 412
    assert admin.post(path, If_Match=tag).status == 200
    assert admin.post(path, If_Match=tag).status == 412


def test_nobody_decides_twice(store: Served, admin: Rest) -> None:
    """409 says what the approval is already."""
    for settle, status in ((approve, "approved"), (deny, "denied")):
        approval_id = opened(store)
        settle(admin, approval_id)
        for verb in ("approve", "deny"):
            answer = admin.post(f"{APPROVALS}/{approval_id}/{verb}", {"comment": "x"})
            assert (answer.status, answer.body["detail"]) == (409, f"approval `{approval_id}` is {status}")
        assert len(entries(admin, approval_id)) == 2


PARAMS: dict[str, dict[str, Any]] = {
    "anyone": {},
    "by group": {"approvers": ["finance"]},
    "by team": {"team": "finance"},
    "by name": {"approvers": ["risk", "paula"]},
    "others": {"approvers": ["risk"], "team": "audit"},
}
MAY: dict[str, set[str]] = {
    "admin": set(PARAMS),
    "approver of finance": {"anyone", "by group", "by team"},
    "approver paula": {"anyone", "by name"},
    "approver": {"anyone"},
    "viewer": set(),
}


@pytest.fixture(scope="module")
def deciders(admin: Rest) -> dict[str, Rest]:
    return {
        "admin": admin,
        "approver of finance": key_of(admin, "approver", "fiona", "treasury", "finance"),
        "approver paula": key_of(admin, "approver", "paula"),
        "approver": key_of(admin, "approver", "alan", "marketing"),
        "viewer": key_of(admin, "viewer", "paula"),
    }


@pytest.mark.parametrize(("who", "whose"), list(product(MAY, PARAMS)))
def test_whoever_is_named_decides(store: Served, deciders: dict[str, Rest], who: str, whose: str) -> None:
    """An admin always; an approver if nobody, its key or one of its groups is named; nobody else."""
    for verb in ("approve", "deny"):
        approval_id = opened(store, params=PARAMS[whose])
        status = deciders[who].post(f"{APPROVALS}/{approval_id}/{verb}", {"comment": "x"}).status
        assert status == (200 if whose in MAY[who] else 403)


def test_one_who_may_not_decide_is_told_who_may(store: Served, deciders: dict[str, Rest]) -> None:
    """By name."""
    approval_id = opened(store, params=PARAMS["others"])
    answer = deciders["approver"].post(f"{APPROVALS}/{approval_id}/approve")
    assert answer.body["detail"] == f"approval `{approval_id}` is for `audit`, `risk` to decide"


def test_a_key_lists_what_it_may_decide(fresh: Served) -> None:
    """`mine` shows exactly those on which its decision would be accepted."""
    admin = fresh.rest()
    ids = {whose: opened(fresh, params=params) for whose, params in PARAMS.items()}
    keys = {
        "admin": admin,
        "approver of finance": key_of(admin, "approver", "fiona", "treasury", "finance"),
        "approver paula": key_of(admin, "approver", "paula"),
        "approver": key_of(admin, "approver", "alan", "marketing"),
        "viewer": key_of(admin, "viewer", "paula"),
    }
    for who, rest in keys.items():
        body = rest.get(f"{APPROVALS}?mine=true").body
        shown = {one["approval_id"] for one in body["approvals"]}
        assert (shown, body["total"]) == ({ids[whose] for whose in MAY[who]}, len(MAY[who])), who
        assert rest.get(f"{APPROVALS}?mine=false").body["total"] == len(PARAMS)
    assert admin.get(f"{APPROVALS}?mine=1").status == 422


def test_approvals_are_listed(fresh: Served) -> None:
    """Newest first, by state and agent, in pages."""
    admin = fresh.rest()
    ids = sorted(str(uuid4()) for _ in range(5))
    for number, approval_id in enumerate(ids):
        opened(fresh, approval_id=approval_id, agent_id=f"worker-{number % 2}-prod")
    approve(admin, ids[1])
    deny(admin, ids[3])

    def listed(query: str) -> tuple[list[int], int]:
        body = admin.get(f"{APPROVALS}?{query}").body
        return [ids.index(one["approval_id"]) for one in body["approvals"]], body["total"]

    assert listed("") == ([4, 3, 2, 1, 0], 5)
    assert listed("limit=2&offset=1") == ([3, 2], 5)
    assert listed("status=pending") == ([4, 2, 0], 3)
    assert listed("status=approved") == ([1], 1)
    assert listed("agent_id=worker-1-prod") == ([3, 1], 2)
    assert listed("agent_id=worker-1-prod&status=denied") == ([3], 1)
    assert listed("status=used") == ([], 0)
    assert admin.get(f"{APPROVALS}?status=lost").status == 422
    assert admin.get(f"{APPROVALS}/{uuid4()}").status == 404


def test_an_agents_key_sees_its_own(store: Served, admin: Rest) -> None:
    """It sees only its own approvals."""
    own = opened(store, agent_id="waiting-agent-prod")
    other = opened(store, agent_id="another-agent-prod")
    agent = Rest(
        admin.address,
        admin.post("/api/keys", {"role": "agent", "name": "pod", "agent_id": "waiting-agent-prod"}).body["key"],
    )
    for query in ("", "?agent_id=waiting-agent-prod"):
        assert [one["approval_id"] for one in agent.get(f"{APPROVALS}{query}").body["approvals"]] == [own]
    assert agent.get(f"{APPROVALS}?agent_id=another-agent-prod").status == 403
    assert agent.get(f"{APPROVALS}/{own}").status == 200
    assert agent.get(f"{APPROVALS}/{other}").status == 404
    assert agent.post(f"{APPROVALS}/{own}/approve").status == 403
    assert store.rest("agent").get(APPROVALS).status == 403


def test_the_clock_ends_what_nobody_decides_or_uses(fresh: Served) -> None:
    """To the instant; then once in the log, for each."""
    admin = fresh.rest()
    pending, approved, later = (opened(fresh, timeout=timeout) for timeout in (3600, 3600, 7200))
    use_until = datetime.fromisoformat(approve(admin, approved)["expires_at"])
    decide_until = datetime.fromisoformat(read(admin, pending)["expires_at"])
    tick(fresh, decide_until - timedelta(microseconds=1))
    assert [read(admin, one)["status"] for one in (pending, approved)] == ["pending", "approved"]
    for moment in (decide_until, use_until, use_until):
        tick(fresh, moment)
    assert [read(admin, one)["status"] for one in (pending, approved, later)] == ["expired", "expired", "pending"]
    for approval_id, before, why in ((pending, "pending", "nobody decided"), (approved, "approved", "was not used")):
        entry = entries(admin, approval_id)[-1]
        assert (entry["activity_type"], entry["performed_by"]) == ("approval_expired", "system")
        assert (entry["previous_state"], entry["new_state"]) == ({"status": before}, {"status": "expired"})
        assert entry["activity_description"].endswith(f"expired: {why} in time")
    assert len(entries(admin, pending)) == 2


class Model:
    """A simple model of one approval: the effect of each event at each time."""

    def __init__(self, now: float, timeout: int) -> None:
        self.state, self.timeout, self.expires_at = "pending", timeout, now + timeout
        self.used_by: str | None = None

    def now(self, now: float) -> str:
        running = self.state in ("pending", "approved")
        return "expired" if running and now >= self.expires_at else self.state

    def decide(self, now: float, decision: str) -> str:
        if self.now(now) != "pending":
            return "conflict"
        self.state = decision
        if decision == "approved":
            self.expires_at = now + self.timeout
        return decision

    def use(self, now: float, use_id: str, matches: bool) -> str:
        if not matches:
            return "mismatch"
        if self.state == "used":
            return "granted" if use_id == self.used_by else "not_approved"
        if self.now(now) != "approved":
            return "not_approved"
        self.state, self.used_by = "used", use_id
        return "granted"

    def mark(self, now: float) -> str:
        self.state = self.now(now)
        return "marked"


EVENTS = st.one_of(
    st.tuples(st.just("decide"), st.sampled_from(["approved", "denied"])),
    st.tuples(st.just("use"), st.sampled_from(["a", "b"]), st.sampled_from([True, True, False])),
    st.tuples(st.just("mark")),
)
PAUSES = st.sampled_from([0.0, 1.0, 9.999999, 10.0, 10.000001, 25.0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(PAUSES, EVENTS), min_size=1, max_size=8))
def test_an_approval_does_what_its_table_says(store: Served, steps: list[tuple[float, Any]]) -> None:
    """For any events in any order at any time; and each change of state has one activity entry."""
    start = datetime(2100, 1, 1, tzinfo=UTC)  # which the clock of the store does not end
    asked = record(at=start, timeout=10)
    (approval_id,) = open_all(store, asked, at=start)
    model, now, kinds = Model(0.0, 10), 0.0, ["approval_requested"]
    for pause, event in steps:
        now += pause
        before = model.state
        expected = getattr(model, event[0])(now, *event[1:])
        got, stored = store.run(done(store, approval_id, event, start + timedelta(seconds=now)))
        assert (got, stored) == (expected, (model.state, model.now(now))), steps
        if model.state != before:
            kinds.append(f"approval_{model.state}")
    rows = store.sql(f"SELECT activity_type FROM activity WHERE subject_id = '{approval_id}' ORDER BY sequence")
    assert [kind for (kind,) in rows] == kinds


async def done(store: Served, approval_id: str, event: Any, at: datetime) -> tuple[str, tuple[str, str]]:
    """The answer of the store to an event at this time; then the stored state and the reported state."""
    actor = Actor("someone", "api", at)
    async with store.running._store.database.writing() as session:
        approval = await approvals.get(session, approval_id)
        answer = await answered(session, approval, event, actor)
        return answer, (approval.status, approvals.state_of(approval, at).value)


async def answered(session: AsyncSession, approval: Approval, event: Any, actor: Actor) -> str:
    kind, *details = event
    if kind == "decide":
        verdict = Verdict.APPROVE if details[0] == "approved" else Verdict.DENY
        caller = Caller("0", actor.name, Role.ADMIN, None)
        try:
            await deciding.decide(session, approval, verdict, caller, actor, comment="why", approver_mfa=False)
        except ConflictError:
            return "conflict"
        return str(details[0])
    if kind == "use":
        digest = bytes.fromhex(approval.action_sha256) if details[1] else bytes(32)
        return (await approvals.use(session, approval, Claim(AGENT, digest, details[0]), actor)).value
    overdue = await lists.overdue(session, actor.at, 500)
    await approvals.end_overdue(session, [one for one in overdue if one is approval], actor)
    return "marked"
