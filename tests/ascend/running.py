"""Both clients beside a real sidecar in this process, called in one way."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ascend import AscendClient, AsyncAscendClient, Decision
from pdp.v1 import decision_pb2 as pb
from tests.ascend.ways import offered
from tests.deciding import Bench
from tests.waiting import BOUND_SECONDS, eventually_gives

AGENT = "billing-reader-test"
KINDS = ("synchronous", "asyncio")


class Either:
    """One of the two clients; the synchronous one is called in threads, so that it does not block the sidecar."""

    def __init__(self, kind: str, address: str, **changes: Any) -> None:
        settings = {"pdp_address": address, "timeout": BOUND_SECONDS} | changes
        self.client: AscendClient | AsyncAscendClient = (
            AscendClient("", AGENT, "Test", **settings)
            if kind == "synchronous"
            else AsyncAscendClient("", AGENT, "Test", **settings)
        )

    async def run(self, action: Any, function: Callable[[], Any], **beside: Any) -> Any:
        """`run` with a plain function."""
        client = self.client
        if isinstance(client, AscendClient):
            return await asyncio.to_thread(lambda: client.run(action, function, **beside))

        async def coroutine() -> Any:
            return function()

        return await client.run(action, coroutine, **beside)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Any other method."""
        method = getattr(self.client, name)
        if isinstance(self.client, AscendClient):
            return await asyncio.to_thread(lambda: method(*args, **kwargs))
        return await method(*args, **kwargs)

    async def close(self) -> None:
        await self.call("close")


@asynccontextmanager
async def either(kind: str, way: str, bench: Bench, **changes: Any) -> AsyncIterator[Either]:
    """A client of the bench's sidecar, which it reaches in this way."""
    async with offered(bench.service, way) as address:
        client = Either(kind, address, **changes)
        try:
            yield client
        finally:
            await client.close()


def outcomes(bench: Bench) -> list[dict[str, Any]]:
    """The outcomes that the sidecar has taken, as its log has them."""
    return [entry.members for entry in bench.log.entries if getattr(entry, "kind", "") == "outcome"]


def decisions(bench: Bench) -> list[Any]:
    """The decisions that the sidecar has made, as its log has them."""
    return [entry for entry in bench.log.entries if not hasattr(entry, "kind")]


def answers(bench: Bench) -> list[pb.EvaluateResponse]:
    """What the sidecar has answered, as its log has it."""
    return [pb.EvaluateResponse.FromString(entry.answer) for entry in decisions(bench)]


async def opened(bench: Bench, count: int = 1) -> list[str]:
    """The approvals that the sidecar has opened, once there are so many."""

    async def found() -> list[str]:
        return [entry.opens.approval_id for entry in decisions(bench) if entry.opens]

    return await eventually_gives(found, lambda ids: len(ids) >= count)


def warnings(records: list[logging.LogRecord]) -> list[str]:
    """What the client has logged."""
    return [record.getMessage() for record in records if record.name == "ascend"]


def unanswered(decision: Decision) -> tuple[bool, str, str]:
    """What matters of a decision without an answer."""
    return bool(decision), decision.reason, decision.error_code
