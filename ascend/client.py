"""`AscendClient`: asks the local sidecar for decisions, and blocks if there is no answer."""

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack

from ascend import outcomes, settings
from ascend.action import ActionFields, AgentAction, ComputedFields
from ascend.conversation import Conversation, Transport, finished
from ascend.governed import Calls, check_synchronous
from ascend.model import Approval, Decision, Question
from ascend.registration import Registration
from ascend.settings import FailMode
from ascend.transports import BlockingTransport

if TYPE_CHECKING:
    from ascend.registry import Registry

APPROVAL_SECONDS = 3600.0
"""How long people have by default, as in a policy that says nothing else."""

P = ParamSpec("P")
T = TypeVar("T")


class AscendClient:
    """The client of one agent, or of several, for their policy decision point; thread-safe.

    `agent_id` and `agent_name` are of the agent that asks where a call names no other. `pdp_address` is
    `http+unix:PATH` or `http://HOST:PORT` over HTTP, which is quicker, or `unix:PATH` or `HOST:PORT` by gRPC; by
    default `$PDP_HTTP_ADDRESS`, else `$PDP_ADDRESS`, else `127.0.0.1:50051`. `timeout` bounds each call, in seconds.
    Without an answer the decision is a block with reason PDP_UNAVAILABLE. With `fail_mode="open"`, by default
    `$PDP_FAIL_MODE`, it is an allow with that reason; but a malformed action, and an idempotency key that is repeated
    too often, always get a block. With `registry_url` an unregistered agent registers itself.

    With `pdp_ca`, by default `$PDP_CA`, a sidecar on TCP is called over TLS, by gRPC or at `https://HOST:PORT`: the
    file has the authorities that its certificate is checked against. `pdp_cert` and `pdp_key`, by default `$PDP_CERT`
    and `$PDP_KEY`, are the client's own. New files are used without a restart. `registry_ca` is a file with
    authorities for an https `registry_url`.
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

    def _connect(self, checked: settings.Settings) -> Transport:
        return BlockingTransport(checked, self._registration)

    def register(
        self,
        agent_type: str = "supervised",
        capabilities: Sequence[str] = (),
        allowed_resources: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Register the agent, unless it is registered already, and return its record; an existing agent is not changed.

        `capabilities` are the allowed action types; empty allows any. `RegistryError` if the registration fails.
        """
        return self._registration.register(agent_type, capabilities, allowed_resources, metadata)

    @property
    def registry(self) -> "Registry":
        """The registry at `registry_url`, called with the same key; `ValueError` without a `registry_url`."""
        return self._registration.registry

    def evaluate_action(
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
        """Whether the agent may do an action of this type on this resource; never raises for what the action holds.

        `fields` are the other fields of an `AgentAction`, such as `risk_score`.
        """
        return self.evaluate(
            AgentAction(action_type=action_type, resource=resource, **fields),
            agent_id=agent_id,
            idempotency_key=idempotency_key,
            approval_id=approval_id,
            dry_run=dry_run,
        )

    def evaluate(
        self,
        action: AgentAction,
        *,
        agent_id: str = "",
        idempotency_key: str = "",
        approval_id: str = "",
        dry_run: bool = False,
    ) -> Decision:
        """Whether the agent may do `action`; never raises for what the action holds.

        It asks once: a question that failed is not repeated, because the sidecar may have counted it. One that counts
        once however often it comes, because it has a key or is a dry run, may be sent twice.
        """
        question = Question(agent_id or self.agent_id, action, idempotency_key, approval_id, dry_run)
        return finished(self._conversation.decide(question))

    def wait_for_approval(self, decision: Decision | str, timeout: float = APPROVAL_SECONDS) -> Approval:
        """Wait for the approval that a decision asked for, given the decision or its `approval_id`.

        Returns when the approval is final, or after `timeout` seconds with the last known state. Once it is approved,
        evaluate the same action again with the `approval_id`. Never raises; keeps waiting while the sidecar or the
        registry is unavailable.
        """
        approval_id = decision if isinstance(decision, str) else decision.approval_id
        return finished(self._conversation.wait(approval_id, timeout))[0]

    def run(
        self,
        action: AgentAction,
        function: Callable[[], T],
        *,
        agent_id: str = "",
        idempotency_key: str = "",
        approval_id: str = "",
        approval_timeout: float = APPROVAL_SECONDS,
        cost: Callable[[T], float | None] | None = None,
    ) -> T:
        """Call `function` if the agent may do `action`, report how it ended, and return its result.

        If people must approve the action, it waits for them, at most `approval_timeout` seconds (0: not at all); an
        `approval_id` from an earlier `ApprovalPending` continues that wait. `cost` gives the cost of a result in US
        dollars; without it the action's estimate counts. An `ActionRefused` if the action is not allowed. What
        `function` raises is reported and raised again; a report that fails is logged, and changes nothing.

        Under an `idempotency_key`, such as the id of a tool call, a run that is repeated counts once.
        """
        check_synchronous(function)
        question = Question(agent_id or self.agent_id, action, idempotency_key, approval_id)
        return self._run(question, function, approval_timeout, cost)

    def governed(
        self,
        action_type: str,
        *,
        agent_id: str | Callable[[Any], str] = "",
        idempotency_key: str | Callable[[Any], str] = "",
        approval_timeout: float = APPROVAL_SECONDS,
        cost: Callable[[Any], float | None] | None = None,
        **fields: Unpack[ComputedFields],
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """A decorator: each call of the function is a `run` of an action of this type.

        `fields` are the other fields of an `AgentAction`. Each field, `agent_id` and `idempotency_key` is a value, or
        a function of the call: `amount=lambda call: call.amount` for an argument `amount`.
        """

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            check_synchronous(function)
            calls = Calls(function, action_type, fields, agent_id, idempotency_key)

            @functools.wraps(function)
            def governed(*args: P.args, **kwargs: P.kwargs) -> T:
                question = calls.question(args, kwargs, self.agent_id)
                result: T = self._run(question, lambda: function(*args, **kwargs), approval_timeout, cost)
                return result

            return governed

        return decorate

    def report_outcome(
        self,
        decision: Decision | str,
        *,
        actual_cost_usd: float | None = None,
        error: BaseException | str | None = None,
        agent_id: str = "",
    ) -> bool:
        """Report how the action of an allow ended, given the decision or its `decision_id`; `run` does so by itself.

        Without an `error` it succeeded; without a cost its estimate counts. Returns whether the sidecar has taken it,
        also if it had before. Never raises for a missing answer; `ValueError` for a cost that is no amount.
        """
        decision_id = decision if isinstance(decision, str) else decision.decision_id
        outcome = outcomes.outcome(agent_id or self.agent_id, decision_id, cost=actual_cost_usd, error=error)
        return finished(self._transport.report(outcome))

    def close(self) -> None:
        """Closes the connections to the sidecar and the registry."""
        finished(self._transport.close())
        self._registration.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self,
        question: Question,
        function: Callable[[], T],
        approval_timeout: float,
        cost: Callable[[T], float | None] | None,
    ) -> T:
        decision = finished(self._conversation.admit(question, approval_timeout))
        try:
            result = _complete(function())
        except BaseException as error:
            self._report(question.agent_id, decision, error=error)
            raise
        self._report(question.agent_id, decision, cost=outcomes.cost_of(result, cost))
        return result

    def _report(self, agent_id: str, decision: Decision, **ended: Any) -> None:
        if decision.decision_id:  # an allow without an answer, in fail mode open, has none
            finished(self._transport.report(outcomes.outcome(agent_id, decision.decision_id, **ended)))


def _complete(result: T) -> T:
    """The result of a function; `TypeError` if it is a coroutine, which has done nothing yet."""
    coroutine: object = result
    if isinstance(coroutine, Coroutine):
        coroutine.close()
        raise TypeError("the function returned a coroutine, which was not run: use `AsyncAscendClient`")
    return result
