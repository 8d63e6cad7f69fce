"""What people ask with `curl` beside decisions: an explanation, and the state of an approval."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from pdp import approvals, wire
from pdp.endpoints import explaining
from pdp.endpoints.http import MAX_BODY_BYTES
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.deciding import Bench, served
from tests.given import agent
from tests.pdp.endpoints.test_http import ACTION, call, port
from tests.pdp.endpoints.test_pages import check
from tests.waiting import eventually
from tests.whole import Answer

ROUTE = "/v1/approvals/{approval_id}"


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


async def test_an_explanation_in_json_is_that_of_grpc(bench: Bench) -> None:
    """In the form of `pdp explain --json`, and it counts nothing."""
    answer = await call(bench, "POST", "/v1/explain", {"action": ACTION})
    check("POST", "/v1/explain", answer)
    async with served(bench.service) as stub:
        explained = await stub.Explain(pb.ExplainRequest(action=pb.Action(**ACTION)))
    expected = explaining.explanation_json(explained)
    assert answer.status == 200
    assert answer.body["decision"].pop("decision_id") != expected["decision"].pop("decision_id")
    assert answer.body == expected
    assert answer.body["decision"]["rate_remaining"]["minute"] == 5


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"action": ACTION | {"risk_score": 101, "surprise": 1}}, {"action.risk_score", "action.surprise"}),
        ({"action": ACTION, "dry_run": True}, {"dry_run"}),
        ({}, {"action", "action.agent_id", "action.action_type"}),
        ({"action": 1}, {"action", "action.agent_id", "action.action_type"}),
        ([], {"", "action", "action.agent_id", "action.action_type"}),
        (b"{", {"request"}),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
async def test_a_malformed_question_names_every_field(bench: Bench, body: object, paths: set[str]) -> None:
    """What only a decision takes is refused too, for it would have no effect."""
    answer = await call(bench, "POST", "/v1/explain", body)
    check("POST", "/v1/explain", answer)
    assert (answer.status, {error["path"] for error in answer.body["errors"]}) == (400, paths)


async def test_explanations_are_bounded(bench: Bench) -> None:
    """In the size of the body and in number; without registry data there is none."""
    async with port(bench) as caller:
        large = await caller.call("POST", "/v1/explain", b" " * (MAX_BODY_BYTES + 1))
        check("POST", "/v1/explain", large)
        bench.service._explanations.taken = 100
        crowded = await caller.call("POST", "/v1/explain", {"action": ACTION})
        check("POST", "/v1/explain", crowded)
    empty = await call(Bench(), "POST", "/v1/explain", {"action": ACTION})
    check("POST", "/v1/explain", empty)
    assert (large.status, crowded.status, empty.status) == (413, 429, 503)


async def test_a_pending_approval_is_answered_at_once_without_a_wait(bench: Bench) -> None:
    """With every field; null where it is not set."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING, expires_at=1_795_179_600.0)
    answer = await call(bench, "GET", "/v1/approvals/a")
    check("GET", ROUTE, answer)
    state = {"approval_id": "a", "state": "pending", "comment": None, "decided_by": None}
    assert answer == Answer(200, state | {"expires_at": "2026-11-20T13:00:00.000000Z"})


async def test_a_wait_ends_with_the_next_state(bench: Bench) -> None:
    """As soon as a person decides."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    async with port(bench) as caller:
        waiting = asyncio.create_task(caller.call("GET", "/v1/approvals/a?wait=60"))
        await eventually(lambda: bench.service.approvals.waiting)
        bench.people.say("a", sync_pb2.APPROVAL_STATE_DENIED, decided_by="ann", comment="no")
        answer = await waiting
        check("GET", ROUTE, answer)
        assert (answer.body["state"], answer.body["decided_by"], answer.body["comment"]) == ("denied", "ann", "no")
        assert await caller.call("GET", "/v1/approvals/a?wait=60") == answer
    assert bench.service.approvals.waiting == 0


async def test_a_wait_that_ends_first_answers_pending(bench: Bench) -> None:
    """And frees its place."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    answer = await call(bench, "GET", "/v1/approvals/a?wait=0.01")
    assert (answer.status, answer.body["state"], bench.service.approvals.waiting) == (200, "pending", 0)


@pytest.mark.parametrize(
    "query",
    ["wait=61", "wait=-1", "wait=nan", "wait=1e1", "wait=", "wait=1_0", "wait=1&wait=2", "until=1"],
)
async def test_a_wrong_wait_is_refused(bench: Bench, query: str) -> None:
    """Seconds from 0 to 60, once."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    answer = await call(bench, "GET", f"/v1/approvals/a?{query}")
    check("GET", ROUTE, answer)
    assert (answer.status, [error["path"] for error in answer.body["errors"]]) == (400, [query.partition("=")[0]])


async def test_what_is_no_approval_of_this_sidecar_is_unknown(bench: Bench) -> None:
    """Also that of an agent that it does not serve; an id that is too long is malformed."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING, agent_id="somebody-else")
    async with port(bench) as caller:
        for approval_id in ("a", "b"):
            answer = await caller.call("GET", f"/v1/approvals/{approval_id}?wait=60")
            check("GET", ROUTE, answer)
            assert (answer.status, answer.body["detail"]) == (404, f"approval `{approval_id}` is unknown")
        answer = await caller.call("GET", f"/v1/approvals/{'a' * 65}")
    check("GET", ROUTE, answer)
    assert (answer.status, answer.body["errors"][0]["path"]) == (400, "approval_id")


async def test_waits_are_bounded_in_number_and_end_with_the_sidecar(bench: Bench) -> None:
    """429 beyond the places; 503 when it stops."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    async with port(bench, max_waiting=1) as caller:
        waiting = asyncio.create_task(caller.call("GET", "/v1/approvals/a?wait=60"))
        await eventually(lambda: bench.service.approvals.waiting)
        crowded = await caller.call("GET", "/v1/approvals/a")
        check("GET", ROUTE, crowded)
        bench.service.stop_waiting()
        stopped = await waiting
        check("GET", ROUTE, stopped)
    assert (crowded.status, stopped.status, stopped.body["detail"]) == (429, 503, "the sidecar is stopping")


async def test_a_state_that_the_store_does_not_tell_is_not_made_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 where this sidecar did not open the approval; the state that it knows where it did."""
    monkeypatch.setattr(approvals, "STATE_SECONDS", 0.01)
    bench.people.go(present=False)
    async with port(bench) as caller:
        unknown = await caller.call("GET", "/v1/approvals/a")
        check("GET", ROUTE, unknown)
        opened = await caller.call("POST", "/v1/evaluate", {"action": ACTION | {"risk_score": 50}})
        known = await caller.call("GET", f"/v1/approvals/{opened.body['approval_id']}")
    assert (unknown.status, known.status, known.body["state"]) == (503, 200, "pending")


async def test_the_next_state_comes_from_a_stream_of_states() -> None:
    """A final first one ends it; a pending one is followed by the next."""

    async def states(*given: "pb.ApprovalState") -> AsyncIterator[pb.ApprovalUpdate]:
        for state in given:
            yield pb.ApprovalUpdate(state=state)

    pending, used = pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_USED
    for given, expected in [((pending, used), used), ((used,), used)]:
        found = await approvals.next_update(states(*given), 60)  # type: ignore[arg-type]
        assert found.state == expected
    assert json.dumps(wire.approval_json(found))
