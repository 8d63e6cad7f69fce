"""What a call of Evaluate costs a sidecar, over what it costs an empty endpoint of the same protocol.

The sidecar is `pdp serve` with everything on: ten policies, limits, a budget, metrics, the decision log, and a store
that receives the decisions. A cost is the processor's time of the whole process, so it does not depend on how long a
call waits while the machine does other work. Rounds of both servers alternate; the ratio is the median of their pairs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import grpc

from benchmarks.compiled import EVALUATE
from benchmarks.peers import rule
from benchmarks.wire.servers import Installation, Server, empty
from pdp.v1 import decision_pb2 as pb

ROUNDS = 12
CALLS = 400
IN_FLIGHT = 32

Call = Callable[[bytes], Awaitable[bytes]]
"""Sends the bytes of a request: the bytes of its answer."""


class Protocol(NamedTuple):
    """The kind of its empty endpoint, the sidecar's address for it, and what connects to one."""

    empty: str
    address: Callable[[Installation], str]
    connected: Callable[[str], AbstractAsyncContextManager[Sequence[Call]]]


class Loaded(NamedTuple):
    """A server, and its callers, each with at most one call in flight."""

    server: Server
    callers: Sequence[Call]

    async def answer(self, calls: int) -> None:
        """Have it answer so many calls, each of which is to be allowed."""
        raw, left = rule.request(rule.ALLOWED), iter(range(calls))

        async def call(caller: Call) -> None:
            for _ in left:
                check(await caller(raw), allowed=True)

        await asyncio.gather(*map(call, self.callers))


def ratios(rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, float]:
    """For each protocol the cost of a decision over that of an empty call."""
    found = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        place = Installation(stack, folder)
        place.start_store()
        sidecar = place.start_sidecar(unix=False)
        for name, protocol in PROTOCOLS.items():
            address = protocol.address(place)
            answer = asyncio.run(_checked(protocol, address))
            endpoint, endpoint_address = empty(stack, folder, protocol.empty, answer)
            servers = {address: sidecar, endpoint_address: endpoint}
            found[name] = asyncio.run(_ratio(protocol, servers, rounds, calls))
    return found


async def _checked(protocol: Protocol, address: str) -> bytes:
    """The sidecar's answer to what is allowed, once it has decided each case as the rule says."""
    async with protocol.connected(address) as callers:
        for case in rule.CASES:
            check(await callers[0](rule.request(case)), allowed=case.allowed)
        return await callers[0](rule.request(rule.ALLOWED))


async def _ratio(protocol: Protocol, servers: Mapping[str, Server], rounds: int, calls: int) -> float:
    async with AsyncExitStack() as stack:
        loaded = []
        for address, server in servers.items():
            loaded.append(Loaded(server, await stack.enter_async_context(protocol.connected(address))))
            await loaded[-1].answer(calls)  # to warm up, and before the server closes connections that send nothing
        ours, other = loaded
        return median([await _pair(ours, other, calls) for _ in range(rounds)])


async def _pair(ours: Loaded, other: Loaded, calls: int) -> float:
    before = ours.server.cpu_seconds(), other.server.cpu_seconds()
    await ours.answer(calls)
    # Meanwhile the sidecar writes and sends the last of its records.
    await other.answer(calls)
    return (ours.server.cpu_seconds() - before[0]) / (other.server.cpu_seconds() - before[1])


def check(answer: bytes, *, allowed: bool) -> None:
    """Fail when an answer is not as the rule says."""
    outcome = pb.EvaluateResponse.FromString(answer).outcome
    if (outcome == pb.OUTCOME_ALLOW) != allowed:
        raise AssertionError(f"the action was {'' if allowed else 'not '}to be allowed: {pb.Outcome.Name(outcome)}")


@asynccontextmanager
async def grpc_callers(address: str) -> AsyncIterator[Sequence[Call]]:
    """Callers of one channel."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(EVALUATE)
        yield [call] * IN_FLIGHT


@asynccontextmanager
async def http_callers(address: str) -> AsyncIterator[Sequence[Call]]:
    """Callers with a connection each."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_http_caller(address)) for _ in range(IN_FLIGHT)]


@asynccontextmanager
async def _http_caller(address: str) -> AsyncIterator[Call]:
    head = f"POST {EVALUATE} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/proto\r\n"
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))

    async def call(raw: bytes) -> bytes:
        writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).lower().splitlines()
        [size] = [int(line.partition(b":")[2]) for line in headers if line.startswith(b"content-length:")]
        answer = await reader.readexactly(size)
        if b" 200 " not in status:
            raise AssertionError(f"{status!r}: {answer!r}")
        return answer

    try:
        yield call
    finally:
        writer.close()


PROTOCOLS = {
    "gRPC": Protocol("grpc", lambda place: place.grpc, grpc_callers),
    "Connect": Protocol("http", lambda place: place.http, http_callers),
}
