"""The Connect protocol over real HTTP: the RPCs by clients that nobody here wrote, and what the port refuses."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import pytest
import urllib3
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from urllib3.util import SKIP_HEADER

from pdp.endpoints import connect, http
from pdp.endpoints.listeners import http_listener
from pdp.serving.addresses import Address, bound_address
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from pdp.v1 import decision_pb2 as pb
from registry_store.v1 import sync_pb2
from tests.deciding import Bench
from tests.given import agent
from tests.pdp.endpoints.connecting import Connecting
from tests.pdp.endpoints.test_http import FOREIGN
from tests.waiting import BOUND_SECONDS, eventually

PATH = "/pdp.v1.PolicyDecisionPoint/"
ACTION = {"agentId": "billing-reader-test", "actionType": "api.read", "riskScore": 10}
JSON = {"content-type": "application/json"}
PROTO = {"content-type": "application/proto"}
STREAM = {"content-type": "application/connect+json"}


def request(**fields: Any) -> pb.EvaluateRequest:
    beside = {name: fields.pop(name) for name in ("idempotency_key", "approval_id", "dry_run") if name in fields}
    action = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": 10} | fields
    return pb.EvaluateRequest(action=pb.Action(**action), **beside)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.put(agent(max_actions_per_minute=5))
    return bench


class Reply(NamedTuple):
    """An HTTP answer, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Port:
    """The HTTP port of a service, and bare requests to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.pool = urllib3.PoolManager(retries=False, timeout=BOUND_SECONDS)

    async def post(self, name: str, body: object, headers: Mapping[str, str] = JSON, path: str = PATH) -> Reply:
        """One POST, with JSON or the bytes given as its body; an answer is not decompressed."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://{self.address}{path}{name}"
        sent = {"accept-encoding": SKIP_HEADER} | dict(headers)
        answer = await asyncio.to_thread(self.pool.request, "POST", url, body=data, headers=sent, decode_content=False)
        return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.data)


@asynccontextmanager
async def port(bench: Bench, **how: Any) -> AsyncIterator[Port]:
    listener = http_listener("--http", Address("127.0.0.1", 0))
    app = http.application(bench.service, bench.metrics, lambda: None, **how)
    async with serving(app, listener, Limits(stop_seconds=BOUND_SECONDS)):
        here = Port(bound_address(listener))
        try:
            yield here
        finally:
            here.pool.clear()


FORMS = [{"is_json": is_json, "is_gzip": is_gzip} for is_json in (False, True) for is_gzip in (False, True)]


@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_every_unary_rpc_answers(bench: Bench, form: dict[str, bool]) -> None:
    """As gRPC does: one decision, a batch that is counted one after the other, an explanation."""
    async with port(bench) as here:
        client = Connecting(here.address, **form)
        one = await client.call("Evaluate", request(attributes=Struct()))
        assert (one.outcome, one.rate_remaining.minute) == (pb.OUTCOME_ALLOW, 4)
        batch = await client.call("EvaluateBatch", pb.EvaluateBatchRequest(requests=[request(), request(amount=-1)]))
        assert batch.results[0].response.rate_remaining.minute == 3
        assert batch.results[1].error.field == "action.amount"
        explained = await client.call("Explain", pb.ExplainRequest(action=request().action))
        assert (explained.decision.outcome, explained.stages[0].verdict) == (pb.OUTCOME_ALLOW, pb.VERDICT_PASSED)


async def test_the_methods_are_those_of_the_descriptor(bench: Bench) -> None:
    """Whatever RPC gRPC serves is served here, without a list of its own."""
    methods = connect.methods(bench.service.handlers())
    assert set(methods) == {
        PATH + name for name in pb.DESCRIPTOR.services_by_name["PolicyDecisionPoint"].methods_by_name
    }
    assert [method.name for method in methods.values() if method.handler is None] == ["EvaluateStream"]


async def test_the_answer_in_json_is_protobufs(bench: Bench) -> None:
    """Its names, enum values and numbers; null and the proto's names are taken in a request."""
    fields = {"agent_id": "billing-reader-test", "action_type": "api.read", "risk_score": "10", "amount": None}
    async with port(bench) as here:
        reply = await here.post("Evaluate", {"action": fields, "dry_run": True})
        raw = await here.post("Evaluate", request(dry_run=True).SerializeToString(), PROTO)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    expected = MessageToDict(pb.EvaluateResponse.FromString(raw.body))
    assert reply.json() | {"decisionId": ""} == expected | {"decisionId": ""}
    assert (reply.json()["outcome"], reply.json()["registryRevision"]) == ("OUTCOME_ALLOW", "1")


WRONG = [
    ({"action": ACTION | {"surprise": 1}}, "action.surprise: unknown field"),
    ({"action": ACTION | {"riskScore": 101}}, "action.risk_score: `101` is not within 0 to 100"),
    ({"action": ACTION | {"riskScore": "high"}}, "action.risk_score: `high` is not of type `int32`"),
    ({"action": ACTION | {"riskScore": 1.5}}, "action.risk_score: `1.5` is not of type `int32`"),
    ({"action": ACTION | {"agentId": 7}}, "action.agent_id: `7` is not of type `string`"),
    ({"action": ACTION | {"agent_id": "other"}}, "action.agent_id: is given as `agent_id` and as `agentId`"),
    (
        {"action": ACTION | {"dataClassifications": "pii"}},
        "action.data_classifications: `pii` is not a list of `string`",
    ),
    ({"action": ACTION | {"attributes": []}}, "action.attributes: `[]` is not of type `google.protobuf.Struct`"),
    ({"action": []}, "action: `[]` is not an object"),
    ({}, "action.agent_id: is required"),
    ([], "request: `[]` is not an object"),
    (b"", "request: is not JSON: "),
    (b'{"action": 1, "action": 2}', "request: is not JSON: duplicate name `action` in an object"),
    (b"[" * 60_000, "request: is not JSON: it is nested too deep"),
]


@pytest.mark.parametrize(("body", "message"), WRONG, ids=lambda value: str(value)[-40:])
async def test_a_malformed_request_in_json_names_the_field(bench: Bench, body: object, message: str) -> None:
    """By the name that the contract has, and nothing is counted."""
    async with port(bench) as here:
        reply = await here.post("Evaluate", body)
        left = (await here.post("Evaluate", {"action": ACTION})).json()["rateRemaining"]["minute"]
    assert (reply.status, reply.json()["code"], left) == (400, "invalid_argument", "4")
    assert reply.json()["message"].startswith(message)


async def test_one_malformed_item_of_a_batch_in_json_refuses_it_whole(bench: Bench) -> None:
    """Under its number, for it cannot be told what the item is; one that is only out of range has its own error."""
    async with port(bench) as here:
        reply = await here.post("EvaluateBatch", {"requests": [{"action": ACTION}, {"action": {"amount": []}}]})
        own = await here.post("EvaluateBatch", {"requests": [{"action": ACTION}, {"action": {"amount": -1}}]})
    assert (reply.status, reply.json()["message"]) == (400, "requests[1].action.amount: `[]` is not of type `double`")
    assert [list(result) for result in own.json()["results"]] == [["response"], ["error"]]
    assert own.json()["results"][0]["response"]["rateRemaining"]["minute"] == "4"


HEADS = [
    (JSON | {"connect-protocol-version": "1"}, 200, None),
    (JSON | {"connect-protocol-version": "2"}, 400, "invalid_argument"),
    (JSON | {"content-type": "application/json; charset=utf-8"}, 200, None),
    (JSON | {"connect-timeout-ms": "9999999999"}, 200, None),
    (JSON | {"connect-timeout-ms": "10000000000"}, 400, "invalid_argument"),
    (JSON | {"connect-timeout-ms": "0"}, 400, "invalid_argument"),
    (JSON | {"connect-timeout-ms": "-5"}, 400, "invalid_argument"),
    (JSON | {"connect-timeout-ms": "1e3"}, 400, "invalid_argument"),
    (JSON | {"content-encoding": "identity"}, 200, None),
    (JSON | {"content-encoding": "br"}, 501, "unimplemented"),
    (JSON | {"content-encoding": "gzip"}, 400, "invalid_argument"),
]


@pytest.mark.parametrize(("headers", "status", "code"), HEADS, ids=str)
async def test_the_head_of_a_call_is_checked(
    bench: Bench, headers: dict[str, str], status: int, code: str | None
) -> None:
    """The version, the time, the encodings; the body here is not compressed."""
    async with port(bench) as here:
        reply = await here.post("Evaluate", {"action": ACTION}, headers)
    assert (reply.status, reply.json().get("code")) == (status, code)


async def test_what_is_no_call_gets_the_status_that_connect_says(bench: Bench) -> None:
    """404, 405 and 415, which a client turns into a code of its own; a parameter is refused as everywhere."""
    async with port(bench) as here:
        assert (await here.post("Nothing", {})).status == 404
        other = await here.post("Evaluate", b"", {"content-type": "application/x-www-form-urlencoded"})
        assert (other.status, other.headers["accept-post"]) == (415, "application/proto, application/json")
        assert (await here.post("Evaluate", b"", STREAM)).status == 415
        assert (await here.post("WaitForApproval", b"", JSON)).status == 415
        got = await asyncio.to_thread(here.pool.request, "GET", f"http://{here.address}{PATH}Evaluate")
        assert (got.status, got.headers["allow"]) == (405, "POST")
        asked = await here.post("Evaluate?dry_run=true", {"action": ACTION})
    assert (asked.status, asked.json()["message"]) == (400, "dry_run: unknown parameter")


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_web_pages_of_other_origins_are_refused(bench: Bench, headers: dict[str, str]) -> None:
    """As they are at `/v1/evaluate`, and nothing is counted."""
    async with port(bench) as here:
        assert (await here.post("Evaluate", {"action": ACTION}, JSON | headers)).status == 403
        left = (await here.post("Evaluate", {"action": ACTION})).json()["rateRemaining"]["minute"]
    assert left == "4"


async def test_errors_of_the_service_have_their_code_and_status(bench: Bench) -> None:
    """No registry data, a wrong field, a key that is repeated too often, an RPC that needs gRPC."""
    async with port(Bench()) as here:
        reply = await here.post("Evaluate", {"action": ACTION})
        assert (reply.status, reply.json()["code"]) == (503, "unavailable")
    async with port(bench) as here:
        client = Connecting(here.address)
        body = json.dumps(
            {"action": MessageToDict(request().action, preserving_proto_field_name=True)} | {"idempotency_key": "k"}
        )
        for _ in range(101):
            assert (await bench.service.evaluate_json(body.encode()))[0] == 200
        with pytest.raises(ConnectError) as refusal:
            await client.call("Evaluate", request(idempotency_key="k"))
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED
        with pytest.raises(ConnectError, match="risk_score") as refusal:
            await client.call("Evaluate", request(risk_score=101))
        assert refusal.value.code is Code.INVALID_ARGUMENT
        stream = await here.post("EvaluateStream", b"", STREAM)
    assert json.loads(stream.body[5:])["error"]["code"] == "unimplemented"


async def test_a_fault_is_never_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is `internal`, tells nothing of the inside, and is logged."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(bench.service.point, "evaluate", fail)
    async with port(bench) as here:
        reply = await here.post("Evaluate", {"action": ACTION})
    assert (reply.status, reply.json()) == (500, {"code": "internal", "message": "the call failed in the sidecar"})


async def test_a_call_ends_when_its_time_is_over(bench: Bench) -> None:
    """With `deadline_exceeded`; the store never answers here."""
    bench.people.granted.add("a")
    asked = asyncio.Event()

    async def silent(_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    bench.people.use_approval = silent  # type: ignore[assignment,method-assign]
    body = {"action": ACTION | {"riskScore": 50}, "approvalId": "a"}
    async with port(bench) as here:
        reply = await here.post("Evaluate", body, JSON | {"connect-timeout-ms": "20"})
    assert (reply.status, reply.json()["code"], asked.is_set()) == (504, "deadline_exceeded", True)


@pytest.mark.parametrize(
    ("sent", "accepted", "is_gzip"),
    [
        (False, None, False),
        (True, None, True),
        (True, "identity", False),
        (False, "gzip", True),
        (False, "br, GZIP;q=0.5", True),
        (False, "identity, gzip", False),
        (False, "gzip;q=0", False),
        (False, "*", False),
    ],
)
async def test_a_large_answer_is_compressed_where_the_caller_takes_it(
    bench: Bench, sent: bool, accepted: str | None, is_gzip: bool
) -> None:
    """The first of gzip and identity counts; without a word of it, what the request is in."""
    body = pb.EvaluateBatchRequest(requests=[request()] * 50).SerializeToString()
    headers = (
        PROTO | ({"content-encoding": "gzip"} if sent else {}) | ({"accept-encoding": accepted} if accepted else {})
    )
    async with port(bench) as here:
        reply = await here.post("EvaluateBatch", gzip.compress(body) if sent else body, headers)
    assert (reply.status, reply.headers.get("content-encoding")) == (200, "gzip" if is_gzip else None)
    answer = pb.EvaluateBatchResponse.FromString(gzip.decompress(reply.body) if is_gzip else reply.body)
    assert len(answer.results) == 50


async def test_a_small_answer_is_not_compressed(bench: Bench) -> None:
    """It would cost more than the decision."""
    async with port(bench) as here:
        reply = await here.post("Evaluate", {"action": ACTION}, JSON | {"accept-encoding": "gzip"})
    assert (reply.status, "content-encoding" in reply.headers) == (200, False)


def lying(packed: bytes, size: int) -> bytes:
    """Gzip that says another size than it has."""
    return packed[:-4] + size.to_bytes(4, "little")


PACKED_BOMB = gzip.compress(b"\0" * (8 << 20))
GZIPPED = [
    ("Evaluate", PACKED_BOMB, 429, "the request is larger than 524288 bytes"),
    ("EvaluateBatch", PACKED_BOMB, 429, "the request is larger than 4194304 bytes"),
    ("Evaluate", lying(PACKED_BOMB, 100), 400, "the request is not one whole gzip member"),
    ("Evaluate", lying(gzip.compress(b"\0" * 100), 5), 400, "the request is not one whole gzip member"),
    ("Evaluate", gzip.compress(b"") * 2, 400, "the request is not one whole gzip member"),
    ("Evaluate", gzip.compress(b"x" * 100)[:-9] + b"\0" * 8, 400, "the request is not one whole gzip member"),
    ("Evaluate", gzip.compress(b"x")[:10] + b"\xff" * 8 + b"\1\0\0\0", 400, "the request is not gzip"),
    ("Evaluate", zlib.compress(b"x"), 400, "the request is not gzip"),
    ("Evaluate", b"x", 400, "the request is not gzip"),
]


@pytest.mark.parametrize(("name", "body", "status", "message"), GZIPPED, ids=range(len(GZIPPED)))
async def test_hostile_gzip_is_refused(bench: Bench, name: str, body: bytes, status: int, message: str) -> None:
    """Before it is decompressed, or as soon as it is larger than it says."""
    async with port(bench) as here:
        reply = await here.post(name, body, PROTO | {"content-encoding": "gzip"})
        assert (reply.status, reply.json()["message"][: len(message)]) == (status, message)
        assert (await here.post("Evaluate", {"action": ACTION})).status == 200


async def test_an_empty_body_is_never_decompressed(bench: Bench) -> None:
    """It is the empty message."""
    async with port(bench) as here:
        reply = await here.post("EvaluateBatch", b"", PROTO | {"content-encoding": "gzip"})
    assert (reply.status, reply.body) == (200, b"")


LARGE = [
    ("Evaluate", b" " * (connect.MAX_BYTES + 1), JSON, 429, "the request is larger than 524288 bytes"),
    ("EvaluateBatch", b" " * (connect.MAX_BATCH_BYTES + 1), PROTO, 429, "the request is larger than 4194304 bytes"),
    ("Evaluate", b" " * 100_000, PROTO, 400, "action: is larger than 65536 bytes"),
    ("Evaluate", b"[" * 100_000, JSON, 400, "action: is larger than 65536 bytes"),
    ("EvaluateBatch", b"[" * 600_000, JSON, 400, "request: has too many values"),
    (
        "Evaluate",
        json.dumps({"action": ACTION | {"attributes": {"a": [0] * 40_000}}}, separators=(",", ":")).encode(),
        JSON,
        400,
        "action.attributes: is larger than 65536 bytes",
    ),
    (
        "EvaluateBatch",
        json.dumps({"requests": [{"action": {"attributes": {"a": [0] * 40_000}}}] * 2}, separators=(",", ":")).encode(),
        JSON,
        400,
        "requests[0].action.attributes: is larger than 65536 bytes",
    ),
    ("EvaluateBatch", {"requests": [{}] * 1001}, JSON, 400, "requests: has more than 1000 items"),
]


@pytest.mark.parametrize(
    ("name", "body", "headers", "status", "message"), LARGE, ids=lambda value: str(value)[:40].strip()
)
async def test_the_bounds_of_a_request_hold(  # noqa: PLR0917 - one row
    bench: Bench, name: str, body: object, headers: dict[str, str], status: int, message: str
) -> None:
    """Of its bytes, and of what they hold."""
    async with port(bench) as here:
        reply = await here.post(name, body, headers)
    assert (reply.status, reply.json()["message"]) == (status, message)


async def test_large_requests_take_turns_and_places(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of a thousand in JSON is answered; where no place is left, `resource_exhausted`."""
    attributes = {"text": "x" * 600}
    body = {"requests": [{"action": ACTION | {"attributes": attributes}, "dryRun": True}] * 1000}
    async with port(bench) as here:
        reply = await here.post("EvaluateBatch", body, JSON | {"accept-encoding": "gzip"})
    assert len(json.loads(gzip.decompress(reply.body))["results"]) == 1000
    monkeypatch.setattr(connect, "MAX_LARGE", 0)
    async with port(bench) as here:
        refused = await here.post("EvaluateBatch", body)
        assert (refused.status, refused.json()["code"]) == (429, "resource_exhausted")
        packed = gzip.compress(json.dumps(body).encode())
        assert (await here.post("EvaluateBatch", packed, JSON | {"content-encoding": "gzip"})).status == 429
        assert (await here.post("EvaluateBatch", {"requests": [{"action": ACTION}]})).status == 200


@pytest.mark.parametrize("is_json", [False, True])
async def test_an_approval_is_waited_for_in_a_server_stream(bench: Bench, is_json: bool) -> None:
    """Each state as it comes, until the final one."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    states = []
    async with port(bench) as here:
        client = Connecting(here.address, is_json=is_json, is_gzip=is_json)
        async for update in client.updates(pb.WaitForApprovalRequest(approval_id="a")):
            states.append(update.state)
            if update.state == pb.APPROVAL_STATE_PENDING:
                bench.people.say("a", sync_pb2.APPROVAL_STATE_APPROVED, decided_by="ann", comment="fine")
    assert states == [pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_APPROVED]
    assert (update.decided_by, update.comment) == ("ann", "fine")


async def test_a_stream_ends_with_the_error(bench: Bench) -> None:
    """Unknown, malformed, over time, without a place: HTTP 200 with the code in its last message."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    async with port(bench) as here:
        client = Connecting(here.address)
        with pytest.raises(ConnectError, match="approval `b` is unknown") as unknown:
            await anext(client.updates(pb.WaitForApprovalRequest(approval_id="b")))
        assert unknown.value.code is Code.NOT_FOUND
        waiting = b"\0" + (18).to_bytes(4, "big") + b'{"approvalId":"a"}'
        over = await here.post("WaitForApproval", waiting, STREAM | {"connect-timeout-ms": "20"})
        state, end = over.body.split(b"}", 1)
        assert b"APPROVAL_STATE_PENDING" in state
        assert json.loads(end[5:])["error"]["code"] == "deadline_exceeded"
    async with port(bench, max_waiting=0) as here:
        with pytest.raises(ConnectError) as crowded:
            await anext(Connecting(here.address).updates(pb.WaitForApprovalRequest(approval_id="a")))
        assert crowded.value.code is Code.RESOURCE_EXHAUSTED


ENVELOPES = [
    b"",
    b"\0\0\0\0",
    b"\0\0\0\0\x03{}",
    b"\0\0\0\0\x02{}\0\0\0\0\x02{}",
    b"\x02\0\0\0\x02{}",
    b"\x80\0\0\0\x02{}",
    b"\x01\0\0\0\x02{}",
    b"\0\xff\xff\xff\xff",
    b"\0\0\0\0\x02[]",
    b'\0\0\0\0\x11{"approval":"a  "}',
]


@pytest.mark.parametrize("body", ENVELOPES, ids=repr)
async def test_a_malformed_envelope_is_refused(bench: Bench, body: bytes) -> None:
    """One message, whole, with flags that the protocol knows."""
    async with port(bench) as here:
        reply = await here.post("WaitForApproval", body, STREAM)
    assert (reply.status, reply.body[0]) == (200, 2)
    assert json.loads(reply.body[5:])["error"]["code"] == "invalid_argument"


async def test_a_client_that_leaves_ends_its_wait(bench: Bench) -> None:
    """And the place is free again."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    async with port(bench, max_waiting=1) as here:
        client = Connecting(here.address)
        async with aclosing(client.updates(pb.WaitForApprovalRequest(approval_id="a"))) as updates:  # type: ignore[type-var]
            assert (await anext(updates)).state == pb.APPROVAL_STATE_PENDING
            assert bench.service.approvals.waiting == 1
        await eventually(lambda: bench.service.approvals.waiting == 0)
        assert (await anext(client.updates(pb.WaitForApprovalRequest(approval_id="a")))).approval_id == "a"


async def test_a_stop_ends_the_waits(bench: Bench) -> None:
    """`unavailable`: the client waits at another sidecar."""
    bench.people.say("a", sync_pb2.APPROVAL_STATE_PENDING)
    async with port(bench) as here:
        updates = Connecting(here.address).updates(pb.WaitForApprovalRequest(approval_id="a"))
        assert (await anext(updates)).state == pb.APPROVAL_STATE_PENDING
        bench.service.stop_waiting()
        with pytest.raises(ConnectError, match="stopping") as stopped:
            await anext(updates)
    assert stopped.value.code is Code.UNAVAILABLE
