"""The decorator `governed`, and clients for tests that answer from a list."""

import asyncio
import inspect
import pickle
from typing import Any

import pytest

import ascend
from ascend import (
    ActionBlocked,
    ActionRefused,
    AgentAction,
    Approval,
    ApprovalPending,
    ApprovalState,
    Decision,
    DecisionUnavailable,
    Outcome,
)
from ascend.testing import FakeAscendClient, FakeAsyncAscendClient, ReportedOutcome

APPROVED_AFTER_AN_OUTAGE = ["require_approval", "approved", "require_approval", "approved", "allow"]


def test_a_call_is_an_action_with_fields_of_its_arguments() -> None:
    """By place, by name and by default; the function keeps its name and signature."""
    client = FakeAscendClient(["allow", "allow"])

    @client.governed(
        "transaction.process",
        resource="bank",
        amount=lambda call: call.amount,
        attributes=lambda call: {"to": call.to, **call.options},
        agent_id=lambda call: call.agent,
        idempotency_key=lambda call: call.tool_call_id,
        cost=len,
    )
    def pay(to: str, amount: float, *, agent: str = "", tool_call_id: str | None = None, **options: Any) -> str:
        """Pays."""
        return f"paid {to}"

    assert pay("Ann", 120, urgent=True) == "paid Ann"
    assert pay(amount=5, to="Bob", agent="other-agent", tool_call_id="call-1") == "paid Bob"
    fields = {"action_type": "transaction.process", "resource": "bank"}
    assert [(asked.action, asked.agent_id, asked.idempotency_key) for asked in client.asked] == [
        (AgentAction(**fields, amount=120, attributes={"to": "Ann", "urgent": True}), "fake-agent", ""),
        (AgentAction(**fields, amount=5, attributes={"to": "Bob"}), "other-agent", "call-1"),
    ]
    assert client.outcomes[1] == ReportedOutcome("other-agent", "decision-2", True, 8.0, "")
    assert (pay.__name__, pay.__doc__, list(inspect.signature(pay).parameters)[:2]) == (
        "pay",
        "Pays.",
        ["to", "amount"],
    )


async def test_a_coroutine_function_is_governed_by_the_asyncio_client() -> None:
    """Its exception is reported, and comes back."""
    client = FakeAsyncAscendClient(["allow", "block"])

    @client.governed("api.read", resource=lambda call: call.what)
    async def read(what: str) -> None:
        raise LookupError(what)

    with pytest.raises(LookupError):
        await read("ledger")
    with pytest.raises(ActionBlocked):
        await read("vault")
    assert [asked.action.resource for asked in client.asked] == ["ledger", "vault"]
    assert client.outcomes == [ReportedOutcome("fake-agent", "decision-1", False, None, "LookupError: ledger")]


def test_a_call_that_makes_no_action_asks_nothing_and_does_nothing() -> None:
    """Wrong arguments, and a field that cannot be computed."""
    client = FakeAscendClient()

    @client.governed("api.read", amount=lambda call: call.missing)
    def read(what: str) -> None:
        pytest.fail("the action was taken")

    with pytest.raises(TypeError, match="missing a required argument: 'what'"):
        read()  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="missing"):
        read("ledger")
    assert client.asked == []


def generator() -> Any:
    yield 1


async def asynchronous_generator() -> Any:
    yield 1


async def coroutine() -> None:
    """Do nothing."""


def plain() -> None:
    """Do nothing."""


class Callable:
    async def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("client", "function", "message"),
    [
        (FakeAscendClient(), generator, "`generator` is a generator function: it acts after its call has returned"),
        (FakeAsyncAscendClient(), asynchronous_generator, "`asynchronous_generator` is a generator function"),
        (FakeAscendClient(), coroutine, "`coroutine` is a coroutine function: use `AsyncAscendClient`"),
        (FakeAscendClient(), Callable(), "is a coroutine function: use `AsyncAscendClient`"),
        (FakeAsyncAscendClient(), plain, "`plain` is not a coroutine function: use `AscendClient`"),
    ],
)
def test_a_function_that_cannot_be_run_to_its_end_is_refused(client: Any, function: Any, message: str) -> None:
    """Where it is decorated."""
    with pytest.raises(TypeError) as refusal:
        client.governed("api.read")(function)
    assert message in str(refusal.value)


async def test_a_generator_is_not_run() -> None:
    """By neither client: nothing is asked."""
    client, async_client = FakeAscendClient(), FakeAsyncAscendClient()
    with pytest.raises(TypeError, match="is a generator function"):
        client.run(AgentAction(action_type="api.read"), generator)
    with pytest.raises(TypeError, match="is a generator function"):
        await async_client.run(AgentAction(action_type="api.read"), asynchronous_generator)


def test_an_unknown_field_is_refused_where_it_is_written() -> None:
    """Not at the first call."""
    with pytest.raises(TypeError, match="`amuont` is not a field of an action"):
        FakeAscendClient().governed("api.read", amuont=1)(plain)  # type: ignore[call-arg]


def test_after_an_outage_at_the_approval_the_run_goes_on() -> None:
    """The store lets an approval be used; while it is away the run asks again, each time under a key of its own."""
    client = FakeAscendClient(APPROVED_AFTER_AN_OUTAGE)
    assert client.run(AgentAction(action_type="payment.send"), lambda: 1, idempotency_key="call-1") == 1
    assert [(asked.idempotency_key, asked.approval_id) for asked in client.asked] == [
        ("call-1", ""),
        ("call-1/1", "approval-1"),
        ("call-1/2", "approval-1"),
    ]


def test_an_approval_is_not_used_up_by_a_missing_answer() -> None:
    """The fail mode open does not allow what people must approve: the sidecar has not checked their approval."""
    client = FakeAscendClient(["require_approval", "approved", Decision(Outcome.ALLOW, "PDP_UNAVAILABLE")])
    with pytest.raises(DecisionUnavailable) as refusal:
        client.run(AgentAction(action_type="payment.send"), lambda: pytest.fail("the action was taken"))
    assert (refusal.value.approval_id, refusal.value.approval) == (
        "approval-1",
        Approval("approval-1", ApprovalState.APPROVED),
    )


def test_a_fake_answers_in_order_and_keeps_what_it_was_asked() -> None:
    """Outcomes and states alone, whole decisions and approvals, and answers that are added later."""
    limited = Decision(Outcome.BLOCK, "RATE_LIMIT_EXCEEDED", retry_after=1.5)
    said = Approval("", ApprovalState.DENIED, "ann", "no")
    client = FakeAscendClient(["escalate", said, limited], agent_id="payments-test")
    held = client.evaluate_action("payment.send", amount=1)
    assert (held.outcome, held.reason, held.approval_id) == ("escalate", "RISK_ABOVE_MAXIMUM", "approval-1")
    denied = client.wait_for_approval(held)
    assert (denied.approval_id, denied.state, denied.decided_by) == ("approval-1", "denied", "ann")
    assert client.evaluate_action("payment.send") is limited
    client.answers.append("allow")
    assert client.evaluate_action("api.read", approval_id="approval-1").reason == "APPROVED"
    assert [asked.agent_id for asked in client.asked] == ["payments-test"] * 3
    assert (client.waited, client.outcomes, list(client.answers)) == (["approval-1"], [], [])


def test_a_fake_does_not_wait() -> None:
    """A pending approval reaches the time-out at once, and a dry run opens none."""
    client = FakeAscendClient(["require_approval", "pending", "require_approval"])
    with pytest.raises(ApprovalPending):
        client.run(AgentAction(action_type="payment.send"), plain)
    assert client.evaluate_action("payment.send", dry_run=True).approval_id == ""


def test_a_fake_refuses_a_malformed_action_as_a_client_does() -> None:
    """It takes no answer for it."""
    client = FakeAscendClient(["allow"])
    decision = client.evaluate_action("api.read", risk_score="high")  # type: ignore[arg-type]
    assert (bool(decision), decision.field, client.asked, len(client.answers)) == (False, "risk_score", [], 1)


def test_a_fake_without_a_fitting_answer_fails_clearly() -> None:
    """It says what was asked; also in a run, and for a word that is no answer."""
    client = FakeAscendClient(["approved", "allow"])
    with pytest.raises(
        AssertionError, match="the next answer is 'approved', which does not answer the question whether"
    ):
        client.evaluate_action("api.read")
    with pytest.raises(AssertionError, match="the next answer is 'allow', which does not answer the wait for approval"):
        client.wait_for_approval("approval-1")
    with pytest.raises(AssertionError, match=r"no answer is left for the question whether `fake-agent` may do Agent"):
        client.run(AgentAction(action_type="api.read"), plain)
    with pytest.raises(AssertionError, match="'alow' is not an answer: neither an outcome nor a state of an approval"):
        FakeAscendClient(["alow"])
    with pytest.raises(AssertionError, match="no answer is left for the wait for approval `approval-1`"):
        asyncio.run(FakeAsyncAscendClient(["require_approval"]).run(AgentAction(action_type="api.read"), coroutine))


@pytest.mark.parametrize("name", ["ActionBlocked", "ApprovalDenied", "ApprovalPending", "ApprovalUnusable"])
def test_a_refusal_passes_between_processes(name: str) -> None:
    """With its decision and approval, as a pool of workers needs."""
    kind: type[ActionRefused] = getattr(ascend, name)
    refusal = kind(Decision(Outcome.BLOCK, "AGENT_NOT_ACTIVE", "why"), Approval("a1", ApprovalState.UNKNOWN))
    again = pickle.loads(pickle.dumps(refusal))
    assert (type(again), str(again), again.approval_id) == (kind, str(refusal), "a1")
    assert str(kind(Decision(Outcome.BLOCK, "AGENT_NOT_ACTIVE", "why")))
