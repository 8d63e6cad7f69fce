"""Approvals at the sidecar over real gRPC, with the store's answers set by the test."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from pdp import wire
from pdp.approvals import MAX_WAITING
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.deciding import SMALL_WINDOW, Bench, request_in, served
from tests.given import NOON, agent
from tests.waiting import eventually

RISKY = {"risk_score": 50}


def request(approval_id: str = "", **fields: object) -> pb.EvaluateRequest:
    beside = {name: fields.pop(name) for name in ("idempotency_key", "dry_run") if name in fields}
    action = {"agent_id": "billing-reader-test", "action_type": "api.read"} | RISKY | fields
    return pb.EvaluateRequest(action=pb.Action(**action), approval_id=approval_id, **beside)


def summary(answer: pb.EvaluateResponse) -> tuple[str, str]:
    """Outcome and reason, without their prefixes."""
    outcome, reason = pb.Outcome.Name(answer.outcome), pb.Reason.Name(answer.reason)
    return outcome.removeprefix("OUTCOME_"), reason.removeprefix("REASON_")


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=100))
    return bench


async def test_a_decision_for_a_person_opens_an_approval(bench: Bench) -> None:
    """The answer has its id and expiry; the log sends it at once, with the action's digest."""
    async with served(bench.service) as stub:
        answer = await stub.Evaluate(request())
    assert summary(answer) == ("REQUIRE_APPROVAL", "RISK_NEEDS_APPROVAL")
    assert answer.approval_expires_at.ToSeconds() == NOON + 3600
    entry = bench.log.entries[0]
    assert entry.opens == (answer.approval_id, wire.digest(request_in(entry).action), 3600)
    assert bench.log.urgent == 1


async def test_a_policy_sets_the_timeout_of_an_approval(bench: Bench) -> None:
    """An escalation has an approval too."""
    policy = {"policy_id": "p", "policy_name": "p", "created_at": "2026-01-01T00:00:00.000000Z"}
    rule = {"policy_action": "escalate", "action_params": {"timeout_seconds": 60}}
    bench.put(agent(policies=[policy | rule]))
    answer = bench.evaluate(wire.read_request(request()))
    assert answer.approval_expires_at.ToSeconds() == NOON + 60


async def test_nothing_else_opens_an_approval(bench: Bench) -> None:
    """Neither an allow, nor a block, nor a dry run, nor a repeat of an idempotency key."""
    async with served(bench.service) as stub:
        for asked in (request(risk_score=1), request(agent_id="unknown-agent"), request(dry_run=True)):
            assert not (await stub.Evaluate(asked)).approval_id
        first, again = [await stub.Evaluate(request(idempotency_key="k")) for _ in range(2)]
    assert first == again
    assert [entry.opens is not None for entry in bench.log.entries] == [False, False, False, True, False]


async def test_an_approval_allows_the_action_once(bench: Bench) -> None:
    """It is counted and logged; with the same approval again the action still needs a person, and no approval opens."""
    bench.people.granted.add("a1")
    async with served(bench.service) as stub:
        first, second = [await stub.Evaluate(request("a1")) for _ in range(2)]
    assert (*summary(first), first.message) == ("ALLOW", "APPROVED", "`ann` approved it: checked")
    assert first.rate_remaining.minute == 99
    assert not first.approval_id
    assert summary(second) == ("REQUIRE_APPROVAL", "RISK_NEEDS_APPROVAL")
    assert second.message.endswith("; approval `a1` has been used")
    assert second.approval_id == "a1"
    assert [(request_in(entry).approval_id, entry.opens) for entry in bench.log.entries] == [("a1", None)] * 2


async def test_of_two_concurrent_requests_one_is_allowed(bench: Bench) -> None:
    """Both ask the store under one use id, and the store grants both."""
    bench.people.granted.add("a1")
    async with served(bench.service) as stub:
        answers = await asyncio.gather(*(stub.Evaluate(request("a1")) for _ in range(8)))
    assert sorted(summary(answer)[0] for answer in answers) == ["ALLOW"] + ["REQUIRE_APPROVAL"] * 7
    assert len({asked.use_id for asked in bench.people.asked}) == 1


async def test_a_use_without_an_answer_is_repeated_under_the_same_id(bench: Bench) -> None:
    """The store may have granted it; the second call returns that."""
    async with served(bench.service) as stub:
        bench.people.go(present=False)
        lost = await stub.Evaluate(request("a1"))
        bench.people.go(present=True)
        bench.people.granted.add("a1")
        found = await stub.Evaluate(request("a1"))
    assert lost.message.endswith("; the store is unreachable, so approval `a1` cannot be used now")
    assert (summary(lost)[0], summary(found)[0]) == ("REQUIRE_APPROVAL", "ALLOW")
    assert len({asked.use_id for asked in bench.people.asked}) == 1


async def test_an_action_that_needs_no_approval_uses_none(bench: Bench) -> None:
    """An allow stays what it is, and a block is a block; the store is not even asked."""
    bench.people.granted.add("a1")
    async with served(bench.service) as stub:
        assert summary(await stub.Evaluate(request("a1", risk_score=1))) == ("ALLOW", "RISK_BELOW_AUTO_APPROVE")
        blocked = await stub.Evaluate(request("a1", agent_id="unknown-agent"))
        assert summary(blocked) == ("BLOCK", "AGENT_NOT_REGISTERED")
        assert summary(await stub.Evaluate(request("a1", dry_run=True)))[0] == "REQUIRE_APPROVAL"
    assert not bench.people.asked


async def test_an_approval_for_another_action_blocks(bench: Bench) -> None:
    """A changed action must not pass with the approval of another one."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_APPROVED)
    async with served(bench.service) as stub:
        answer = await stub.Evaluate(request("a1"))
    assert summary(answer) == ("BLOCK", "APPROVAL_MISMATCH")
    assert answer.rate_remaining.minute == 100


STATES = {
    sync_pb2.APPROVAL_STATE_PENDING: "approval `a1` is still pending",
    sync_pb2.APPROVAL_STATE_DENIED: "`ann` denied approval `a1`: too much",
    sync_pb2.APPROVAL_STATE_EXPIRED: "approval `a1` has expired",
    sync_pb2.APPROVAL_STATE_USED: "approval `a1` has been used",
    None: "approval `a1` is unknown",
}


@pytest.mark.parametrize("state", STATES)
async def test_an_unusable_approval_does_not_change_the_decision(
    bench: Bench, state: "sync_pb2.ApprovalState | None"
) -> None:
    """The message has its state, and no other approval opens."""
    if state is not None:
        bench.people.say("a1", state, decided_by="ann", comment="too much")
    async with served(bench.service) as stub:
        answer = await stub.Evaluate(request("a1"))
    assert summary(answer) == ("REQUIRE_APPROVAL", "RISK_NEEDS_APPROVAL")
    assert answer.message.endswith(f"; {STATES[state]}")
    assert answer.approval_id == "a1"
    assert bench.log.entries[0].opens is None


async def test_with_an_approval_an_idempotency_key_has_a_separate_answer(bench: Bench) -> None:
    """The answer with the approval is remembered too, and the approval is not used twice."""
    bench.people.granted.add("a1")
    async with served(bench.service) as stub:
        first = await stub.Evaluate(request(idempotency_key="k"))
        approved, again = [await stub.Evaluate(request("a1", idempotency_key="k")) for _ in range(2)]
    assert (summary(first)[0], summary(approved)[0]) == ("REQUIRE_APPROVAL", "ALLOW")
    assert approved == again
    assert len(bench.people.asked) == 1


async def test_the_digest_is_that_of_the_whole_action(bench: Bench) -> None:
    """An approval is used with the digest that it was opened with, and any change gives another digest."""
    attributes = Struct()
    attributes.update({"order": {"id": 7}})
    async with served(bench.service) as stub:
        opened = await stub.Evaluate(request(amount=10, attributes=attributes))
        bench.people.granted.add(opened.approval_id)
        await stub.Evaluate(request(opened.approval_id, amount=10, attributes=attributes))
        await stub.Evaluate(request("other", amount=10.01, attributes=attributes))
    digest = bench.log.entries[0].opens.action_sha256
    assert [asked.action_sha256 == digest for asked in bench.people.asked] == [True, False]


async def test_batches_streams_and_the_json_endpoint_accept_approvals(bench: Bench) -> None:
    """Each as a single request does."""
    bench.people.granted |= {"a1", "a2", "a3"}
    async with served(bench.service) as stub:
        batch = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[request(), request("a1")]))
        call = stub.EvaluateStream()
        await call.write(pb.EvaluateStreamRequest(request=request("a2")))
        streamed = await call.read()
        await call.done_writing()
    action = {"agent_id": "billing-reader-test", "action_type": "api.read"} | RISKY
    _, answer = await bench.service.evaluate_json(json.dumps({"action": action, "approval_id": "a3"}).encode())
    assert [summary(result.response)[0] for result in batch.results] == ["REQUIRE_APPROVAL", "ALLOW"]
    assert summary(streamed.result.response) == ("ALLOW", "APPROVED")
    assert (answer["outcome"], answer["reason"], answer["approval_id"]) == ("allow", "APPROVED", None)


async def test_the_json_endpoint_returns_the_approval(bench: Bench) -> None:
    """With its id and its expiry."""
    action = {"agent_id": "billing-reader-test", "action_type": "api.read"} | RISKY
    _, answer = await bench.service.evaluate_json(json.dumps({"action": action}).encode())
    assert answer["approval_id"] == bench.log.entries[0].opens.approval_id
    assert answer["approval_expires_at"] == "2026-11-20T13:00:00.000000Z"


async def test_a_full_log_refuses_decisions_and_touches_no_approval(bench: Bench) -> None:
    """UNAVAILABLE, which a client treats as a block; explanations still work."""
    bench.people.granted.add("a1")
    bench.log.full = True
    async with served(bench.service) as stub:
        for asked in (request(), request("a1")):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.Evaluate(asked)
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await stub.Explain(pb.ExplainRequest(action=request().action))).decision.outcome
    assert not bench.people.asked


async def updates(stub: object, approval_id: str) -> list[tuple[str, str]]:
    """The updates for a waiting runtime: each state and its comment."""
    call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id=approval_id))
    return [
        (pb.ApprovalState.Name(update.state).removeprefix("APPROVAL_STATE_"), update.comment) async for update in call
    ]


async def test_a_runtime_waits_for_people(bench: Bench) -> None:
    """Pending from the moment that the sidecar opened it, before the store knows; then what people say, and the end."""
    async with served(bench.service) as stub:
        opened = await stub.Evaluate(request())
        call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id=opened.approval_id))
        first = await call.read()
        assert (first.state, first.expires_at) == (pb.APPROVAL_STATE_PENDING, opened.approval_expires_at)
        bench.people.say(opened.approval_id, sync_pb2.APPROVAL_STATE_PENDING)
        bench.people.say(
            opened.approval_id, sync_pb2.APPROVAL_STATE_APPROVED, comment="go", decided_by="ann", expires_at=NOON
        )
        last = await call.read()
        assert (last.state, last.comment, last.decided_by) == (pb.APPROVAL_STATE_APPROVED, "go", "ann")
        assert await call.read() is grpc.aio.EOF
    assert bench.service.approvals.waiting == 0


@pytest.mark.parametrize("state", ["DENIED", "EXPIRED", "USED"])
async def test_a_final_state_ends_the_wait(bench: Bench, state: str) -> None:
    """Also if it was final before the call."""
    bench.people.say("a1", sync_pb2.ApprovalState.Value(f"APPROVAL_STATE_{state}"), comment="no")
    async with served(bench.service) as stub:
        assert await updates(stub, "a1") == [(state, "no")]


async def test_an_approval_of_an_agent_that_is_not_served_here_is_unknown(bench: Bench) -> None:
    """Both for a caller that waits for it and for one that uses it."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_DENIED, agent_id="ledger-writer-test", comment="secret")
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await updates(stub, "a1")
        answer = await stub.Evaluate(request("a1"))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert refusal.value.details() == "approval `a1` is unknown"
    assert summary(answer) == ("REQUIRE_APPROVAL", "RISK_NEEDS_APPROVAL")
    assert answer.message.endswith("; approval `a1` is unknown")


async def test_an_approval_of_another_agent_that_is_served_here_blocks(bench: Bench) -> None:
    """One agent tries to use the approval of another."""
    bench.put(agent(), agent("ledger-writer-test"))
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_APPROVED, agent_id="ledger-writer-test")
    async with served(bench.service) as stub:
        assert summary(await stub.Evaluate(request("a1"))) == ("BLOCK", "APPROVAL_MISMATCH")


async def test_an_approval_that_was_opened_here_is_unknown_once_its_agent_is_gone(bench: Bench) -> None:
    """For example, the agent has lost the tag that the sidecar follows."""
    async with served(bench.service) as stub:
        opened = await stub.Evaluate(request())
        bench.put(agent("ledger-writer-test"))
        call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id=opened.approval_id))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_nothing_is_known_of_an_approval_before_there_is_data() -> None:
    """UNAVAILABLE: the served agents are not known yet."""
    bench = Bench()
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    async with served(bench.service) as stub:
        call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id="a1"))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_wall_clock_that_jumps_ends_no_wait(bench: Bench) -> None:
    """While the store does not know the approval yet, the boot clock counts."""
    async with served(bench.service) as stub:
        opened = await stub.Evaluate(request(idempotency_key="k"))
        bench.now = bench.now._replace(wall=bench.now.wall + 400 * 86_400)
        assert (await stub.Evaluate(request(idempotency_key="k"))).approval_id == opened.approval_id
        call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id=opened.approval_id))
        assert (await call.read()).state == pb.APPROVAL_STATE_PENDING
        call.cancel()


async def test_a_wait_goes_on_through_an_outage_of_the_store(bench: Bench) -> None:
    """No update is repeated, and none is missed."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    async with served(bench.service) as stub:
        call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id="a1"))
        assert (await call.read()).state == pb.APPROVAL_STATE_PENDING
        bench.people.go(present=False)
        bench.people.say("a1", sync_pb2.APPROVAL_STATE_DENIED, comment="no")
        bench.people.go(present=True)
        assert (await call.read()).state == pb.APPROVAL_STATE_DENIED
        assert await call.read() is grpc.aio.EOF


async def test_an_approval_whose_record_was_lost_expires_here(bench: Bench) -> None:
    """The store never received it, so nobody can have approved it."""
    async with served(bench.service) as stub:
        opened = await stub.Evaluate(request())
        bench.pass_seconds(3600)
        assert await updates(stub, opened.approval_id) == [("EXPIRED", "")]


@pytest.mark.parametrize(
    ("approval_id", "code"), [("", "INVALID_ARGUMENT"), ("a" * 65, "INVALID_ARGUMENT"), ("a1", "NOT_FOUND")]
)
async def test_an_unknown_approval_is_not_waited_for(bench: Bench, approval_id: str, code: str) -> None:
    """The error comes at once."""
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await updates(stub, approval_id)
    assert refusal.value.code().name == code
    assert "approval" in refusal.value.details()


async def test_waiting_is_bounded(bench: Bench) -> None:
    """One more than a thousand is RESOURCE_EXHAUSTED."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    bench.service.approvals.waiting = MAX_WAITING
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await updates(stub, "a1")
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@contextmanager
def abandoning() -> Iterator[list[AsyncGenerator[Any]]]:
    """The generators that are left to the garbage collector, which does not close them within the block."""
    hooks, found = sys.get_asyncgen_hooks(), list[AsyncGenerator[Any]]()
    sys.set_asyncgen_hooks(finalizer=found.append)
    try:
        yield found
    finally:
        sys.set_asyncgen_hooks(*hooks)


async def test_a_call_that_is_cancelled_while_it_sends_gives_its_place_back(bench: Bench) -> None:
    """At once: nothing of it is left to the garbage collector, neither its place nor its stream from the store."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING, comment="x" * 1_000_000)
    async with served(bench.service, SMALL_WINDOW) as stub:
        with abandoning() as abandoned:
            call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id="a1"))
            await call.initial_metadata()  # comes with the first update, which then fills the window of this client
            assert bench.service.approvals.waiting == 1
            call.cancel()
            await eventually(lambda: bench.service.approvals.waiting == 0)
    assert not abandoned


async def test_a_stopping_sidecar_ends_the_waits(bench: Bench) -> None:
    """UNAVAILABLE: the runtime waits on at another."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_PENDING)
    async with served(bench.service) as stub:
        call = stub.WaitForApproval(pb.WaitForApprovalRequest(approval_id="a1"))
        await call.read()
        bench.service.stop_waiting()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert bench.service.approvals.waiting == 0
