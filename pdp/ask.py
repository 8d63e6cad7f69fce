"""What `pdp evaluate` puts to a sidecar, and how it tells the answer."""

from typing import Any, NamedTuple

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from pdp import wire
from pdp.settings import SettingsError
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub


class NoAnswer(NamedTuple):
    """Why there is no decision; `malformed`: it is the request that is wrong."""

    message: str
    malformed: bool


def request(
    *,
    agent: str,
    action: str,
    resource: str,
    resource_id: str,
    risk: int | None,
    amount: float | None,
    cost: float | None,
    data_classification: tuple[str, ...],
    mcp_server: str,
    tool: str,
    environment: str,
    attributes: dict[str, Any],
    mfa_verified: bool,
    idempotency_key: str,
    dry_run: bool,
) -> pb.EvaluateRequest:
    """The request that the options describe; `SettingsError` for attributes that no message can hold."""
    message = pb.EvaluateRequest(
        action=pb.Action(
            agent_id=agent,
            action_type=action,
            resource=resource,
            resource_id=resource_id,
            risk_score=risk,
            amount=amount,
            estimated_cost_usd=cost,
            data_classifications=data_classification,
            mcp_server=mcp_server,
            tool=tool,
            environment=environment,
            mfa_verified=mfa_verified,
        ),
        idempotency_key=idempotency_key,
        dry_run=dry_run,
    )
    try:
        ParseDict(attributes, message.action.attributes)
    except (ParseError, ValueError) as error:
        raise SettingsError("--attributes", str(error)) from error
    return message


def evaluate(target: str, message: pb.EvaluateRequest, timeout: float) -> dict[str, Any] | NoAnswer:
    """The sidecar's answer, with the names that the JSON door gives."""
    with grpc.insecure_channel(target) as channel:
        try:
            return wire.answer_json(PolicyDecisionPointStub(channel).Evaluate(message, timeout=timeout))
        except grpc.RpcError as error:
            malformed = error.code() is grpc.StatusCode.INVALID_ARGUMENT
            return NoAnswer(f"{error.code().name}: {error.details()}", malformed)


def told(answer: dict[str, Any]) -> str:
    """An answer as a few lines for people."""
    lines = [f"{answer['outcome']} · {answer['reason']}", answer["message"], f"risk {answer['risk_score']}"]
    if answer["policy"]:
        lines.append("policy {name} ({id}, priority {priority})".format_map(answer["policy"]))
    lines += [f"{name} {value}" for name, value in answer["action_params"].items()]
    if answer["retry_after"] is not None:
        lines.append(f"retry after {answer['retry_after']:.3f} s")
    left = [f"{count} this {window}" for window, count in answer["rate_remaining"].items() if count is not None]
    if left:
        lines.append(f"remaining {', '.join(left)}")
    lines.append(f"decision {answer['decision_id']}, registry revision {answer['registry_revision']}")
    return "\n".join(lines)
