"""Outcomes at the store: kept once, in the record of their decision, in the usage, and with the approval."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from registry_store.decisions import deletion
from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncStub
from tests.registry_store.approving import open_all, record
from tests.registry_store.reporting import Log, decision, ended, gap, new_id, report, reporter, tell_usage_as_of
from tests.registry_store.serving import Rest, Served

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOLLAR = 1_000_000


def shown(rest: Rest, decided: dict[str, Any]) -> Any:
    """What REST tells of the outcome of a decision."""
    return rest.get(f"/api/decisions/{decided['decision_id']}").body["outcome"]


def test_an_outcome_is_in_the_record_of_its_decision(store: Served, admin: Rest) -> None:
    """In the list too; null where none was reported, and the estimate where the report gave no cost."""
    made = [decision(agent_id="ended-agent-prod", cost_micros=DOLLAR) for _ in range(3)]
    failed = ended(made[0], "failed", actual_cost_micros=1_250_000, error="<b>timed out</b>")
    report(store, *made, failed, ended(made[1]))
    first = {
        "result": "failed",
        "actual_cost_usd": 1.25,
        "error": "<b>timed out</b>",
        "reported_at": failed["outcome"]["reported_at"],
    }
    assert shown(admin, made[0]) == first
    listed = admin.get("/api/decisions?agent_id=ended-agent-prod").body["decisions"]
    told = [one["outcome"] and (one["outcome"]["result"], one["outcome"]["actual_cost_usd"]) for one in listed]
    assert told == [None, ("succeeded", 1.0), ("failed", 1.25)]


def test_the_first_outcome_of_a_decision_stands(store: Served, admin: Rest) -> None:
    """Sent again, in the same report or a later one, it changes nothing, and breaks no chain."""
    made, log = decision(agent_id="twice-agent-prod", cost_micros=DOLLAR), Log("node-twice")
    before = admin.get("/api/decisions").body["breaks"]
    first, second = ended(made, actual_cost_micros=0), ended(made, "failed", actual_cost_micros=9 * DOLLAR)
    start = log.copy()
    assert report(store, made, first, second, log=log) == 3
    assert report(store, made, first, second, log=start) == 3
    assert report(store, second, log=log) == 4
    assert (shown(admin, made)["result"], admin.get("/api/decisions").body["breaks"]) == ("succeeded", before)


@pytest.mark.parametrize(
    ("actual", "spent"), [(None, 3.0), (0, 2.0), (DOLLAR // 2, 2.5), (5 * DOLLAR, 7.0), (10**15, 1_000_000_002.0)]
)
def test_the_usage_settles_to_the_actual_cost(
    store: Served, admin: Rest, monkeypatch: pytest.MonkeyPatch, actual: int | None, spent: float
) -> None:
    """Of the day of the decision, in the zone of the agent."""
    agent_id = f"settled-{actual}-prod"
    admin.register(agent_id)
    tell_usage_as_of(NOON, monkeypatch)
    made = [decision(agent_id=agent_id, at=NOON - timedelta(minutes=1), cost_micros=cost * DOLLAR) for cost in (1, 2)]
    report(store, *made, ended(made[0], actual_cost_micros=actual))
    usage = admin.get(f"/api/agents/registry/{agent_id}/usage").body
    assert (usage["spent_today_usd"], usage["actions_last_hour"]) == (spent, 2)


def test_an_outcome_of_yesterday_leaves_today_alone(
    store: Served, admin: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It settles on the day of its decision."""
    admin.register("late-agent-prod")
    midnight = NOON + timedelta(hours=12)
    made = decision(agent_id="late-agent-prod", at=midnight - timedelta(minutes=1), cost_micros=DOLLAR)
    late = ended(made, actual_cost_micros=5 * DOLLAR)
    late["outcome"]["reported_at"] = "2026-03-02T00:10:00Z"
    report(store, made, late)
    spent = []
    for moment in (midnight - timedelta(seconds=30), midnight + timedelta(minutes=20)):
        tell_usage_as_of(moment, monkeypatch)
        spent.append(admin.get("/api/agents/registry/late-agent-prod/usage").body["spent_today_usd"])
    assert spent == [5.0, 0.0]


def test_an_outcome_whose_decision_was_lost_never_counts_below_zero(
    store: Served, admin: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log dropped the decision, so that its cost was never counted."""
    admin.register("lost-agent-prod")
    tell_usage_as_of(NOON, monkeypatch)
    made = [decision(agent_id="lost-agent-prod", at=NOON, cost_micros=DOLLAR) for _ in range(2)]
    report(store, ended(made[0], actual_cost_micros=0), gap(2, 2))
    assert admin.get("/api/agents/registry/lost-agent-prod/usage").body["spent_today_usd"] == 0.0
    report(store, ended(made[1], actual_cost_micros=3 * DOLLAR))
    assert admin.get("/api/agents/registry/lost-agent-prod/usage").body["spent_today_usd"] == 2.0


def test_the_error_rate_is_that_of_the_last_hundred(store: Served, admin: Rest) -> None:
    """Null without outcomes; older ones count no more."""
    admin.register("rated-agent-prod")

    def rate() -> Any:
        return admin.get("/api/agents/registry/rated-agent-prod/usage").body["error_rate"]

    assert rate() is None
    made = [decision(agent_id="rated-agent-prod", at=NOON + timedelta(seconds=number)) for number in range(140)]
    log = Log("node-rated")
    report(
        store,
        *made,
        *(ended(one, "failed" if number % 4 == 0 else "succeeded") for number, one in enumerate(made[:4])),
        log=log,
    )
    assert rate() == 0.25
    report(store, *(ended(one, "failed") for one in made[4:40]), log=log)
    assert rate() == 0.925
    report(
        store, *(ended(one, "failed" if number < 7 else "succeeded") for number, one in enumerate(made[40:])), log=log
    )
    assert rate() == 0.07


def test_an_approval_whose_action_failed_says_so(store: Served, admin: Rest) -> None:
    """With the error; an approval whose action has not ended says null."""
    asked = record()
    (approval_id,) = open_all(store, asked)
    assert admin.get(f"/api/approvals/{approval_id}").body["action_outcome"] is None
    made = decision(approval_id=approval_id)
    report(store, made, ended(made, "failed", approval_id=approval_id, error="card declined"))
    told = admin.get(f"/api/approvals/{approval_id}").body["action_outcome"]
    assert (told["result"], told["error"]) == ("failed", "card declined")
    listed = admin.get("/api/approvals?limit=500").body["approvals"]
    assert {one["approval_id"]: one["action_outcome"] for one in listed}[approval_id] == told


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"decision_id": "x"}, "outcome.decision_id"),
        ({"agent_id": "a b"}, "outcome.agent_id"),
        ({"result": "maybe"}, "outcome.result"),
        ({"actual_cost_micros": -1}, "outcome.actual_cost_micros"),
        ({"charged_micros": 10**16}, "outcome.charged_micros"),
        ({"error": "x" * 4097}, "outcome.error"),
        ({"reported_at": "noon"}, "outcome.reported_at"),
        ({"activations": -1}, "outcome.activations"),
    ],
)
async def test_a_malformed_outcome_is_named(store: Served, fields: dict[str, Any], path: str) -> None:
    """The sidecar then sets that record aside."""
    made = decision()
    async with reporter(store) as sidecar:
        answer = await sidecar.answer(Log(new_id()).report(made, ended(made, **fields)))
    ((sequence, problem),) = [(one.sequence, one.problem) for one in answer.refused]
    assert (answer.sequence, sequence) == (2, 2)
    assert problem.startswith(f"{path}: ")


async def test_a_key_reports_outcomes_of_its_own_agents_only(store: Served, admin: Rest) -> None:
    """As with decisions."""
    bound = {"role": "sidecar", "name": "bound-outcomes", "agents": ["own-agent-prod"]}
    key = admin.post("/api/keys", bound).body["key"]
    made = decision(agent_id="own-agent-prod")
    async with reporter(store, key) as sidecar:
        log = Log("node-bound")
        assert await sidecar.send(log.report(made, ended(made))) == 2
        foreign = ended(decision(agent_id="other-agent-prod"))
        code, message = await sidecar.refused(log.copy().old_report(foreign))
        answer = await sidecar.answer(log.report(foreign))
    problem = "agent `other-agent-prod` is outside the scope of the key"
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, f"records[0].document: {problem}")
    assert [(one.sequence, one.problem) for one in answer.refused] == [(3, problem)]


async def test_a_sidecar_learns_whose_a_decision_is(store: Served, admin: Rest) -> None:
    """Of the agents that its key may sync; any other id is unknown."""
    bound = {"role": "sidecar", "name": "bound-finder", "agents": ["found-agent-prod"]}
    key = (await asyncio.to_thread(admin.post, "/api/keys", bound)).body["key"]
    made = [decision(agent_id="found-agent-prod") for _ in range(2)]
    tried = decision("block", agent_id="found-agent-prod", dry_run=True)
    foreign = decision(agent_id="other-agent-prod")
    async with reporter(store) as sidecar:
        await sidecar.send(Log("node-finding").report(*made, tried, foreign, ended(made[0])))

    async def find(decision_id: str) -> Any:
        async with grpc.aio.insecure_channel(store.running.grpc_address) as channel:
            metadata = (("authorization", f"Bearer {key}"),)
            request = pb.FindDecisionRequest(decision_id=decision_id)
            try:
                return await RegistrySyncStub(channel).FindDecision(request, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                return error.code().name

    common = {"node_id": "node-finding", "agent_id": "found-agent-prod"}
    expected = [
        pb.FindDecisionResponse(**common, outcome="allow", has_outcome=True),
        pb.FindDecisionResponse(**common, outcome="allow"),
        pb.FindDecisionResponse(**common, outcome="block", dry_run=True),
        "PERMISSION_DENIED",
        "NOT_FOUND",
        "NOT_FOUND",
    ]
    ids = [one["decision_id"] for one in (*made, tried, foreign, decision())]
    assert [await find(decision_id) for decision_id in (*ids, "x" * 70_000)] == expected


def test_outcomes_are_deleted_with_their_batches(fresh: Served) -> None:
    """By age of the receipt of the batch, oldest first; about as many records at once as are asked for."""
    log, made = Log(), [decision() for _ in range(3)]
    for one in made:
        report(fresh, one, ended(one), log=log)

    async def delete(maximum: int, moment: datetime) -> int:
        async with fresh.running._store.database.beside() as session:
            return await deletion.batches_before(session, maximum, moment)

    later = datetime.now(UTC) + timedelta(minutes=1)
    assert [fresh.run(delete(3, moment)) for moment in (NOON, later, later, later)] == [0, 4, 2, 0]
    for table in ("decisions", "outcomes", "decision_batches"):
        assert fresh.sql(f"SELECT count(*) FROM {table}") == [(0,)]
    columns = "batches, deleted_batches, deleted_first, deleted_last, deleted_records"
    assert fresh.sql(f"SELECT {columns}, head = deleted_head FROM decision_logs") == [(3, 3, 1, 6, 6, True)]
