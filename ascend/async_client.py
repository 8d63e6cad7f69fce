"""`AsyncAscendClient`: `AscendClient` for asyncio."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack

from ascend import outcomes, settings
from ascend.action import ActionFields, AgentAction, ComputedFields
from ascend.async_transport import AsyncTransport
from ascend.client import APPROVAL_SECONDS
from ascend.conversation import Conversation, Transport
from ascend.governed import Calls, check_asynchronous, check_ends
from ascend.model import Approval, Decision, Question
from ascend.registration import Registration
from ascend.settings import FailMode

if TYPE_CHECKING:
    from ascend.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")


class AsyncAscendClient:
    """`AscendClient` for asyncio: the same arguments, and the same methods as coroutines.

    Calls of one client share connections, and a call that waits holds up no other. It may be made before an event
    loop runs, and used by several loops one after the other.
    """

    def __init__(
        self,
        api_key: str,
        agent_id: str,
        agent_name: str,
        *,
        pdp_address: str | None = None,
        registry_url: str | None = None,
        fail_mode: FailMode | None = None,
        timeout: float = 5.0,
        pdp_ca: str | None = None,
        pdp_cert: str | None = None,
        pdp_key: str | None = None,
        registry_ca: str | None = None,
    ) -> None:
        checked = settings.read(pdp_address, fail_mode, timeout, (pdp_ca, pdp_cert, pdp_key))
        self.agent_id = agent_id
        self.agent_name = agent_name
        self._registration = Registration(agent_id, agent_name, registry_url, api_key, timeout, ca=registry_ca)
        self._transport = self._connect(checked)
        self._conversation = Conversation(self._transport)
        self._reports: set[asyncio.Task[bool]] = set()

    def _connect(self, checked: settings.Settings) -> Transport:
        return AsyncTransport(checked, self._registration)

    async def register(
        self,
        agent_type: str = "supervised",
        capabilities: Sequence[str] = (),
        allowed_resources: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As `AscendClient.register`, in a thread."""
        return await asyncio.to_thread(
            self._registration.register, agent_type, capabilities, allowed_resources, metadata
        )

    @property
    def registry(self) -> "Registry":
        """The registry, as of `AscendClient`; its calls block, so make them in a thread."""
        return self._registration.registry

    async def evaluate_action(
        self,
        action_type: str,
        resource: str = "",
        *,
        agent_id: str = "",
        idempotency_key: str = "",
        approval_id: str = "",
        dry_run: bool = False,
        **fields: Unpack[ActionFields],
    ) -> Decision:
        """As `AscendClient.evaluate_action`."""
        return await self.evaluate(
            AgentAction(action_type=action_type, resource=resource, **fields),
            agent_id=agent_id,
            idempotency_key=idempotency_key,
            approval_id=approval_id,
            dry_run=dry_run,
        )

    async def evaluate(
        self,
        action: AgentAction,
        *,
        agent_id: str = "",
        idempotency_key: str = "",
        approval_id: str = "",
        dry_run: bool = False,
    ) -> Decision:
        """As `AscendClient.evaluate`."""
        question = Question(agent_id or self.agent_id, action, idempotency_key, approval_id, dry_run)
        return await self._conversation.decide(question)

    async def wait_for_approval(self, decision: Decision | str, timeout: float = APPROVAL_SECONDS) -> Approval:  # noqa: ASYNC109 - at the time-out it returns the last state
        """As `AscendClient.wait_for_approval`."""
        approval_id = decision if isinstance(decision, str) else decision.approval_id
        return (await self._conversation.wait(approval_id, timeout))[0]

    async def run(
        self,
        action: AgentAction,
        function: Callable[[], Awaitable[T]],
        *,
        agent_id: str = "",
        idempotency_key: str = "",
        approval_id: str = "",
        approval_timeout: float = APPROVAL_SECONDS,
        cost: Callable[[T], float | None] | None = None,
    ) -> T:
        """As `AscendClient.run`, for a coroutine function.

        A cancelled run reports a failure, and does not wait for that report; `close` does.
        """
        check_ends(function)
        question = Question(agent_id or self.agent_id, action, idempotency_key, approval_id)
        return await self._run(question, function, approval_timeout, cost)

    def governed(
        self,
        action_type: str,
        *,
        agent_id: str | Callable[[Any], str] = "",
        idempotency_key: str | Callable[[Any], str] = "",
        approval_timeout: float = APPROVAL_SECONDS,
        cost: Callable[[Any], float | None] | None = None,
        **fields: Unpack[ComputedFields],
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
        """As `AscendClient.governed`, for coroutine functions."""

        def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
            check_asynchronous(function)
            calls = Calls(function, action_type, fields, agent_id, idempotency_key)

            @functools.wraps(function)
            async def governed(*args: P.args, **kwargs: P.kwargs) -> T:
                question = calls.question(args, kwargs, self.agent_id)
                return await self._run(question, lambda: function(*args, **kwargs), approval_timeout, cost)

            return governed

        return decorate

    async def report_outcome(
        self,
        decision: Decision | str,
        *,
        actual_cost_usd: float | None = None,
        error: BaseException | str | None = None,
        agent_id: str = "",
    ) -> bool:
        """As `AscendClient.report_outcome`."""
        decision_id = decision if isinstance(decision, str) else decision.decision_id
        outcome = outcomes.outcome(agent_id or self.agent_id, decision_id, cost=actual_cost_usd, error=error)
        return await self._transport.report(outcome)

    async def close(self) -> None:
        """Waits for reports that are under way, and closes the connections to the sidecar and the registry."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(one for one in self._reports if one.get_loop() is loop), return_exceptions=True)
        await self._transport.close()
        self._registration.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(
        self,
        question: Question,
        function: Callable[[], Awaitable[T]],
        approval_timeout: float,
        cost: Callable[[T], float | None] | None,
    ) -> T:
        decision = await self._conversation.admit(question, approval_timeout)
        try:
            result = await _complete(function())
        except Exception as error:
            await self._report(question.agent_id, decision, error=error)
            raise
        except BaseException as error:  # a cancellation goes on at once
            with suppress(RuntimeError):  # the event loop has ended already
                self._report(question.agent_id, decision, error=error)
            raise
        await self._report(question.agent_id, decision, cost=outcomes.cost_of(result, cost))
        return result

    def _report(self, agent_id: str, decision: Decision, **ended: Any) -> Awaitable[object]:
        """Begin a report, which goes on if its caller is cancelled; to await the result is to wait for the report."""
        loop = asyncio.get_running_loop()
        outcome = outcomes.outcome(agent_id, decision.decision_id, **ended)
        if not decision.decision_id:  # an allow without an answer, in fail mode open, has none
            nothing = loop.create_future()
            nothing.set_result(None)
            return nothing
        report = loop.create_task(self._transport.report(outcome))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)
        return asyncio.shield(report)


async def _complete(result: Awaitable[T]) -> T:
    """The result of a coroutine function; what another function has returned already is its result."""
    if inspect.isawaitable(result):
        return await result
    done: T = result
    return done
