"""The endpoints of the decision point over real gRPC: batches, streams, dry runs, idempotency keys, faults."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from prometheus_client.parser import text_string_to_metric_families

from pdp.core.action import Action
from pdp.core.explanation.explain import explain
from pdp.core.explanation.text import render
from pdp.decision_log.record import Entry
from pdp.endpoints import explaining, service
from pdp.serving import turns
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from pdp.wire import answer_json, digest, read_request
from tests.deciding import SMALL_WINDOW, Bench, Kept, answer_in, listening, served, shown
from tests.given import agent
from tests.waiting import BOUND_SECONDS, eventually

Fields = dict[str, object]


def request(**fields: object) -> pb.EvaluateRequest:
    beside = {name: fields.pop(name) for name in ("idempotency_key", "approval_id", "dry_run") if name in fields}
    action = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 10} | fields
    return pb.EvaluateRequest(action=pb.Action(**action), **beside)


def stream_request(sequence: int, **fields: object) -> pb.EvaluateStreamRequest:
    return pb.EvaluateStreamRequest(sequence=sequence, request=request(**fields))


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


async def test_a_batch_is_counted_one_after_the_other(bench: Bench) -> None:
    """Of seven requests against a limit of five, the first five pass and the last two do not."""
    async with served(bench.service) as stub:
        answer = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[request()] * 7))
    assert [result.response.reason for result in answer.results] == (
        [pb.REASON_RISK_BELOW_AUTO_APPROVE] * 5 + [pb.REASON_RATE_LIMIT_EXCEEDED] * 2
    )
    assert [result.response.rate_remaining.minute for result in answer.results] == [4, 3, 2, 1, 0, 0, 0]


async def test_a_malformed_request_in_a_batch_has_its_own_error(bench: Bench) -> None:
    """The others are decided, in their order."""
    async with served(bench.service) as stub:
        requests = [request(), request(risk_score=101), request()]
        answer = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=requests))
    assert [result.WhichOneof("result") for result in answer.results] == ["response", "error", "response"]
    error = answer.results[1].error
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "action.risk_score")
    assert answer.results[2].response.rate_remaining.minute == 3


async def test_a_batch_of_more_than_a_thousand_is_refused_whole(bench: Bench) -> None:
    """Nothing of it is counted."""
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[request()] * 1001))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "requests" in refusal.value.details()
        assert (await stub.Evaluate(request())).rate_remaining.minute == 4


async def test_a_stream_answers_each_request_under_its_number_and_key(bench: Bench) -> None:
    """One malformed request has its own error, and the stream goes on."""
    async with served(bench.service) as stub:
        requests = [
            stream_request(7, idempotency_key="first"),
            stream_request(8, amount=float("nan"), idempotency_key="second"),
            stream_request(0),
        ]
        answers = [answer async for answer in stub.EvaluateStream(iter_of(requests))]
    assert [(answer.sequence, answer.idempotency_key) for answer in answers] == [(7, "first"), (8, "second"), (3, "")]
    assert [answer.result.WhichOneof("result") for answer in answers] == ["response", "error", "response"]
    assert answers[1].result.error.field == "action.amount"


async def test_malformed_messages_do_not_end_a_stream(bench: Bench) -> None:
    """They are answered with an error under their position in the stream."""
    async with listening(bench.service) as address, grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/pdp.v1.PolicyDecisionPoint/EvaluateStream")
        sent = iter_of([b"\xff\xff", stream_request(0).SerializeToString()])
        answers = [pb.EvaluateStreamResponse.FromString(raw) async for raw in call(sent)]
    assert [answer.sequence for answer in answers] == [1, 2]
    assert answers[0].result.error.field == "request"
    assert answers[1].result.response.outcome == pb.OUTCOME_ALLOW


async def iter_of(messages: Iterable[object]) -> AsyncIterator[object]:
    for message in messages:
        yield message


async def test_a_dry_run_counts_nothing(bench: Bench) -> None:
    """However often it is asked, what remains stays the same."""
    async with served(bench.service) as stub:
        answers = [await stub.Evaluate(request(dry_run=True)) for _ in range(10)]
    assert {answer.rate_remaining.minute for answer in answers} == {5}
    assert {answer.outcome for answer in answers} == {pb.OUTCOME_ALLOW}


async def test_a_repeated_key_gets_its_first_answer_and_counts_nothing(bench: Bench) -> None:
    """The answer is the same to the byte, the decision id included, and at the JSON endpoint too."""
    async with served(bench.service) as stub:
        first = await stub.Evaluate(request(idempotency_key="k", attributes=Struct()))
        again = await stub.Evaluate(request(idempotency_key="k"))
        assert again == first
        action = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 10}
        body = json.dumps({"action": action, "idempotency_key": "k"}).encode()
        assert (await bench.service.evaluate_json(body))[1]["decision_id"] == first.decision_id
        assert (await stub.Evaluate(request())).rate_remaining.minute == 3


async def test_a_repeat_writes_a_record_of_the_repeat(bench: Bench) -> None:
    """With an id of its own, the decision that it repeats, no charge, and no approval to open."""
    async with served(bench.service) as stub:
        fields = {"idempotency_key": "k", "risk_score": 50, "estimated_cost_usd": 2.5}
        first = await stub.Evaluate(request(**fields))
        assert await stub.Evaluate(request(**fields)) == first
    records = [shown(entry) for entry in bench.log.entries]
    assert [record["repeat_of"] for record in records] == [None, first.decision_id]
    assert records[0]["decision_id"] == first.decision_id < records[1]["decision_id"]
    assert [record["answer"] for record in records] == [answer_json(first)] * 2
    assert (records[1]["cost_micros"], records[1]["opens"], bench.log.urgent) == (0, None, 1)


async def test_a_repeat_is_checked_against_the_current_rules(bench: Bench) -> None:
    """If the agent is suspended or unknown, or the lists or the time window forbid it, it is blocked for that long."""
    changes = [
        ({"status": "suspended"}, pb.REASON_AGENT_NOT_ACTIVE),
        ({"allowed_action_types": ["x.y"]}, pb.REASON_ACTION_NOT_ALLOWED),
        ({"blocked_resources": ["ledger"]}, pb.REASON_RESOURCE_BLOCKED),
        ({"allowed_resources": ["vault"]}, pb.REASON_RESOURCE_NOT_ALLOWED),
        ({"blocked_data_classifications": ["pii"]}, pb.REASON_DATA_CLASSIFICATION_BLOCKED),
        ({"mcp_capabilities": {"other": ["*"]}}, pb.REASON_MCP_TOOL_BLOCKED),
        ({"time_window_enabled": True, "time_window_end": "11:00"}, pb.REASON_OUTSIDE_TIME_WINDOW),
    ]
    fields = {
        "idempotency_key": "k",
        "resource": "ledger",
        "data_classifications": ["pii"],
        "mcp_server": "files",
        "tool": "read",
    }
    server = {"server_name": "files"}
    bench.put(agent(max_actions_per_minute=5), servers=[server])
    async with served(bench.service) as stub:
        first = await stub.Evaluate(request(**fields))
        assert first.outcome == pb.OUTCOME_ALLOW
        for change, reason in changes:
            bench.put(agent(max_actions_per_minute=5, **change), servers=[server])
            answer = await stub.Evaluate(request(**fields))
            assert (answer.outcome, answer.reason) == (pb.OUTCOME_BLOCK, reason)
            assert answer.decision_id != first.decision_id
        bench.put(agent(max_actions_per_minute=5))
        assert (await stub.Evaluate(request(**fields))).reason == pb.REASON_MCP_SERVER_NOT_REGISTERED
        bench.put(agent("another-agent-test"))
        assert (await stub.Evaluate(request(**fields))).reason == pb.REASON_AGENT_NOT_REGISTERED
        bench.put(agent(max_actions_per_minute=5), servers=[server])
        assert await stub.Evaluate(request(**fields)) == first
        assert (await stub.Evaluate(request())).rate_remaining.minute == 3
    blocks = [entry for entry in bench.log.entries if answer_in(entry).outcome == pb.OUTCOME_BLOCK]
    assert [(entry.repeat_id, entry.cost_micros) for entry in blocks] == [("", 0)] * 9
    assert len({answer_in(entry).decision_id for entry in blocks}) == 9


async def test_a_pending_answer_is_not_repeated_for_a_suspended_agent(bench: Bench) -> None:
    """And with the approval that was given, nothing is allowed again after a suspension."""
    async with served(bench.service) as stub:
        asked = await stub.Evaluate(request(idempotency_key="k", risk_score=50))
        bench.people.granted.add(asked.approval_id)
        allowed = {"idempotency_key": "k", "risk_score": 50, "approval_id": asked.approval_id}
        first = await stub.Evaluate(request(**allowed))
        assert first.reason == pb.REASON_APPROVED
        assert await stub.Evaluate(request(**allowed)) == first
        bench.put(agent(status="suspended"))
        for fields in (allowed, {"idempotency_key": "k", "risk_score": 50}):
            assert (await stub.Evaluate(request(**fields))).reason == pb.REASON_AGENT_NOT_ACTIVE
    assert len(bench.people.asked) == 1


async def test_a_key_of_an_unknown_agent_is_free_once_it_is_registered(bench: Bench) -> None:
    """A client that registers itself repeats its first question, and nothing was counted."""
    unknown = {"agent_id": "payments-new-test", "idempotency_key": "k"}
    async with served(bench.service) as stub:
        assert (await stub.Evaluate(request(**unknown))).reason == pb.REASON_AGENT_NOT_REGISTERED
        bench.put(agent("payments-new-test"))
        assert (await stub.Evaluate(request(**unknown))).reason == pb.REASON_RISK_BELOW_AUTO_APPROVE


async def test_a_block_is_repeated_unchanged(bench: Bench) -> None:
    """Also if another rule would block it now."""
    async with served(bench.service) as stub:
        bench.put(agent(allowed_action_types=["x.y"]))
        first = await stub.Evaluate(request(idempotency_key="k"))
        bench.put(agent(status="suspended"))
        assert await stub.Evaluate(request(idempotency_key="k")) == first


async def test_a_key_is_repeated_a_hundred_times_and_no_more(bench: Bench) -> None:
    """RESOURCE_EXHAUSTED in a call, batch or stream, 429 at the JSON endpoint; after ten minutes the key is new."""
    body = {"action": {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 10}}
    body["idempotency_key"] = "k"
    async with served(bench.service) as stub:
        batch = pb.EvaluateBatchRequest(requests=[request(idempotency_key="k")] * 102)
        results = (await stub.EvaluateBatch(batch)).results
        assert len({result.response.decision_id for result in results[:101]}) == 1
        message = "idempotency_key: was repeated 100 times; use another key, or this one again in 600.0 s"
        refusal = pb.EvaluateError(code=8, field="idempotency_key", message=message)
        assert results[101].error == refusal
        (streamed,) = [one async for one in stub.EvaluateStream(iter_of([stream_request(1, idempotency_key="k")]))]
        assert streamed.result.error == refusal
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Evaluate(request(idempotency_key="k"))
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        bench.pass_seconds(590)
        status, problem = await bench.service.evaluate_json(json.dumps(body).encode())
        assert (status, problem["status"], problem["retry_after"]) == (429, 429, 10.0)
        assert len(bench.log.entries) == 101
        assert bench.service.point.answers.refused == 4
        assert (await stub.Evaluate(request(idempotency_key="other"))).outcome == pb.OUTCOME_ALLOW
        bench.pass_seconds(10)
        assert (await stub.Evaluate(request(idempotency_key="k"))).decision_id != results[0].response.decision_id


async def test_a_key_with_another_action_is_refused(bench: Bench) -> None:
    """A key names one action for ten minutes, and is free again after them."""
    async with served(bench.service) as stub:
        await stub.Evaluate(request(idempotency_key="k"))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Evaluate(request(idempotency_key="k", risk_score=11))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.value.details().startswith("idempotency_key: ")
        bench.pass_seconds(600)
        assert (await stub.Evaluate(request(idempotency_key="k", risk_score=11))).risk_score == 11


async def test_keys_of_two_agents_are_two_keys(bench: Bench) -> None:
    """An agent never gets another agent's decision."""
    bench.put(agent(), agent("ledger-writer-test"))
    async with served(bench.service) as stub:
        one = await stub.Evaluate(request(idempotency_key="k"))
        other = await stub.Evaluate(request(idempotency_key="k", agent_id="ledger-writer-test"))
    assert one.decision_id != other.decision_id


async def test_a_fault_inside_a_decision_blocks_and_the_next_one_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has its own reason and its own metric, and no key remembers it."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with served(bench.service) as stub:
        with monkeypatch.context() as patch:
            patch.setattr("pdp.decision_point.decide", broken)
            answer = await stub.Evaluate(request(idempotency_key="k"))
        assert (answer.outcome, answer.reason) == (pb.OUTCOME_BLOCK, pb.REASON_INTERNAL_ERROR)
        assert (await stub.Evaluate(request(idempotency_key="k"))).outcome == pb.OUTCOME_ALLOW
    assert b"pdp_internal_errors_total 1.0" in bench.metrics.text()


async def test_before_the_first_sync_there_is_no_decision() -> None:
    """UNAVAILABLE for a call, an error in a stream, 503 at the JSON endpoint."""
    bench = Bench()
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Evaluate(request())
        answers = [answer async for answer in stub.EvaluateStream(iter_of([stream_request(1)]))]
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert answers[0].result.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    body = b'{"action":{"agent_id":"billing-reader-test","action_type":"api.read"}}'
    assert (await bench.service.evaluate_json(body))[0] == 503


def nested(levels: int) -> Struct:
    attributes = Struct()
    inner: object = 1
    for _ in range(levels - 1):
        inner = {"a": inner}
    attributes.update({"a": inner})
    return attributes


def attributes(**members: object) -> Struct:
    message = Struct()
    message.update(members)
    return message


MALFORMED = [
    ("action.agent_id", {"agent_id": ""}),
    ("action.agent_id", {"agent_id": "no spaces"}),
    ("action.agent_id", {"agent_id": "a" * 65}),
    ("action.action_type", {"action_type": ""}),
    ("action.action_type", {"action_type": "a" * 257}),
    ("action.resource", {"resource": "r" * 2049}),
    ("action.resource_id", {"resource_id": "r" * 1025}),
    ("action.mcp_server", {"mcp_server": "s" * 257}),
    ("action.tool", {"tool": "t" * 257}),
    ("action.environment", {"environment": "e" * 257}),
    ("action.risk_score", {"risk_score": -1}),
    ("action.risk_score", {"risk_score": 101}),
    ("action.amount", {"amount": -0.01}),
    ("action.amount", {"amount": float("nan")}),
    ("action.amount", {"amount": float("inf")}),
    ("action.estimated_cost_usd", {"estimated_cost_usd": -1}),
    ("action.estimated_cost_usd", {"estimated_cost_usd": float("nan")}),
    ("action.estimated_cost_usd", {"estimated_cost_usd": 1e9 + 1}),
    ("action.data_classifications", {"data_classifications": ["x"] * 65}),
    ("action.attributes", {"attributes": nested(17)}),
    ("action.attributes", {"attributes": attributes(x=[[1, float("nan")]])}),
    ("action.attributes", {"attributes": attributes(x=float("-inf"))}),
    ("action", {"resource_id": "r", "data_classifications": ["x" * 66_000]}),
    ("action.resource", {"resource": "vault\0"}),
    ("action.agent_id", {"agent_id": "billing-reader-test\0"}),
    ("action.data_classifications", {"data_classifications": ["public", "pii\0"]}),
    ("idempotency_key", {"idempotency_key": "k" * 257}),
    ("approval_id", {"approval_id": "a" * 65}),
]


@pytest.mark.parametrize(("field", "fields"), MALFORMED, ids=lambda value: str(value)[:40])
async def test_a_malformed_request_is_refused_with_its_field(
    bench: Bench, field: str, fields: dict[str, object]
) -> None:
    """It is INVALID_ARGUMENT and no decision, and counts in its own metric."""
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Evaluate(request(**fields))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details().startswith(f"{field}: ")
    label = field.removeprefix("action.")
    assert f'pdp_malformed_requests_total{{field="{label}"}} 1.0'.encode() in bench.metrics.text()


@pytest.mark.parametrize(
    "fields",
    [
        {"risk_score": 0},
        {"risk_score": 100},
        {"amount": 0.0},
        {"estimated_cost_usd": 1e9},
        {"action_type": "a" * 256},
        {"resource": "r" * 2048},
        {"data_classifications": [f"c{n}" for n in range(64)]},
        {"attributes": nested(16)},
        {"idempotency_key": "k" * 256},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_request_at_its_bound_is_decided(bench: Bench, fields: dict[str, object]) -> None:
    """The bounds are inclusive."""
    async with served(bench.service) as stub:
        assert (await stub.Evaluate(request(**fields))).decision_id


async def test_an_action_without_a_message_lacks_its_agent(bench: Bench) -> None:
    """An empty JSON object gets every missing field reported."""
    status, problem = await bench.service.evaluate_json(b'{"action": {"colour": 1}, "dry": true}')
    assert status == 400
    assert {error["path"] for error in problem["errors"]} == {
        "dry",
        "action.colour",
        "action.agent_id",
        "action.action_type",
    }


WHOLE = '{"action": {"agent_id": "billing-reader-test", "action_type": "api.read"}}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b'{"action": []}',
        b'{"action": null}',
        *(WHOLE.encode(code) for code in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig")),
    ],
    ids=lambda body: repr(body)[:20],
)
async def test_an_invalid_request_is_refused_at_the_json_endpoint(bench: Bench, body: bytes) -> None:
    """It gets a 400 with a problem."""
    status, problem = await bench.service.evaluate_json(body)
    assert (status, bool(problem["errors"])) == (400, True)


def test_every_field_of_an_action_is_in_its_digest() -> None:
    """Two actions that differ in one field are two actions for an idempotency key."""
    plain = Action("agent", "api.read")
    others = {
        "agent_id": "other", "action_type": "x", "resource": "x", "resource_id": "x", "risk_score": 0, "amount": 0.0,
        "estimated_cost_micros": 0, "data_classifications": ("x",), "mcp_server": "x", "tool": "x",
        "environment": "x", "attributes": {"x": None}, "mfa_verified": True,
    }  # fmt: skip
    assert set(others) == set(Action.__slots__)
    digests = {digest(plain)}
    for name, value in others.items():
        changed = Action("agent", "api.read")
        setattr(changed, name, value)
        digests.add(digest(changed))
    assert len(digests) == len(others) + 1


async def test_an_explanation_is_that_of_the_decision_and_counts_nothing(bench: Bench) -> None:
    """It has the answer of `Evaluate`, every stage, and what would allow the action."""
    async with served(bench.service) as stub:
        explained = await stub.Explain(pb.ExplainRequest(action=request(risk_score=85).action))
        answer = await stub.Evaluate(request(risk_score=85))
    assert (explained.decision.outcome, explained.decision.reason) == (answer.outcome, answer.reason)
    assert answer.rate_remaining.minute == explained.decision.rate_remaining.minute - 1
    assert [stage.verdict for stage in explained.stages].count(pb.VERDICT_DECIDED) == 1
    assert explained.would_allow


async def test_an_explanation_of_a_malformed_action_is_refused(bench: Bench) -> None:
    """As a decision on it would be."""
    async with served(bench.service) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Explain(pb.ExplainRequest(action=pb.Action(agent_id="billing-reader-test")))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_explanation_reads_the_same_on_both_sides_of_the_wire(bench: Bench) -> None:
    """What `pdp explain` prints is what the sidecar found, to the letter."""
    policy = {
        "policy_id": "p1",
        "policy_name": "Large",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "conditions": {"amount_above": 100, "attribute_equals": {"a.b": 1}},
        "policy_action": "block",
    }
    bench.put(agent(policies=[policy], max_actions_per_minute=0))
    evaluation = bench.service.point.evaluation(Action("billing-reader-test", "api.read", amount=200.0))
    expected = explain(
        evaluation.state.uncompiled("billing-reader-test"), evaluation.action, evaluation.usage, evaluation.now
    )
    assert render(explaining.read(explaining.explained(evaluation))) == render(expected)
    assert "Large" in render(expected)


async def test_a_slow_reader_holds_back_the_decisions(bench: Bench) -> None:
    """Flow control bounds the queue; when it reads again, every request gets its answer."""
    bench.put(agent())
    sent = 5_000
    answered = 0
    async with served(bench.service, SMALL_WINDOW) as stub:
        call = stub.EvaluateStream(iter_of(stream_request(0) for _ in range(sent)))
        decided = await settled(lambda: decisions(bench))
        assert 0 < decided < sent
        async for _ in call:
            answered += 1
    assert answered == sent == decisions(bench)


async def test_a_cancelled_stream_leaves_counts_and_metrics_equal(bench: Bench) -> None:
    """The counts against the limit equal the decisions in the metrics."""
    bench.put(agent(max_actions_per_minute=1_000_000))
    async with served(bench.service, SMALL_WINDOW) as stub:
        call = stub.EvaluateStream(iter_of(stream_request(0) for _ in range(10_000)))
        for _ in range(10):
            await call.read()
        call.cancel()
        await settled(lambda: decisions(bench))
        decided = decisions(bench)
        left = bench.evaluate(read_request(request(dry_run=True))).rate_remaining.minute
    assert 10 <= decided < 10_000
    assert left == 1_000_000 - decided


def decisions(bench: Bench) -> int:
    families = text_string_to_metric_families(bench.metrics.text().decode())
    return int(
        sum(sample.value for family in families for sample in family.samples if sample.name == "pdp_decisions_total")
    )


async def settled(read: Callable[[], int]) -> int:
    """What `read` answers once that has not changed over fifty looks."""
    last, same = read(), 0
    while same < 50:
        await asyncio.sleep(0.01)
        now = read()
        last, same = now, same + 1 if now == last and now else 0
    return last


class Turning(Kept):
    """A decision log that notes in which turn of the event loop each decision was made."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self.turns: list[int] = []

    def append(self, entry: Entry, *, urgent: bool) -> None:
        super().append(entry, urgent=urgent)
        self.turns.append(self.turn)

    async def count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


async def test_a_batch_lets_other_tasks_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of its requests the event loop runs other tasks, as soon as its time is up."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    log = Turning()
    crowded = Bench(log)
    crowded.put(agent(max_actions_per_minute=1_000))
    counting = asyncio.create_task(log.count())
    async with served(crowded.service) as stub:
        answer = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[request()] * 500))
    counting.cancel()
    assert [result.response.reason for result in answer.results] == [pb.REASON_RISK_BELOW_AUTO_APPROVE] * 500
    assert len(set(log.turns)) == 500


async def test_a_large_action_is_read_beside_the_event_loop(bench: Bench) -> None:
    """By every call; its attributes are decoded there too, and it is decided like any other action."""
    large = request(attributes=Struct(fields={"text": {"string_value": "x" * 10_000}}))
    reading = bench.service._reading
    async with served(bench.service) as stub:
        async with reading._turn:
            calls = [
                asyncio.ensure_future(stub.Evaluate(large)),
                asyncio.ensure_future(stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[large]))),
                asyncio.ensure_future(stub.Explain(pb.ExplainRequest(action=large.action))),
            ]
            for _ in range(3):
                assert (await stub.Evaluate(request())).decision_id, "a small one does not wait for the large"
            assert not any(call.done() for call in calls)
        await asyncio.gather(*calls)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("Evaluate", "action: is larger than 65536 bytes"),
        ("Explain", "action: is larger than 65536 bytes"),
        ("WaitForApproval", "approval_id: is longer than 64 characters"),
    ],
)
async def test_a_request_larger_than_an_action_can_be_is_refused_unparsed(bench: Bench, method: str, why: str) -> None:
    """However its bytes would be read: to parse 4 MiB takes a tenth of a second, and nothing else runs meanwhile."""
    async with listening(bench.service) as address, grpc.aio.insecure_channel(address) as channel:
        kind = channel.unary_stream if method == "WaitForApproval" else channel.unary_unary
        call = kind(f"/pdp.v1.PolicyDecisionPoint/{method}")(b"\x0a\x00" * 40_000)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == why


async def test_a_request_too_large_in_a_batch_or_a_stream_has_its_own_error(bench: Bench) -> None:
    """The others are decided."""
    large = request(resource_id="x" * 100_000)
    async with served(bench.service) as stub:
        batch = await stub.EvaluateBatch(pb.EvaluateBatchRequest(requests=[large, request()]))
        stream = stub.EvaluateStream(iter_of([pb.EvaluateStreamRequest(request=large), stream_request(2)]))
        results = [*batch.results, *[answer.result async for answer in stream]]
    assert [result.WhichOneof("result") for result in results] == ["error", "response"] * 2
    assert {result.error.field for result in results} == {"action", ""}


async def test_streams_have_a_separate_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, other calls are answered, and a stream that ends makes room."""
    monkeypatch.setattr(service, "MAX_STREAMS", 3)
    async with served(bench.service) as stub:
        streams = [await opened(stub) for _ in range(3)]
        refused = stub.EvaluateStream()
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await refused.details() == "3 streams are open already"
        assert (await stub.Evaluate(request())).decision_id
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        await opened(stub)


async def test_an_idle_stream_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a status after which a client opens another."""
    monkeypatch.setattr(service, "STREAM_IDLE_SECONDS", 0.05)
    async with served(bench.service) as stub:
        stream = stub.EvaluateStream()
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await stream.details() == "nothing came for 0.05 s: open another stream"


async def test_a_stream_whose_answers_are_not_read_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its place no longer than an idle one."""
    monkeypatch.setattr(service, "STREAM_IDLE_SECONDS", 0.2)
    monkeypatch.setattr(service, "CLOSE_SECONDS", 0.05)
    async with served(bench.service, SMALL_WINDOW) as stub:
        call = stub.EvaluateStream(iter_of(stream_request(0) for _ in range(5_000)))
        await eventually(lambda: decisions(bench) > 0 and not bench.service._streams)
        call.cancel()
    assert decisions(bench) < 5_000


async def test_an_open_stream_ends_with_unavailable_when_the_sidecar_stops(bench: Bench) -> None:
    """UNAVAILABLE, where gRPC would say that it is cancelled."""
    async with served(bench.service) as stub:
        stream = await opened(stub)
        bench.service.end_streams()
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert await stream.details() == "the sidecar is stopping: open another stream"


async def test_a_stream_begins_before_its_first_answer(bench: Bench) -> None:
    """Its initial metadata is sent alone, so that a stop during the first answer still ends it with a status."""
    async with served(bench.service) as stub, asyncio.timeout(BOUND_SECONDS):
        stream = stub.EvaluateStream()
        await stream.initial_metadata()
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK


async def test_explanations_have_a_separate_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound an explanation is refused, and decisions continue."""
    monkeypatch.setattr(service, "MAX_EXPLANATIONS", 2)
    bench = Bench()
    bench.put(agent())
    explain = pb.ExplainRequest(action=request().action)
    async with served(bench.service) as stub:
        async with bench.service._explaining:
            waiting = [asyncio.ensure_future(stub.Explain(explain)) for _ in range(2)]
            await eventually(lambda: bench.service._explanations.taken == 2)
            with pytest.raises(grpc.aio.AioRpcError, match="2 calls wait for explanations already"):
                await stub.Explain(explain)
            assert (await stub.Evaluate(request())).decision_id
        await asyncio.gather(*waiting)


async def opened(stub: PolicyDecisionPointStub) -> grpc.aio.StreamStreamCall:
    """A stream that has had an answer."""
    stream = stub.EvaluateStream()
    await stream.write(stream_request(1))
    assert (await stream.read()).sequence == 1
    return stream
