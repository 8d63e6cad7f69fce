"""What both clients say to a sidecar, and when: one piece of code for the synchronous and the asyncio client.

Its coroutines await nothing but a `Transport`. That of the synchronous client blocks where the other suspends, so
there they end at the first step: `finished` takes that step.
"""

from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from ascend import answers
from ascend.calls.calls import CallError, Code
from ascend.errors import ActionBlocked, ApprovalDenied, ApprovalPending, ApprovalUnusable, DecisionUnavailable
from ascend.model import Approval, ApprovalState, Decision, Outcome, Question
from pdp.v1 import decision_pb2 as pb

REGISTERED_WITHIN_SECONDS = 10.0
POLL_SECONDS = 0.05
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
MAX_CALL_SECONDS = 86_400.0
"""Of one call that waits for an approval; a longer wait, or an endless one, makes several."""
MAX_KEY_CHARACTERS = 250
"""Of an idempotency key of a run: the sidecar takes 256, and each attempt adds its number."""

NOT_REGISTERED = "AGENT_NOT_REGISTERED"

_WAITED_AGAIN = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED)

T = TypeVar("T")


class Transport(Protocol):
    """The calls of one client, its clock and its pauses; all times in seconds."""

    async def decide(self, question: Question) -> Decision:
        """The answer to one question; never raises for what the question holds, and never asks twice."""

    def watch(self, approval_id: str, seconds: float) -> AsyncIterator[Approval]:
        """The states of an approval until it is final; `CallError`, or `ValueError` if there
        is no other to be had: the client is closed, or an answer cannot be read."""

    async def report(self, outcome: pb.ReportOutcomeRequest) -> bool:
        """Report how an action ended: whether the sidecar has taken it. Never raises."""

    async def register(self, agent_id: str) -> bool:
        """Register the agent, if it is this client's own and it has a registry: whether that was done."""

    async def sleep(self, seconds: float) -> None:
        """Pause."""

    def now(self) -> float:
        """The time of a clock that only goes forward."""

    async def close(self) -> None:
        """Close the connections."""


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine of a synchronous client has suspended")


class Conversation:
    """Questions and approvals, over one transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def decide(self, question: Question) -> Decision:
        """The decision; an agent that can register itself does so first."""
        decision = await self._transport.decide(question)
        if decision.reason != NOT_REGISTERED or not await self._transport.register(question.agent_id):
            return decision
        until = self._transport.now() + REGISTERED_WITHIN_SECONDS
        while decision.reason == NOT_REGISTERED and self._transport.now() < until:
            await self._transport.sleep(POLL_SECONDS)
            decision = await self._transport.decide(question)
        return decision

    async def wait(self, approval_id: str, seconds: float) -> tuple[Approval, bool]:
        """The last known state of an approval, and whether it ended the wait before the time did."""
        known = Approval(approval_id, ApprovalState.UNKNOWN)
        until = self._transport.now() + seconds
        while (left := until - self._transport.now()) > 0:
            known, ended = await self._wait_once(known, min(left, MAX_CALL_SECONDS))
            if ended:
                return known, True
            await self._transport.sleep(min(FIRST_PAUSE_SECONDS, max(0.0, until - self._transport.now())))
        return known, False

    async def admit(self, question: Question, approval_timeout: float) -> Decision:
        """The allow, after people have approved the action if need be; an `ActionRefused` if there is none.

        People are asked once, and have `approval_timeout` seconds. After their approval the sidecar may not reach the
        store, which lets it be used: then the question is asked again, after longer and longer pauses. What people must
        approve is never allowed for want of an answer.
        """
        key: object = question.idempotency_key
        if isinstance(key, str) and len(key) > MAX_KEY_CHARACTERS:
            raise ActionBlocked(answers.malformed(f"idempotency_key: is longer than {MAX_KEY_CHARACTERS} characters"))
        until = self._transport.now() + approval_timeout
        decision, approval, attempt = await self.decide(question), None, 0
        while not decision or (approval is not None and decision.reason == answers.UNAVAILABLE):
            _check_can_wait(decision, approval)
            await self._pause(attempt, until)
            attempt += 1
            approval, ended = await self.wait(decision.approval_id, until - self._transport.now())
            if not ended:
                raise ApprovalPending(decision, approval)
            # An approval that this run has used already, when it was run before, has its allow under the key.
            repeated = approval.state is ApprovalState.USED and question.idempotency_key and attempt == 1
            if not approval and not repeated:
                raise _refusal(decision, approval)
            decision = await self.decide(question.again(approval.approval_id, attempt))
        return decision

    async def _pause(self, attempt: int, until: float) -> None:
        """Pause before another attempt: not before the first, then longer and longer, within the time."""
        if attempt:
            seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1), MAX_PAUSE_SECONDS)
            await self._transport.sleep(min(seconds, max(0.0, until - self._transport.now())))

    async def _wait_once(self, known: Approval, seconds: float) -> tuple[Approval, bool]:
        """The last known state of an approval after one call, and whether it is the last."""
        try:
            async for update in self._transport.watch(known.approval_id, seconds):
                known = update
        except CallError as error:
            if error.code in _WAITED_AGAIN:
                return known, False
            return replace(known, state=ApprovalState.UNKNOWN, comment=error.details), True
        except (ValueError, OverflowError) as error:  # the client is closed, or an update cannot be read
            return replace(known, state=ApprovalState.UNKNOWN, comment=str(error)), True
        return known, known.state is not ApprovalState.PENDING


def _check_can_wait(decision: Decision, approval: Approval | None) -> None:
    """Raise unless an approval that is open can allow the action."""
    if decision.reason == answers.UNAVAILABLE and decision.error_code != answers.MALFORMED:
        raise DecisionUnavailable(decision, approval)
    if decision.outcome is Outcome.BLOCK or not decision.approval_id:
        raise ActionBlocked(decision, approval)


def _refusal(decision: Decision, approval: Approval) -> ApprovalDenied | ApprovalUnusable:
    if approval.state is ApprovalState.DENIED:
        return ApprovalDenied(decision, approval)
    return ApprovalUnusable(decision, approval)
