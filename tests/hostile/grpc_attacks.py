"""Attacks over gRPC: large actions, streams, repeats, random messages, guessed approvals."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress

import grpc
from google.protobuf.struct_pb2 import Struct

from pdp.v1 import decision_pb2 as pdp_pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.hostile.attacker import ALLOWED_REPEATS, CALL_SECONDS, FORBIDDEN_CODES, Attacker, action
from tests.hostile.installation import HONEST, SUSPENDED


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
    """Actions of a suspended agent, by each endpoint and with invented approvals."""
    async with attack.sidecar() as stub:
        while attack.goes_on:
            request = action(SUSPENDED)
            request.idempotency_key = attack.random.choice(("", "same"))
            request.approval_id = attack.random.choice(("", "0190b3f0-0000-7000-8000-000000000000"))
            with suppress(grpc.aio.AioRpcError):
                attack.tally.decided(await stub.Evaluate(request, timeout=CALL_SECONDS), SUSPENDED)


async def guessed_approvals(attack: Attacker) -> None:
    """Waiting for approvals of others, by ids that are guessed."""
    async with attack.sidecar() as stub:
        while attack.goes_on:
            approval_id = f"0190b3f0-{attack.random.getrandbits(16):04x}-7000-8000-{attack.random.getrandbits(48):012x}"
            try:
                call = stub.WaitForApproval(pdp_pb.WaitForApprovalRequest(approval_id=approval_id), timeout=5)
                update = await call.read()
                attack.tally.saw(update is grpc.aio.EOF, "an unknown approval was reported")
            except grpc.aio.AioRpcError as error:
                attack.tally.saw(error.code() not in FORBIDDEN_CODES, f"waiting: {error.code().name}")
