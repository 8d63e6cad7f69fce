"""`run` of both clients at a real sidecar: people, outcomes, keys, and what goes wrong."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ascend import (
    ActionBlocked,
    AgentAction,
    ApprovalDenied,
    ApprovalPending,
    ApprovalUnusable,
    AscendClient,
    AsyncAscendClient,
    DecisionUnavailable,
)
from pdp.core.model import StaleMode
from registry_store.v1 import sync_pb2
from tests.ascend.running import (
    AGENT,
    KINDS,
    Either,
    answers,
    decisions,
    either,
    opened,
    outcomes,
    unanswered,
    warnings,
)
from tests.ascend.ways import offered, on_socket, serving_at
from tests.deciding import Bench, request_in
from tests.given import agent
from tests.waiting import BOUND_SECONDS, eventually, eventually_gives

READ = AgentAction(action_type="api.read", risk_score=1, estimated_cost_usd=10)
PAYMENT = AgentAction(action_type="payment.send", risk_score=50, amount=15000)
OTHER = "payments-other-test"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def bench() -> Bench:
    """A sidecar of two agents with budgets."""
    bench = Bench()
    limits: dict[str, Any] = {"max_daily_budget_usd": "100", "max_actions_per_minute": 50}
    bench.put(agent(AGENT, **limits), agent(OTHER, **limits))
    return bench


def patient(address: str) -> AsyncAscendClient:
    """An asyncio client that a slow machine does not make unavailable."""
    return AsyncAscendClient("", AGENT, "Test", pdp_address=address, timeout=BOUND_SECONDS)


def never() -> None:
    pytest.fail("the action was taken")


@contextmanager
def raises(kind: type[BaseException]) -> Iterator[pytest.ExceptionInfo[Any]]:
    """As pytest.raises, for exactly this class."""
    with pytest.raises(kind) as refusal:
        yield refusal
    assert type(refusal.value) is kind


async def test_an_allowed_action_runs_and_settles_at_its_cost(kind: str, way: str, bench: Bench) -> None:
    """The result comes back, and the budget has the actual cost instead of the estimate."""
    async with either(kind, way, bench) as client:
        assert await client.run(READ, lambda: {"cost": 4}, cost=lambda result: result["cost"]) == {"cost": 4}
        assert await client.run(READ, lambda: "estimated") == "estimated"
        left = (await client.call("evaluate", READ, dry_run=True)).budget_remaining_usd
    assert left == 100 - 4 - 10
    assert [(one["result"], one["actual_cost_micros"], one["error"]) for one in outcomes(bench)] == [
        ("succeeded", 4_000_000, ""),
        ("succeeded", None, ""),
    ]


async def test_a_failed_action_is_reported_and_raised(kind: str, way: str, bench: Bench) -> None:
    """The sidecar gets the exception's type and text, without what no message holds."""

    def fail() -> None:
        raise LookupError("no account \0\ud800" + "x" * 5000)

    async with either(kind, way, bench) as client:
        with raises(LookupError):
            await client.run(READ, fail)
    (outcome,) = outcomes(bench)
    assert (outcome["result"], outcome["agent_id"]) == ("failed", AGENT)
    assert outcome["error"] == ("LookupError: no account ??" + "x" * 5000)[:4096]


async def test_a_blocked_action_does_not_run(kind: str, way: str, bench: Bench) -> None:
    """The exception has the decision, and its text is a sentence for a person or a model."""
    bench.put(agent(AGENT, blocked_resources=["vault"]))
    async with either(kind, way, bench) as client:
        with raises(ActionBlocked) as refusal:
            await client.run(AgentAction(action_type="api.read", resource="vault"), never)
    assert refusal.value.decision.reason == "RESOURCE_BLOCKED"
    assert str(refusal.value) == "block RESOURCE_BLOCKED: resource `vault` is blocked for this agent"
    assert (refusal.value.approval, refusal.value.approval_id, outcomes(bench)) == (None, "", [])


async def test_a_malformed_action_does_not_run(kind: str, way: str, bench: Bench) -> None:
    """It is a block, not a sidecar that cannot be reached; also if the key leaves no room for the attempts."""
    async with either(kind, way, bench, fail_mode="open") as client:
        for action, beside, field in (
            (AgentAction(action_type="api.read", risk_score=101), {}, "risk_score"),
            (READ, {"idempotency_key": "k" * 251}, "idempotency_key"),
            (READ, {"idempotency_key": 5}, "idempotency_key"),
        ):
            with raises(ActionBlocked) as refusal:
                await client.run(action, never, **beside)
            assert refusal.value.decision.field == field
        assert await client.run(READ, lambda: 1, idempotency_key="k" * 250) == 1


async def test_an_action_that_is_too_large_is_always_blocked(kind: str, way: str, bench: Bench) -> None:
    """Also one that no protocol carries."""
    async with either(kind, way, bench, fail_mode="open") as client:
        for size in (70_000, 520_000, 3_000_000):
            decision = await client.call("evaluate_action", "api.read", attributes={"a": "x" * size})
            assert unanswered(decision) == (False, "PDP_UNAVAILABLE", "INVALID_ARGUMENT")


async def test_it_waits_for_people_and_runs_once_they_approve(kind: str, way: str, bench: Bench) -> None:
    """Under the approval, which is used once; the outcome is of the decision that allowed it."""
    async with either(kind, way, bench) as client:
        running = asyncio.ensure_future(client.run(PAYMENT, lambda: "paid", idempotency_key="call-1"))
        (approval_id,) = await opened(bench)
        bench.people.granted.add(approval_id)
        bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_APPROVED)
        assert await running == "paid"
    held, allowed = answers(bench)
    assert (held.approval_id, request_in(decisions(bench)[1]).approval_id) == (approval_id, approval_id)
    assert [one["decision_id"] for one in outcomes(bench)] == [allowed.decision_id]


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (sync_pb2.APPROVAL_STATE_DENIED, ApprovalDenied, "`ann` denied approval `{}`: paid already"),
        (sync_pb2.APPROVAL_STATE_EXPIRED, ApprovalUnusable, "approval `{}` is expired: paid already"),
        (sync_pb2.APPROVAL_STATE_USED, ApprovalUnusable, "approval `{}` is used: paid already"),
    ],
)
async def test_what_people_do_not_approve_does_not_run(
    kind: str, way: str, bench: Bench, *, state: "sync_pb2.ApprovalState", error: type[Exception], text: str
) -> None:
    """The exception says who decided, and why."""
    async with either(kind, way, bench) as client:
        running = asyncio.ensure_future(client.run(PAYMENT, never))
        (approval_id,) = await opened(bench)
        bench.people.say(approval_id, state, decided_by="ann", comment="paid already")
        with raises(error) as refusal:
            await running
    assert str(refusal.value) == text.format(approval_id)
    assert refusal.value.decision.outcome == "require_approval"


async def test_a_wait_that_is_over_can_be_continued(kind: str, way: str, bench: Bench) -> None:
    """Without waiting at all the exception has the approval; a later run with it asks people nothing new."""
    async with either(kind, way, bench) as client:
        with raises(ApprovalPending) as refusal:
            await client.run(PAYMENT, never, approval_timeout=0, idempotency_key="call-1")
        approval_id = refusal.value.approval_id
        bench.people.granted.add(approval_id)
        bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_APPROVED)
        again = {"idempotency_key": "call-1", "approval_id": approval_id}
        assert await client.run(PAYMENT, lambda: "paid", **again) == "paid"
    assert await opened(bench) == [approval_id]


async def test_stale_data_is_not_waited_for(kind: str, way: str, bench: Bench) -> None:
    """An escalation without an approval can be allowed by nobody."""
    bench.age(StaleMode.ESCALATE)
    async with either(kind, way, bench) as client:
        with raises(ActionBlocked) as refusal:
            await client.run(READ, never)
    assert refusal.value.decision.reason == "REGISTRY_STALE"


async def test_a_run_that_is_repeated_counts_once(kind: str, way: str, bench: Bench) -> None:
    """A framework that runs a hook twice with the id of the tool call: one action, one outcome."""
    async with either(kind, way, bench) as client:
        for _ in range(2):
            assert await client.run(READ, lambda: "read", idempotency_key="call-1") == "read"
        assert (await client.call("evaluate", READ, dry_run=True)).rate_remaining.minute == 49
    assert len(outcomes(bench)) == 1


async def test_a_run_with_an_approval_that_is_repeated_is_allowed_again(kind: str, way: str, bench: Bench) -> None:
    """Its approval is used by then, and its answer under the key is the same; without the key there is none."""
    async with either(kind, way, bench) as client:
        running = asyncio.ensure_future(client.run(PAYMENT, lambda: "paid", idempotency_key="call-1"))
        (approval_id,) = await opened(bench)
        bench.people.granted.add(approval_id)
        bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_APPROVED)
        assert await running == "paid"
        bench.people.granted.clear()
        bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_USED)
        assert await client.run(PAYMENT, lambda: "paid", idempotency_key="call-1") == "paid"
        assert (await client.call("evaluate", READ, dry_run=True)).rate_remaining.minute == 48
        with raises(ApprovalUnusable):
            await client.run(PAYMENT, never, approval_id=approval_id)
    assert len(outcomes(bench)) == 1


async def test_one_process_serves_many_agents(kind: str, way: str, bench: Bench) -> None:
    """The agent of a call is decided for, counted and reported; the client's own where a call names none."""
    async with either(kind, way, bench) as client:
        await client.run(READ, lambda: 1, agent_id=OTHER)
        decision = await client.call("evaluate", READ, agent_id=OTHER)
        assert decision.rate_remaining.minute == 48
        assert (await client.call("evaluate_action", "api.read", risk_score=1)).rate_remaining.minute == 49
        assert not await client.call("report_outcome", decision)
        assert await client.call("report_outcome", decision, agent_id=OTHER, actual_cost_usd=3)
        assert await client.call("report_outcome", decision.decision_id, agent_id=OTHER, error="repeated")
    assert [(one["agent_id"], one["actual_cost_micros"]) for one in outcomes(bench)] == [
        (OTHER, None),
        (OTHER, 3_000_000),
    ]


async def test_without_a_sidecar_the_fail_mode_decides(
    kind: str, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Closed refuses, with an error of its own; open runs, and has no outcome to report."""
    closed, opened = Either(kind, nowhere), Either(kind, nowhere, fail_mode="open")
    try:
        with raises(DecisionUnavailable) as refusal:
            await closed.run(READ, never)
        assert refusal.value.decision.error_code == "UNAVAILABLE"
        assert await opened.run(READ, lambda: "read") == "read"
    finally:
        await closed.close()
        await opened.close()
    assert warnings(caplog.records) == []


async def test_a_report_that_fails_changes_nothing(
    kind: str, way: str, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the result nor the function's own exception; it is logged."""

    def fill(error: Exception | None = None) -> str:
        bench.log.full = True
        if error:
            raise error
        return "done"

    async with either(kind, way, bench) as client:
        assert await client.run(READ, fill) == "done"
        bench.log.full = False
        with raises(LookupError):
            await client.run(READ, lambda: fill(LookupError()))
    ids = [answer.decision_id for answer in answers(bench)]
    assert [one.split("`")[1] for one in warnings(caplog.records)] == ids
    assert all("the decision log is full" in one for one in warnings(caplog.records))


@pytest.mark.parametrize(
    "cost", [lambda _: -1, lambda _: float("nan"), lambda _: "much", lambda result: result["cost"]]
)
async def test_a_cost_that_is_not_known_leaves_the_estimate(
    kind: str, way: str, bench: Bench, cost: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The action is done by then, so its result comes back."""
    async with either(kind, way, bench) as client:
        assert await client.run(READ, dict, cost=cost) == {}
    assert [one["actual_cost_micros"] for one in outcomes(bench)] == [None]
    assert len(warnings(caplog.records)) == 1


async def test_a_wrong_cost_of_a_report_is_refused(kind: str, nowhere: str) -> None:
    """It is named, and nothing is sent."""
    client = Either(kind, nowhere)
    with pytest.raises(ValueError, match="`actual_cost_usd`: `-1` is not within 0 to 1000000000"):
        await client.call("report_outcome", "some id", actual_cost_usd=-1)
    await client.close()


async def test_a_synchronous_client_runs_no_coroutine(way: str, bench: Bench) -> None:
    """It is refused before the decision, or reported as failed if only its call shows that it is one."""

    async def coroutine() -> None:
        never()

    async with either("synchronous", way, bench) as client:
        with pytest.raises(TypeError, match="is a coroutine function: use `AsyncAscendClient`"):
            await client.run(READ, coroutine)
        assert decisions(bench) == []
        with pytest.raises(TypeError, match="returned a coroutine, which was not run"):
            await client.run(READ, lambda: coroutine())  # noqa: PLW0108 - it hides what it calls
    assert [one["result"] for one in outcomes(bench)] == ["failed"]


async def test_an_interrupt_is_reported_and_raised(way: str, bench: Bench) -> None:
    """As every other exception of a synchronous function."""

    def interrupt() -> None:
        raise SystemExit(3)

    def attempt(client: AscendClient) -> None:
        with raises(SystemExit):
            client.run(READ, interrupt)

    async with offered(bench.service, way) as address:
        with AscendClient("", AGENT, "Test", pdp_address=address, timeout=BOUND_SECONDS) as client:
            await asyncio.to_thread(attempt, client)
    assert [one["error"] for one in outcomes(bench)] == ["SystemExit: 3"]


async def test_waits_for_people_hold_up_no_decision(way: str, bench: Bench) -> None:
    """Six runs wait, and decisions of the same client come; then each run gets its own approval."""
    async with offered(bench.service, way) as address, patient(address) as client:

        async def paid(number: int) -> int:
            return number

        payments = [AgentAction(action_type="payment.send", risk_score=50, amount=number) for number in range(6)]
        running = [
            asyncio.ensure_future(client.run(payment, lambda number=number: paid(number)))
            for number, payment in enumerate(payments)
        ]
        ids = await opened(bench, 6)
        for approval_id in ids:
            bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_PENDING)
        await eventually(lambda: bench.service.approvals.waiting == 6)
        for _ in range(20):
            assert await client.evaluate_action("api.read", risk_score=1)
        assert not any(one.done() for one in running)
        for approval_id in reversed(ids):
            bench.people.granted.add(approval_id)
            bench.people.say(approval_id, sync_pb2.APPROVAL_STATE_APPROVED)
        assert await asyncio.gather(*running) == list(range(6))


async def test_a_cancelled_run_reports_a_failure(way: str, bench: Bench) -> None:
    """The cancellation does not wait for the report, and closing does."""
    started = asyncio.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    async with offered(bench.service, way) as address:
        async with patient(address) as client:
            running = asyncio.ensure_future(client.run(READ, endless))
            await started.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert [(one["result"], one["error"]) for one in outcomes(bench)] == [("failed", "CancelledError")]


async def test_a_cancelled_wait_runs_nothing(way: str, bench: Bench) -> None:
    """And the sidecar waits no longer."""
    async with offered(bench.service, way) as address, patient(address) as client:
        running = asyncio.ensure_future(client.run(PAYMENT, lambda: asyncio.sleep(0, never())))
        await opened(bench)
        await eventually(lambda: bench.service.approvals.waiting == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: bench.service.approvals.waiting == 0)
    assert outcomes(bench) == []


@pytest.mark.parametrize("way", ["grpc+unix", "http+unix"])
async def test_a_report_waits_for_a_sidecar_that_restarts(way: str, bench: Bench, tmp_path: Path) -> None:
    """The outcome is taken once, so it can be sent again and again."""
    path = tmp_path / "pdp.sock"

    async def is_away() -> bool:
        return (await client.evaluate(READ)).error_code == "UNAVAILABLE"

    async def act() -> None:
        await before.aclose()
        await eventually_gives(is_away, bool)
        acted.set()

    before, acted = AsyncExitStack(), asyncio.Event()
    await before.enter_async_context(serving_at(bench.service, way, path))
    async with patient(on_socket(way, path)) as client:
        running = asyncio.ensure_future(client.run(READ, act))
        await acted.wait()
        assert await is_away()
        async with serving_at(bench.service, way, path):
            await running
    assert len(outcomes(bench)) == 1


async def test_a_wait_may_be_endless(kind: str, way: str, bench: Bench) -> None:
    """It ends with the answer of people."""
    bench.people.say("a1", sync_pb2.APPROVAL_STATE_APPROVED)
    async with either(kind, way, bench) as client:
        assert await client.call("wait_for_approval", "a1", float("inf"))


async def test_closing_ends_what_waits(way: str, bench: Bench) -> None:
    """A call that waits gets an answer, and is not cancelled: its task is not."""
    async with offered(bench.service, way) as address:
        client = patient(address)
        held = await client.evaluate(PAYMENT)
        bench.people.say(held.approval_id, sync_pb2.APPROVAL_STATE_PENDING)
        waiting = asyncio.ensure_future(client.wait_for_approval(held))
        await eventually(lambda: bench.service.approvals.waiting == 1)
        await client.close()
        assert (await waiting).state == "unknown"
        assert (await client.evaluate(READ)).error_code == "CANCELLED"
        assert not await client.report_outcome("some id")


def test_an_asyncio_client_outlives_event_loops(nowhere: str) -> None:
    """It is made before there is one, as a decorator needs, and each loop has a connection of its own."""
    client = patient(nowhere)
    for _ in range(2):
        assert asyncio.run(client.evaluate(READ)).error_code == "UNAVAILABLE"


def test_a_synchronous_run_needs_no_event_loop(nowhere: str) -> None:
    """Its function may run one of its own."""

    async def read() -> str:
        return "read"

    with AscendClient("", AGENT, "Test", pdp_address=nowhere, fail_mode="open") as client:
        assert client.run(READ, lambda: asyncio.run(read())) == "read"
