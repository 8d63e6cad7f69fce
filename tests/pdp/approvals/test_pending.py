"""The same action while its approval is pending: the sidecar gives that approval, and opens no other."""

import asyncio
import json
from typing import Any

import pytest

from pdp.core.model import Now
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.deciding import Bench, served
from tests.given import NOON, agent
from tests.pdp.approvals.test_approvals import request, summary, updates

PENDING = sync_pb2.APPROVAL_STATE_PENDING


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=100))
    return bench


def opens(bench: Bench) -> list[str]:
    """The approvals that the decisions in the log open."""
    return [entry.opens.approval_id for entry in bench.log.entries if entry.opens is not None]


def policy(**fields: Any) -> dict[str, Any]:
    named = {"policy_id": "p", "policy_name": "p", "created_at": "2026-01-01T00:00:00.000000Z"}
    return named | {"policy_action": "require_approval"} | fields


async def test_the_same_action_gets_the_pending_approval(bench: Bench) -> None:
    """Its id and expiry, and the answer says that it was asked before; the record opens nothing, and it is counted."""
    async with served(bench.service) as stub:
        first = await stub.Evaluate(request())
        bench.people.say(first.approval_id, PENDING, expires_at=NOON + 3000)
        second = await stub.Evaluate(request())
    assert (first.approval_pending, second.approval_pending) == (False, True)
    assert second.approval_id == first.approval_id
    assert second.approval_expires_at.ToSeconds() == NOON + 3000
    assert summary(second) == summary(first)
    assert second.message == f"{first.message}; approval `{first.approval_id}` of it is already pending"
    assert opens(bench) == [first.approval_id]
    assert (bench.log.urgent, second.rate_remaining.minute) == (1, 98)


async def test_an_approval_that_another_sidecar_opened_is_found(bench: Bench) -> None:
    """By what is asked: the agent, its action and who must decide."""
    bench.people.pending = sync_pb2.Approval(approval_id="theirs", expires_at=NOON + 60)
    async with served(bench.service) as stub:
        answer = await stub.Evaluate(request())
    assert (answer.approval_id, answer.approval_pending, opens(bench)) == ("theirs", True, [])
    (sought,) = bench.people.sought
    assert (sought.agent_id, sought.opened_approval_id) == ("billing-reader-test", "")
    assert (len(sought.action_sha256), len(sought.demand_sha256)) == (32, 32)


async def test_what_was_decided_is_asked_anew(bench: Bench) -> None:
    """The store has the approval, and it is pending no longer."""
    async with served(bench.service) as stub:
        first = await stub.Evaluate(request())
        bench.people.say(first.approval_id, sync_pb2.APPROVAL_STATE_DENIED)
        second = await stub.Evaluate(request())
        third = await stub.Evaluate(request())
    assert [sought.opened_approval_id for sought in bench.people.sought] == [
        *("", first.approval_id),
        second.approval_id,
    ]
    assert (second.approval_pending, third.approval_pending) == (False, True)
    assert opens(bench) == [first.approval_id, second.approval_id] != [first.approval_id] * 2


async def test_while_the_store_is_away_the_sidecar_gives_its_own(bench: Bench) -> None:
    """Until it expires by the boot clock, or people are known to have decided it."""
    async with served(bench.service) as stub:
        bench.people.go(present=False)
        first, second = [await stub.Evaluate(request()) for _ in range(2)]
        assert (second.approval_id, second.approval_pending) == (first.approval_id, True)
        bench.pass_seconds(3600)
        late = await stub.Evaluate(request())
        assert (late.approval_pending, late.approval_id != first.approval_id) == (False, True)
        bench.people.go(present=True)
        bench.people.say(late.approval_id, sync_pb2.APPROVAL_STATE_DENIED)
        assert await updates(stub, late.approval_id) == [("DENIED", "")]
        bench.people.go(present=False)
        assert not (await stub.Evaluate(request())).approval_pending


async def test_a_jump_of_the_wall_clock_makes_no_approval_expire(bench: Bench) -> None:
    """Only the boot clock counts."""
    async with served(bench.service) as stub:
        bench.people.go(present=False)
        await stub.Evaluate(request())
        bench.now = Now(bench.now.wall + 1e6, bench.now.boot)
        assert (await stub.Evaluate(request())).approval_pending


async def test_many_at_once_open_one(bench: Bench) -> None:
    """Though none of them finds it at the store."""
    async with served(bench.service) as stub:
        answers = await asyncio.gather(*(stub.Evaluate(request()) for _ in range(20)))
        batch = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[request()] * 3))
    answers += [result.response for result in batch.results]
    (opened,) = opens(bench)
    assert {answer.approval_id for answer in answers} == {opened}
    assert sorted(answer.approval_pending for answer in answers) == [False] + [True] * 22


@pytest.mark.parametrize(
    "changed",
    [
        {"policy_action": "escalate"},
        {"action_params": {"approvers": ["bob"]}},
        {"action_params": {"approvers": ["ann"], "min_approvers": 2}},
        {"action_params": {"approvers": ["ann"], "team": "finance"}},
    ],
)
async def test_a_rule_that_asks_other_people_opens_another(bench: Bench, changed: dict[str, Any]) -> None:
    """So that nobody decides whom the rule in force does not name."""
    rule = policy(action_params={"approvers": ["ann"], "own": 1})
    async with served(bench.service) as stub:
        bench.put(agent(policies=[rule]))
        await stub.Evaluate(request())
        bench.put(agent(policies=[rule | {"priority": 7, "action_params": {"approvers": ["ann"], "own": 2}}]))
        assert (await stub.Evaluate(request())).approval_pending
        bench.put(agent(policies=[rule | changed]))
        assert not (await stub.Evaluate(request())).approval_pending


async def test_another_action_opens_another(bench: Bench) -> None:
    """And a dry run, an allow and a block neither look for one nor get one."""
    async with served(bench.service) as stub:
        await stub.Evaluate(request())
        assert not (await stub.Evaluate(request(amount=1))).approval_pending
        assert len(bench.people.sought) == 2
        for asked in (request(dry_run=True), request(risk_score=1), request(agent_id="unknown-agent")):
            answer = await stub.Evaluate(asked)
            assert (answer.approval_id, answer.approval_pending) == ("", False)
        assert len(bench.people.sought) == 2


async def test_a_repeat_of_an_idempotency_key_is_the_first_answer(bench: Bench) -> None:
    """It does not say that the approval was asked for before; a request of another key does."""
    async with served(bench.service) as stub:
        first, again = [await stub.Evaluate(request(idempotency_key="k")) for _ in range(2)]
        other = await stub.Evaluate(request(idempotency_key="j"))
    assert first == again
    assert (first.approval_pending, other.approval_pending) == (False, True)


async def test_an_approval_in_the_request_that_is_pending_is_said_to_be(bench: Bench) -> None:
    """Over JSON too; one that is used or denied is not."""
    bench.people.say("a1", PENDING)
    bench.people.say("a2", sync_pb2.APPROVAL_STATE_DENIED)
    action = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 50}
    for approval_id, pending in (("a1", True), ("a2", False)):
        body = json.dumps({"action": action, "approval_id": approval_id}).encode()
        _, answer = await bench.service.evaluate_json(body)
        assert (answer["approval_id"], answer["approval_pending"]) == (approval_id, pending)


async def test_a_store_that_does_not_know_the_call_gets_each_request(bench: Bench) -> None:
    """As before: an older store cannot say whether what was opened is still pending."""
    bench.people.old = True
    async with served(bench.service) as stub:
        answers = [await stub.Evaluate(request()) for _ in range(2)]
    assert [answer.approval_pending for answer in answers] == [False, False]
    assert opens(bench) == [answer.approval_id for answer in answers]


async def test_a_slow_store_is_not_waited_for_again_and_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a call that had no answer in time it is left alone for five seconds."""
    find = bench.people.find_pending_approval

    async def slowly(wanted: sync_pb2.FindPendingApprovalRequest) -> sync_pb2.FindPendingApprovalResponse:
        bench.pass_seconds(0.5)
        return await find(wanted)

    monkeypatch.setattr(bench.people, "find_pending_approval", slowly)
    bench.people.go(present=False)
    async with served(bench.service) as stub:
        for amount in range(3):
            await stub.Evaluate(request(amount=amount))
        assert len(bench.people.sought) == 1
        bench.pass_seconds(5)
        await stub.Evaluate(request(amount=9))
    assert len(bench.people.sought) == 2
    assert len(opens(bench)) == 4
