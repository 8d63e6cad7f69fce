"""The way of the synchronous client to a sidecar, and what the asyncio client has of it."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from ascend import answers, messages, outcomes, settings
from ascend.calls.addresses import HttpAddress
from ascend.calls.blocking import Blocking
from ascend.calls.calls import Calls
from ascend.calls.http import HttpCalls
from ascend.model import Approval, Decision, Question
from ascend.registration import Registration
from pdp.v1 import decision_pb2 as pb


class Asking:
    """The part of a `Transport` that calls the sidecar."""

    def __init__(self, checked: settings.Settings, registration: Registration, calls: Calls) -> None:
        self._settings = checked
        self._registration = registration
        self._calls = calls

    async def decide(self, question: Question) -> Decision:
        counts_once = bool(question.idempotency_key) or question.dry_run
        try:
            request = messages.request(question).SerializeToString()
            answer = await self._calls.unary("Evaluate", request, self._settings.timeout, repeatable=counts_once)
        except Exception as error:
            return answers.without(error, self._settings.fail_mode)
        return answers.read(answer)

    async def watch(self, approval_id: str, seconds: float) -> AsyncIterator[Approval]:
        request = pb.WaitForApprovalRequest(approval_id=approval_id).SerializeToString()
        async with aclosing(self._calls.stream("WaitForApproval", request, seconds)) as updates:
            async for update in updates:
                yield messages.approval(messages.update(update))

    async def report(self, outcome: pb.ReportOutcomeRequest) -> bool:
        request = outcome.SerializeToString()
        try:
            # The sidecar takes an outcome once, so waiting for its restart can report nothing twice.
            await self._calls.unary("ReportOutcome", request, self._settings.timeout, repeatable=True, waits=True)
        except Exception as error:
            outcomes.log_lost(outcome, error)
            return False
        return True

    def now(self) -> float:
        return time.monotonic()

    async def close(self) -> None:
        await self._calls.close()


class BlockingTransport(Asking):
    """A `Transport` whose coroutines block and never suspend."""

    def __init__(self, checked: settings.Settings, registration: Registration) -> None:
        super().__init__(checked, registration, _calls(checked))

    async def register(self, agent_id: str) -> bool:
        return self._registration.possible(agent_id) and self._registration.attempt()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - to block is what this transport is for


def _calls(checked: settings.Settings) -> Calls:
    if isinstance(checked.address, HttpAddress):
        return HttpCalls(checked.address, Blocking(), checked.tls)
    from ascend.calls.grpc import BlockingGrpcCalls  # with grpcio, which a client over HTTP does not need

    return BlockingGrpcCalls(checked.address, checked.tls)
