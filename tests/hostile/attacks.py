"""What an attacker without rights tries against a sidecar and the store: each attack is a function of one table.

`python -m tests.hostile.attacks --seconds 2 --seed 7 NAME…` reads a `Target` as JSON from standard input, runs the
attacks one after the other and prints a `Tally` as JSON: the decisions it was given, and what should not have been.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct

from pdp.v1 import decision_pb2 as pdp_pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from registry_store.v1 import sync_pb2 as pb
from tests.hostile.installation import HONEST, SUSPENDED, Target

CALL_SECONDS = 30
EXCHANGE_SECONDS = 10
MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024
FORBIDDEN_CODES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
OF_THE_CLIENT = ("RST_STREAM", "Internal error from Core")
"""What gRPC's client makes of a call that the server ended before all of it was sent."""
ALLOWED_REPEATS = 100


@dataclass
class Tally:
    """What an attack was given and what it found."""

    decisions: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    calls: int = 0

    def saw(self, holds: bool, finding: str) -> None:
        self.calls += 1
        if not holds:
            self.findings.append(finding[:500])

    def decided(self, response: pdp_pb.EvaluateResponse, agent_id: str) -> None:
        self.decisions.append(response.decision_id)
        is_allow = response.outcome == pdp_pb.OUTCOME_ALLOW
        self.saw(not (is_allow and agent_id == SUSPENDED), f"{SUSPENDED} was allowed: {response.decision_id}")


@dataclass
class Attacker:
    """One attack under way: whom it is against, its chances, and until when."""

    target: Target
    tally: Tally
    random: random.Random
    until: float

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    @asynccontextmanager
    async def sidecar(self) -> AsyncIterator[PolicyDecisionPointStub]:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 64 << 20)]
        async with grpc.aio.insecure_channel(self.target.grpc, options=options) as channel:
            yield PolicyDecisionPointStub(channel)

    @asynccontextmanager
    async def raw(self, address: str) -> AsyncIterator[Callable[..., Awaitable[grpc.StatusCode]]]:
        """Calls a method with bytes, and gives the status; INTERNAL and UNKNOWN are findings."""
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:

            async def call(method: str, raw: bytes, metadata: Any = ()) -> grpc.StatusCode:
                code, details = await _status(channel, method, raw, metadata)
                is_told = (
                    code not in FORBIDDEN_CODES or "RST_STREAM" in details or details == "Internal error from Core"
                )
                self.tally.saw(is_told, f"{method} answered {code.name}, {details}, to {raw[:80]!r}")
                return code

            yield call

    async def post(self, address: str, path: str, body: bytes, *headers: str) -> tuple[int, bytes]:
        """One POST on a connection of its own: the status and the answer, (0, b"") where there is none."""
        head = [f"POST {path} HTTP/1.1", f"Host: {address}", "Connection: close", f"Content-Length: {len(body)}"]
        request = "\r\n".join([*head, *headers, "", ""]).encode() + body
        status, answer = await exchange(address, request)
        self.tally.saw(status not in (500, 502), f"POST {path} answered {status} to {body[:80]!r}")
        return status, answer

    async def post_json(self, body: bytes, *headers: str) -> tuple[int, bytes]:
        """A body to `/v1/evaluate`; a decision in the answer is taken note of."""
        status, answer = await self.post(self.target.http, "/v1/evaluate", body, *headers)
        self.tally.saw(len(answer) <= MAX_ANSWER_BYTES, f"an answer of {len(answer)} bytes to {len(body)}")
        if status == 200:
            self.tally.decisions.append(json.loads(answer)["decision_id"])
        return status, answer


Attack = Callable[[Attacker], Awaitable[None]]


async def exchange(address: str, request: bytes) -> tuple[int, bytes]:
    """The status and body of the first answer to raw bytes; (0, b"") where the peer only closes, or says nothing."""
    host, port = address.rsplit(":", 1)
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(EXCHANGE_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port), limit=MAX_HEAD_BYTES)
            try:
                with suppress(OSError):  # it may refuse before it has read all
                    writer.write(request)
                    await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
                body = await (reader.readexactly(int(length[1])) if length else reader.read())
            finally:
                writer.close()
        return int(head[9:12]), body
    return 0, b""


async def _status(channel: grpc.aio.Channel, method: str, raw: bytes, metadata: Any) -> tuple[grpc.StatusCode, str]:
    call = channel.stream_stream(method)(metadata=metadata, timeout=CALL_SECONDS)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(raw)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code(), await call.details() or ""


def action(agent_id: str = HONEST, **fields: Any) -> pdp_pb.EvaluateRequest:
    values = {"action_type": "api.read", "resource": "data", "risk_score": 1} | fields
    return pdp_pb.EvaluateRequest(action=pdp_pb.Action(agent_id=agent_id, **values))


async def unknown_names(attack: Attacker) -> None:
    """Bodies of 290,000 names that no action has, from four clients."""
    body = json.dumps({f"n{number}": 0 for number in range(290_000)}).encode()

    async def client() -> None:
        while attack.goes_on:
            await attack.post_json(body)

    await asyncio.gather(*(client() for _ in range(4)))


async def many_problems(attack: Attacker) -> None:
    """Actions that are as wrong as they can be within the size of an action."""
    while attack.goes_on:
        names = {f"n{attack.random.random()}" * 3: [] for _ in range(900)}
        wrong = {
            "action": {"agent_id": "x" * 60_000, "risk_score": "high", "data_classifications": [1] * 9000, **names}
        }
        status, _ = await attack.post_json(json.dumps(wrong).encode())
        attack.tally.saw(status in (400, 413), f"a wrong action was answered {status}")


async def large_numbers(attack: Attacker) -> None:
    """Attributes of numbers that have 309 digits when they are written out, by both endpoints."""
    attributes = Struct()
    attributes.update({"n": [1e308 * attack.random.random() for _ in range(4_500)]})
    body = {"action": {"agent_id": HONEST, "action_type": "api.read", "attributes": {"n": [1e300] * 4_000}}}
    async with attack.sidecar() as stub:
        while attack.goes_on:
            response = await stub.Evaluate(action(attributes=attributes), timeout=CALL_SECONDS)
            attack.tally.decided(response, HONEST)
            await attack.post_json(json.dumps(body).encode())


async def large_batches(attack: Attacker) -> None:
    """Batches of 1,000 actions and 3.3 MB."""
    attributes = Struct()
    attributes.update({"text": "\u0001é" * 1_000})
    batch = pdp_pb.EvaluateBatchRequest(requests=[action(attributes=attributes)] * 1_000)
    async with attack.sidecar() as stub:
        while attack.goes_on:
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.EvaluateBatch(batch, timeout=CALL_SECONDS)
                for result in answer.results:
                    if result.HasField("response"):
                        attack.tally.decided(result.response, HONEST)


async def explanations(attack: Attacker) -> None:
    """Explanations of large actions, many at once."""
    attributes = Struct()
    attributes.update({f"k{number}": {"inner": [number] * 5} for number in range(500)})
    request = pdp_pb.ExplainRequest(action=action(attributes=attributes).action)
    async with attack.sidecar() as stub:
        while attack.goes_on:
            calls = [stub.Explain(request, timeout=CALL_SECONDS) for _ in range(20)]
            await asyncio.gather(*calls, return_exceptions=True)


async def silent_connections(attack: Attacker) -> None:
    """Connections that send nothing, to both programs, as many as this process may open."""
    await _hold(attack, b"", 1_100)


async def half_heads(attack: Attacker) -> None:
    """Requests whose head never ends."""
    await _hold(attack, b"POST /v1/evaluate HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", 300)


async def half_bodies(attack: Attacker) -> None:
    """Requests whose body never ends."""
    await _hold(attack, b'POST /v1/evaluate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{"action"', 300)


async def _hold(attack: Attacker, sent: bytes, each: int) -> None:
    held: list[socket.socket] = []
    try:
        for address in (attack.target.http, attack.target.store_http):
            host, port = address.rsplit(":", 1)
            for _ in range(each):
                with suppress(OSError):
                    one = socket.create_connection((host, int(port)), timeout=1)
                    held.append(one)
                    one.sendall(sent)
        while attack.goes_on:
            await asyncio.sleep(0.1)
            for address in (attack.target.http, attack.target.store_http):
                host = f"GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                status, _ = await exchange(address, host.encode())
                attack.tally.saw(status == 200, f"the probe of {address} was answered {status} beside idle connections")
    finally:
        for one in held:
            one.close()


async def malformed_http(attack: Attacker) -> None:
    """Requests that HTTP forbids, and those that two readers could read as two things."""
    host = "Host: 127.0.0.1\r\n"
    requests = [
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n",
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        f"GET /metrics HTTP/1.1\r\n{host}" + "X: " + "y" * 100_000 + "\r\n\r\n",
        f"GET /metrics HTTP/1.1\r\n{host}" + "".join(f"X{n}: y\r\n" for n in range(5_000)) + "\r\n",
        "GET /" + "a" * 100_000 + " HTTP/1.1\r\n\r\n",
        "\0\1\2\3\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        f"TRACE /v1/evaluate HTTP/1.1\r\n{host}\r\n",
    ]
    while attack.goes_on:
        for address in (attack.target.http, attack.target.store_http):
            for request in requests:
                status, _ = await exchange(address, request.encode() + b"")
                attack.tally.saw(status < 500 and status != 200, f"{request[:80]!r} was answered {status}")


async def strange_json(attack: Attacker) -> None:
    """Texts that some readers of JSON take: other encodings, repeated names, half pairs, numbers beyond doubles."""
    good = json.dumps({"action": {"agent_id": HONEST, "action_type": "api.read"}})
    bodies = [
        good.encode("utf-16"),
        good.encode("utf-32-le"),
        b"\xef\xbb\xbf" + good.encode(),
        good.replace("}}", ',"agent_id":"other-agent"}}').encode(),
        good.replace("}}", ',"amount":NaN}}').encode(),
        good.replace("}}", ',"amount":1e999}}').encode(),
        good.replace("}}", ',"attributes":{"x":"\\ud800"}}}').encode(),
        b"[" * 200_000,
        b'{"action":' * 50_000,
        good.encode() + b"\0",
        b'{"action":{"agent_id":"honest-agent","action_type":"api.read","risk_score":' + b"9" * 60_000 + b"}}",
    ]
    while attack.goes_on:
        for body in bodies:
            status, _ = await attack.post_json(body)
            attack.tally.saw(status in (400, 413), f"{body[:60]!r} was answered {status}")


async def foreign_pages(attack: Attacker) -> None:
    """Requests as a web page of another site can make a browser send them, and by a name of its own."""
    body = json.dumps({"action": {"agent_id": HONEST, "action_type": "api.read"}}).encode()
    while attack.goes_on:
        for header in ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"):
            status, _ = await attack.post_json(body, header, "Content-Type: text/plain")
            attack.tally.saw(status == 403, f"a page with `{header}` was answered {status}")
        request = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        status, _ = await exchange(attack.target.http, request)
        attack.tally.saw(status in (400, 403, 421), f"a foreign Host was answered {status}")


async def random_messages(attack: Attacker) -> None:
    """Random and damaged bytes to each method of both programs."""
    sidecar = "/pdp.v1.PolicyDecisionPoint/"
    store = "/registry_store.v1.RegistrySync/"
    whole = action(attributes=Struct()).SerializeToString()
    key = (("authorization", f"Bearer {attack.target.intruder_key}"),)
    async with attack.raw(attack.target.grpc) as to_sidecar, attack.raw(attack.target.store_grpc) as to_store:
        while attack.goes_on:
            raw = bytearray(attack.random.randbytes(attack.random.randrange(200)) or whole)
            if attack.random.random() < 0.5:
                raw = bytearray(whole)
                raw[attack.random.randrange(len(raw))] = attack.random.randrange(256)
            for method in ("Evaluate", "EvaluateBatch", "EvaluateStream", "Explain", "WaitForApproval", "None"):
                if method != "WaitForApproval" or len(raw) > 70:  # a plausible id waits for as long as it may
                    await to_sidecar(sidecar + method, bytes(raw))
            for method in ("Sync", "ReportDecisions", "UseApproval", "WatchApproval"):
                code = await to_store(store + method, bytes(raw))
                # A call that is refused before its message is read may end in a reset of its stream, which is INTERNAL.
                refused = code in (
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    grpc.StatusCode.INTERNAL,
                )
                attack.tally.saw(refused, f"{method} without a key was answered {code.name}")
                if method != "Sync":
                    await to_store(store + method, bytes(raw), key)


async def idle_streams(attack: Attacker) -> None:
    """Streams that send nothing, more than all calls that a sidecar takes at once, on one connection and on many."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        for streams in (10_500, *[250] * 41):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(attack.target.grpc, options=options))
            stub = PolicyDecisionPointStub(channel)
            for _ in range(streams):
                stack.callback(stub.EvaluateStream().cancel)
        async with attack.sidecar() as other:
            while attack.goes_on:
                try:
                    attack.tally.decided(await other.Evaluate(action(), timeout=CALL_SECONDS), HONEST)
                except grpc.aio.AioRpcError as error:
                    attack.tally.saw(False, f"Evaluate beside idle streams: {error.code().name}: {error.details()}")
                await asyncio.sleep(0.05)


async def repeats(attack: Attacker) -> None:
    """One idempotency key, again and again: no more answers than are bounded, each with a record of its own."""
    async with attack.sidecar() as stub:
        while attack.goes_on:
            request = action()
            request.idempotency_key = f"key-{attack.random.random()}"
            answered = refused = 0
            for _ in range(150):
                try:
                    response = await stub.Evaluate(request, timeout=CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                else:
                    answered += 1
                    attack.tally.decided(response, HONEST)
            within = ALLOWED_REPEATS <= answered <= ALLOWED_REPEATS + 1
            attack.tally.saw(
                within and answered + refused == 150, f"{answered} answers and {refused} refusals to a key"
            )


async def suspended_actions(attack: Attacker) -> None:
    """Actions of a suspended agent, by each endpoint and with approvals that nobody gave."""
    async with attack.sidecar() as stub:
        while attack.goes_on:
            request = action(SUSPENDED)
            request.idempotency_key = attack.random.choice(("", "same"))
            request.approval_id = attack.random.choice(("", "0190b3f0-0000-7000-8000-000000000000"))
            with suppress(grpc.aio.AioRpcError):
                attack.tally.decided(await stub.Evaluate(request, timeout=CALL_SECONDS), SUSPENDED)


async def foreign_reports(attack: Attacker) -> None:
    """Records under another sidecar's node id, far ahead, and of agents that are not this key's."""
    key = (("authorization", f"Bearer {attack.target.intruder_key}"),)
    async with grpc.aio.insecure_channel(attack.target.store_grpc) as channel:
        report = channel.unary_unary(
            "/registry_store.v1.RegistrySync/ReportDecisions",
            request_serializer=pb.ReportDecisionsRequest.SerializeToString,
            response_deserializer=pb.ReportDecisionsResponse.FromString,
        )
        while attack.goes_on:
            gap = b'{"gap":{"at":"2026-01-01T00:00:00Z","first_sequence":1,"last_sequence":9,"records":9}}'
            for node, sequence in ((attack.target.victim_node, 1 << 48), ("node-of-the-intruder", 1 << 48)):
                record = pb.DecisionRecord(sequence=sequence, document=gap, previous_hash=bytes(32), hash=bytes(32))
                try:
                    await report(pb.ReportDecisionsRequest(node_id=node, records=[record]), metadata=key, timeout=30)
                    attack.tally.saw(False, f"a record {sequence} of {node} was kept")
                except grpc.aio.AioRpcError as error:
                    attack.tally.saw(error.code() not in FORBIDDEN_CODES, f"reporting: {error.code().name}")


async def wrong_keys(attack: Attacker) -> None:
    """Guesses at the victim's key, over REST and over gRPC."""
    async with attack.raw(attack.target.store_grpc) as to_store:
        while attack.goes_on:
            guess = f"owkai_{attack.target.victim_key_id}_{attack.random.getrandbits(256):064x}"
            metadata = (("authorization", f"Bearer {guess}"),)
            await to_store("/registry_store.v1.RegistrySync/ReportDecisions", b"", metadata)
            status, _ = await attack.post(
                attack.target.store_http, "/api/keys", b"{}", f"Authorization: Bearer {guess}"
            )
            attack.tally.saw(status in (401, 429), f"a wrong key was answered {status}")


async def large_store_bodies(attack: Attacker) -> None:
    """Bodies of 1 MiB, as wrong as they can be, under a key that may hardly do anything, and without one."""
    body = json.dumps({f"n{number}": 0 for number in range(90_000)}).encode()[: 1 << 20]
    while attack.goes_on:
        for header in (f"Authorization: Bearer {attack.target.viewer_key}", "X: y"):
            status, answer = await attack.post(attack.target.store_http, "/api/agents/registry", body, header)
            attack.tally.saw(status in (400, 401, 403, 413, 422), f"a large body was answered {status}")
            attack.tally.saw(len(answer) <= MAX_ANSWER_BYTES, f"the store answered {len(answer)} bytes")


async def guessed_approvals(attack: Attacker) -> None:
    """Waiting for approvals of others, by ids that are guessed."""
    async with attack.sidecar() as stub:
        while attack.goes_on:
            approval_id = f"0190b3f0-{attack.random.getrandbits(16):04x}-7000-8000-{attack.random.getrandbits(48):012x}"
            try:
                call = stub.WaitForApproval(pdp_pb.WaitForApprovalRequest(approval_id=approval_id), timeout=5)
                update = await call.read()
                attack.tally.saw(update is grpc.aio.EOF, "an approval that nobody asked for was told of")
            except grpc.aio.AioRpcError as error:
                attack.tally.saw(error.code() not in FORBIDDEN_CODES, f"waiting: {error.code().name}")


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        unknown_names,
        many_problems,
        large_numbers,
        large_batches,
        explanations,
        silent_connections,
        half_heads,
        half_bodies,
        malformed_http,
        strange_json,
        foreign_pages,
        random_messages,
        idle_streams,
        repeats,
        suspended_actions,
        foreign_reports,
        wrong_keys,
        large_store_bodies,
        guessed_approvals,
    )
}


async def run(names: list[str], target: Target, seconds: float, seed: int) -> Tally:
    """Each of these attacks, for so long."""
    tally = Tally()
    for name in names:
        attacker = Attacker(target, tally, random.Random(f"{seed} {name}"), time.monotonic() + seconds)
        try:
            await ATTACKS[name](attacker)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                tally.findings.append(f"{name}: {error.code().name}: {error.details()}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", choices=list(ATTACKS))
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384), most))
    target = Target(**json.load(sys.stdin))
    tally = asyncio.run(run(given.names or list(ATTACKS), target, given.seconds, given.seed))
    json.dump({"decisions": tally.decisions, "findings": tally.findings, "calls": tally.calls}, sys.stdout)


if __name__ == "__main__":
    main()
