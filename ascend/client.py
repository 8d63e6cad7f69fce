"""`AscendClient`: asks the local sidecar for decisions, and blocks if there is no answer."""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, Unpack

import grpc

from ascend import messages
from ascend.action import ActionFields, AgentAction
from ascend.errors import RegistryError
from ascend.model import Approval, ApprovalState, Decision, Outcome
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

# The client reconnects to a restarted sidecar within a second. `min_reconnect_backoff_ms` keeps its default: it limits
# the time to connect, and a sidecar may be busy for a moment without being down.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

# The start of the sidecar's message about a key that was repeated too often; RESOURCE_EXHAUSTED has other causes too.
_REPEATED = "idempotency_key: "

logger = logging.getLogger(__name__)


class AscendClient:
    """The client of one agent for its policy decision point; thread-safe.

    `pdp_address` is `HOST:PORT` or `unix:PATH`, by default `$PDP_ADDRESS`, else `127.0.0.1:50051`. `timeout` bounds
    each call, in seconds. Without an answer the decision is a block with reason PDP_UNAVAILABLE. With
    `fail_mode="open"` it is an allow with that reason; but a malformed action, and an idempotency key that is repeated
    too often, always get a block. With `registry_url` an unregistered agent registers itself.
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
        """Register the agent, unless it is registered already, and return its record; an existing agent is not changed.

        `capabilities` are the allowed action types; empty allows any. `RegistryError` if the registration fails.
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
        """The registry at `registry_url`, called with the same key; `ValueError` without a `registry_url`."""
        if self._registry is None:
            raise ValueError("`registry_url` is required for calls to the registry")
        return self._registry

    def evaluate_action(
        self,
        action_type: str,
        resource: str = "",
        *,
        idempotency_key: str = "",
        approval_id: str = "",
        dry_run: bool = False,
        **fields: Unpack[ActionFields],
    ) -> Decision:
        """Whether the agent may do an action of this type on this resource; never raises for what the action holds.

        `fields` are the other fields of an `AgentAction`, such as `risk_score`.
        """
        action = AgentAction(action_type=action_type, resource=resource, **fields)
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
            return _malformed_action(str(error))
        decision = self._ask(request)
        if decision.reason == NOT_REGISTERED and self._registry is not None and self._try_register():
            return self._ask_until_registered(request, decision)
        return decision

    def wait_for_approval(self, decision: Decision | str, timeout: float = 3600.0) -> Approval:
        """Wait for the approval that a decision asked for, given the decision or its `approval_id`.

        Returns when the approval is final, or after `timeout` seconds with the last known state. Once it is approved,
        evaluate the same action again with the `approval_id`. Never raises; keeps waiting while the sidecar or the
        registry is unavailable.
        """
        approval_id = decision if isinstance(decision, str) else decision.approval_id
        known = Approval(approval_id, ApprovalState.UNKNOWN)
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            known, ended = self._wait_once(known, left)
            if ended:
                break
            time.sleep(min(WAIT_AGAIN_SECONDS, max(0.0, until - time.monotonic())))
        return known

    def _wait_once(self, known: Approval, seconds: float) -> tuple[Approval, bool]:
        """The last known state of an approval after one call, and whether it is final."""
        try:
            for update in self._wait(pb.WaitForApprovalRequest(approval_id=known.approval_id), timeout=seconds):
                known = messages.approval(update)
        except grpc.RpcError as error:
            if error.code() in _RETRIED:
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
            return self._failed(error.code(), error.details() or "")
        except ValueError as error:  # the client is closed
            return self._failed(grpc.StatusCode.CANCELLED, str(error))
        try:
            return messages.decision(answer)
        except Exception as error:
            message = f"the answer cannot be read: {error}"
            return Decision(Outcome.BLOCK, UNAVAILABLE, message, error_code=grpc.StatusCode.INTERNAL.name)

    def _failed(self, code: grpc.StatusCode, details: str) -> Decision:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return _malformed_action(details)
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.startswith(_REPEATED)
        outcome = Outcome.ALLOW if self._fail_mode == "open" and not refused else Outcome.BLOCK
        return Decision(outcome, UNAVAILABLE, f"no decision: {details}", error_code=code.name)

    def _try_register(self) -> bool:
        """Register the agent; after a failure, not again for a while, since each try delays an action."""
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

    def _ask_until_registered(self, request: pb.EvaluateRequest, decision: Decision) -> Decision:
        until = time.monotonic() + REGISTERED_WITHIN_SECONDS
        while decision.reason == NOT_REGISTERED and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
            decision = self._ask(request)
        return decision


def _malformed_action(details: str) -> Decision:
    name, colon, _ = details.partition(": ")
    return Decision(
        Outcome.BLOCK,
        UNAVAILABLE,
        f"the action is malformed: {details}",
        error_code=grpc.StatusCode.INVALID_ARGUMENT.name,
        field=name.removeprefix("action.") if colon and " " not in name else "",
    )
