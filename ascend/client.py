"""`AscendClient`: asks the sidecar beside the agent, and blocks when there is no answer."""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import grpc

from ascend import messages
from ascend.errors import RegistryError
from ascend.model import AgentAction, Approval, ApprovalState, Decision, Outcome
from ascend.registry import Registry
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub

DEFAULT_ADDRESS = "127.0.0.1:50051"
REGISTERED_WITHIN_SECONDS = 10.0
REGISTER_AGAIN_SECONDS = 30.0
POLL_SECONDS = 0.05
WAIT_AGAIN_SECONDS = 0.5

UNAVAILABLE = "PDP_UNAVAILABLE"
NOT_REGISTERED = "AGENT_NOT_REGISTERED"

# A sidecar that restarts is found again within a second. `min_reconnect_backoff_ms` stays as it is: it bounds how long
# a connection may take to be made, and a sidecar that stands still for a moment is not away.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

# How the sidecar's refusal of one repeat too many of a key begins; a sidecar without room says something else.
_REPEATED = "idempotency_key: "

logger = logging.getLogger(__name__)


class AscendClient:
    """One agent's line to its policy decision point; may be shared by threads.

    `pdp_address` is `HOST:PORT` or `unix:PATH`, by default `$PDP_ADDRESS`, else `127.0.0.1:50051`. `timeout` bounds
    each question, in seconds. Without an answer the decision is a block with reason PDP_UNAVAILABLE; with
    `fail_mode="open"` it is an allow with that reason, except when it is the action that the sidecar refused as
    malformed, or an idempotency key that was repeated too often: that is always a block. With `registry_url` an
    agent that nobody has registered registers itself.
    """

    def __init__(
        self,
        api_key: str,
        agent_id: str,
        agent_name: str,
        *,
        pdp_address: str | None = None,
        registry_url: str | None = None,
        fail_mode: Literal["closed", "open"] = "closed",
        timeout: float = 5.0,
    ) -> None:
        if fail_mode not in ("closed", "open"):
            raise ValueError(f"`fail_mode`: `{fail_mode}` is not one of closed, open")
        if not timeout > 0:
            raise ValueError(f"`timeout`: `{timeout}` is not above 0")
        self.agent_id = agent_id
        self.agent_name = agent_name
        self._registry = Registry(registry_url, api_key, timeout) if registry_url is not None else None
        self._fail_mode = fail_mode
        self._timeout = timeout
        address = pdp_address or os.environ.get("PDP_ADDRESS") or DEFAULT_ADDRESS
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        stub = PolicyDecisionPointStub(self._channel)
        self._evaluate, self._wait = stub.Evaluate, stub.WaitForApproval
        self._registering = threading.Lock()
        self._register_after = 0.0

    def register(
        self,
        agent_type: str = "supervised",
        capabilities: Sequence[str] = (),
        allowed_resources: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The agent's record, after registering it unless it was registered before, when nothing is changed.

        `capabilities` are the action types that it may do; none: any. `RegistryError` when that fails.
        """
        return self.registry.register(
            agent_id=self.agent_id,
            display_name=self.agent_name,
            agent_type=agent_type,
            allowed_action_types=list(capabilities),
            allowed_resources=list(allowed_resources),
            metadata=dict(metadata or {}),
        )

    @property
    def registry(self) -> Registry:
        """The registry at `registry_url`, called with the same key; `ValueError` where there is none."""
        if self._registry is None:
            raise ValueError("`registry_url` is needed for this")
        return self._registry

    def evaluate_action(
        self,
        action_type: str,
        resource: str = "",
        *,
        resource_id: str = "",
        risk_score: int | None = None,
        amount: float | None = None,
        estimated_cost_usd: float | None = None,
        data_classifications: Sequence[str] = (),
        mcp_server: str = "",
        tool: str = "",
        environment: str = "",
        attributes: Mapping[str, Any] | None = None,
        mfa_verified: bool = False,
        idempotency_key: str = "",
        approval_id: str = "",
        dry_run: bool = False,
    ) -> Decision:
        """Whether the agent may do an action of this type on this resource; never raises for what the action holds."""
        action = AgentAction(
            action_type=action_type,
            resource=resource,
            resource_id=resource_id,
            risk_score=risk_score,
            amount=amount,
            estimated_cost_usd=estimated_cost_usd,
            data_classifications=data_classifications,
            mcp_server=mcp_server,
            tool=tool,
            environment=environment,
            attributes={} if attributes is None else attributes,
            mfa_verified=mfa_verified,
        )
        return self.evaluate(action, idempotency_key=idempotency_key, approval_id=approval_id, dry_run=dry_run)

    def evaluate(
        self, action: AgentAction, *, idempotency_key: str = "", approval_id: str = "", dry_run: bool = False
    ) -> Decision:
        """Whether the agent may do `action`; never raises for what the action holds."""
        try:
            request = messages.request(
                self.agent_id,
                action,
                idempotency_key=idempotency_key,
                approval_id=approval_id,
                dry_run=dry_run,
            )
        except messages.MalformedActionError as error:
            return _malformed(str(error))
        decision = self._ask(request)
        if decision.reason == NOT_REGISTERED and self._registry is not None and self._registered():
            return self._ask_until_known(request, decision)
        return decision

    def wait_for_approval(self, decision: Decision | str, timeout: float = 3600.0) -> Approval:
        """What people say of the action that a decision held back, given the decision or its `approval_id`.

        Returns as soon as they have decided or may no longer, and after `timeout` seconds with what is known then. Put
        the same action again, with the `approval_id`, once it is approved. Never raises; waits on while the sidecar
        or the registry is away.
        """
        approval_id = decision if isinstance(decision, str) else decision.approval_id
        known = Approval(approval_id, ApprovalState.UNKNOWN)
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            known, ended = self._hear(known, left)
            if ended:
                break
            time.sleep(min(WAIT_AGAIN_SECONDS, max(0.0, until - time.monotonic())))
        return known

    def _hear(self, known: Approval, seconds: float) -> tuple[Approval, bool]:
        """What is known of an approval after one call, and whether no other call would tell more."""
        try:
            for update in self._wait(pb.WaitForApprovalRequest(approval_id=known.approval_id), timeout=seconds):
                known = messages.approval(update)
        except grpc.RpcError as error:
            if error.code() in _AWAY:
                return known, False
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                known = replace(known, state=ApprovalState.UNKNOWN, comment=error.details() or "")
        except Exception as error:  # the client is closed, or an update cannot be read
            known = replace(known, state=ApprovalState.UNKNOWN, comment=str(error))
        return known, True

    def close(self) -> None:
        """Closes the connections to the sidecar and the registry."""
        self._channel.close()
        if self._registry is not None:
            self._registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: pb.EvaluateRequest) -> Decision:
        try:
            answer = self._evaluate(request, timeout=self._timeout)
        except grpc.RpcError as error:
            return self._unanswered(error.code(), error.details() or "")
        except ValueError as error:  # the client is closed
            return self._unanswered(grpc.StatusCode.CANCELLED, str(error))
        try:
            return messages.decision(answer)
        except Exception as error:
            told = f"the answer cannot be read: {error}"
            return Decision(Outcome.BLOCK, UNAVAILABLE, told, error_code=grpc.StatusCode.INTERNAL.name)

    def _unanswered(self, code: grpc.StatusCode, details: str) -> Decision:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return _malformed(details)
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.startswith(_REPEATED)
        outcome = Outcome.ALLOW if self._fail_mode == "open" and not refused else Outcome.BLOCK
        return Decision(outcome, UNAVAILABLE, f"no decision: {details}", error_code=code.name)

    def _registered(self) -> bool:
        """Registers the agent; not again so soon after a failure, which would hold up every action."""
        with self._registering:
            if time.monotonic() < self._register_after:
                return False
            try:
                self.register()
            except RegistryError as error:
                self._register_after = time.monotonic() + REGISTER_AGAIN_SECONDS
                logger.warning("agent `%s` is not registered: %s", self.agent_id, error)
                return False
            return True

    def _ask_until_known(self, request: pb.EvaluateRequest, decision: Decision) -> Decision:
        until = time.monotonic() + REGISTERED_WITHIN_SECONDS
        while decision.reason == NOT_REGISTERED and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            decision = self._ask(request)
        return decision


def _malformed(details: str) -> Decision:
    name, colon, _ = details.partition(": ")
    return Decision(
        Outcome.BLOCK,
        UNAVAILABLE,
        f"the action is malformed: {details}",
        error_code=grpc.StatusCode.INVALID_ARGUMENT.name,
        field=name.removeprefix("action.") if colon and " " not in name else "",
    )
