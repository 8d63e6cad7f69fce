"""Clients for tests of agent code: they answer from a list, and keep what they were asked.

    client = FakeAscendClient(["require_approval", "approved", "allow"])
    Agent(client).pay("Ann", 15000)
    assert [asked.action.amount for asked in client.asked] == [15000, 15000]
    assert client.outcomes[0].succeeded
    assert not client.answers

An answer is a `Decision`, an `Approval`, or the outcome or the state alone. A question takes the next answer, and so
does a wait for an approval: `AssertionError` if there is none left, or if it answers something else. No fake waits for
anything: a wait that gets `pending` reaches its time-out at once.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import NamedTuple

from ascend import answers as missing
from ascend import messages, settings
from ascend.async_client import AsyncAscendClient
from ascend.client import AscendClient
from ascend.conversation import Transport
from ascend.model import Approval, ApprovalState, Decision, Outcome, Question
from pdp.v1 import decision_pb2 as pb

Answer = Decision | Approval | str

AGENT_ID = "fake-agent"

_REASONS = {
    Outcome.ALLOW: "RISK_BELOW_AUTO_APPROVE",
    Outcome.REQUIRE_APPROVAL: "RISK_NEEDS_APPROVAL",
    Outcome.BLOCK: "ACTION_NOT_ALLOWED",
    Outcome.ESCALATE: "RISK_ABOVE_MAXIMUM",
}
_HELD = (Outcome.REQUIRE_APPROVAL, Outcome.ESCALATE)
_OUTCOMES = frozenset(Outcome)
_STATES = frozenset(ApprovalState)


class ReportedOutcome(NamedTuple):
    """An outcome as it was reported; `actual_cost_usd` is None if the estimate counts."""

    agent_id: str
    decision_id: str
    succeeded: bool
    actual_cost_usd: float | None
    error: str


class _Script:
    """A `Transport` whose answers are given, and whose clock moves only where a client would wait."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self.answers = deque(answers)
        for answer in self.answers:
            _check(answer)
        self.asked: list[Question] = []
        self.waited: list[str] = []
        self.outcomes: list[ReportedOutcome] = []
        self._now = 0.0

    async def decide(self, question: Question) -> Decision:
        try:
            messages.request(question)
        except messages.MalformedActionError as error:
            return missing.without(error, "closed")
        self.asked.append(question)
        what = f"the question whether `{question.agent_id}` may do {question.action}"
        answer = self._take(what)
        if isinstance(answer, Decision):
            return answer
        if answer in _OUTCOMES:
            return _decision(Outcome(str(answer)), question, len(self.asked))
        raise AssertionError(f"the next answer is {answer!r}, which does not answer {what}")

    async def watch(self, approval_id: str, seconds: float) -> AsyncIterator[Approval]:
        self.waited.append(approval_id)
        what = f"the wait for approval `{approval_id}`"
        answer = self._take(what)
        if answer in _STATES:
            answer = Approval(approval_id, ApprovalState(str(answer)))
        if not isinstance(answer, Approval):
            raise AssertionError(f"the next answer is {answer!r}, which does not answer {what}")
        if answer.state is ApprovalState.PENDING:
            self._now += seconds
        yield replace(answer, approval_id=approval_id)

    async def report(self, outcome: pb.ReportOutcomeRequest) -> bool:
        cost = outcome.actual_cost_usd if outcome.HasField("actual_cost_usd") else None
        succeeded = outcome.result == pb.ACTION_RESULT_SUCCEEDED
        self.outcomes.append(ReportedOutcome(outcome.agent_id, outcome.decision_id, succeeded, cost, outcome.error))
        return True

    async def register(self, agent_id: str) -> bool:
        return False

    async def sleep(self, seconds: float) -> None:
        self._now += seconds

    def now(self) -> float:
        return self._now

    async def close(self) -> None:
        """There is nothing to close."""

    def _take(self, what: str) -> Answer:
        if not self.answers:
            raise AssertionError(f"no answer is left for {what}")
        answer = self.answers.popleft()
        _check(answer)
        return answer


class _Fake:
    """What a fake client has beside its methods, in the order of the calls.

    `answers` are those that are not taken yet, and can be added to.
    """

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._script = _Script(answers)
        self.answers = self._script.answers
        self.asked = self._script.asked
        self.waited = self._script.waited
        self.outcomes = self._script.outcomes


class FakeAscendClient(_Fake, AscendClient):
    """An `AscendClient` without a sidecar."""

    def __init__(self, answers: Iterable[Answer] = (), *, agent_id: str = AGENT_ID) -> None:
        _Fake.__init__(self, answers)
        AscendClient.__init__(self, "", agent_id, agent_id, fail_mode="closed")

    def _connect(self, checked: settings.Settings) -> Transport:
        return self._script


class FakeAsyncAscendClient(_Fake, AsyncAscendClient):
    """An `AsyncAscendClient` without a sidecar."""

    def __init__(self, answers: Iterable[Answer] = (), *, agent_id: str = AGENT_ID) -> None:
        _Fake.__init__(self, answers)
        AsyncAscendClient.__init__(self, "", agent_id, agent_id, fail_mode="closed")

    def _connect(self, checked: settings.Settings) -> Transport:
        return self._script


def _check(answer: Answer) -> None:
    if not isinstance(answer, Decision | Approval) and answer not in _OUTCOMES | _STATES:
        raise AssertionError(f"{answer!r} is not an answer: neither an outcome nor a state of an approval")


def _decision(outcome: Outcome, question: Question, number: int) -> Decision:
    """A decision as a sidecar gives it to a question, with ids that say which question it was."""
    held = outcome in _HELD and not question.dry_run
    approved = outcome is Outcome.ALLOW and question.approval_id
    return Decision(
        outcome,
        "APPROVED" if approved else _REASONS[outcome],
        f"the test answers {outcome}",
        decision_id=f"decision-{number}",
        approval_id=(question.approval_id or f"approval-{number}") if held else "",
    )
