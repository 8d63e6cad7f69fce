"""The requests of `pdp evaluate` and `pdp explain` to a sidecar, and the output of its answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from pdp import wire
from pdp.core.explanation.text import render
from pdp.endpoints import explaining
from pdp.serving.addresses import Address
from pdp.serving.tls import diagnosis
from pdp.serving.tls.certificates import ClientFiles
from pdp.settings import SettingsError, read_credentials
from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub


class NoAnswerError(Exception):
    """The sidecar returned an error; `malformed`: the request is wrong. `why` replaces what gRPC says of it."""

    def __init__(self, error: grpc.RpcError, why: str | None = None) -> None:
        self.malformed = error.code() is grpc.StatusCode.INVALID_ARGUMENT
        super().__init__(f"{error.code().name}: {why or error.details()}")


class Answer(NamedTuple):
    """An answer as text for people and as JSON for programs."""

    text: str
    document: dict[str, Any]


class Question(NamedTuple):
    """An action, and the sidecar that is asked about it; over TLS with `files`."""

    target: Address
    timeout: float
    action: pb.Action
    files: ClientFiles | None = None

    def evaluate(self, idempotency_key: str, approval_id: str, dry_run: bool) -> Answer:
        """Asks for the decision; `NoAnswerError` if the sidecar returns an error."""
        request = pb.EvaluateRequest(
            action=self.action, idempotency_key=idempotency_key, approval_id=approval_id, dry_run=dry_run
        )
        document = wire.answer_json(self._ask("Evaluate", request))
        return Answer(_decision(document), document)

    def explain(self) -> Answer:
        """Asks for the decision and its explanation; `NoAnswerError` if the sidecar returns an error."""
        answer: pb.ExplainResponse = self._ask("Explain", pb.ExplainRequest(action=self.action))
        return Answer(render(explaining.read(answer)), explaining.explanation_json(answer))

    def _ask(self, method: str, request: pb.EvaluateRequest | pb.ExplainRequest) -> Any:
        with self._channel() as channel:
            try:
                return getattr(PolicyDecisionPointStub(channel), method)(request, timeout=self.timeout)
            except grpc.RpcError as error:
                raise NoAnswerError(error, self._failure(error.code())) from error

    def _channel(self) -> grpc.Channel:
        if self.files is None:
            return grpc.insecure_channel(str(self.target))
        return grpc.secure_channel(str(self.target), read_credentials(self.files, "--"))

    def _failure(self, code: grpc.StatusCode) -> str | None:
        """What is wrong with TLS to the sidecar, if that is why it cannot be reached."""
        if code is not grpc.StatusCode.UNAVAILABLE or self.target.path:
            return None
        return diagnosis.failure(self.target, self.files, "--")


def action(fields: Mapping[str, Any]) -> pb.Action:
    """Builds an action from its fields; `SettingsError` for an object that a protobuf message cannot hold."""
    objects = {name: value for name, value in fields.items() if isinstance(value, dict)}
    message = pb.Action(**{name: value for name, value in fields.items() if name not in objects})
    for name, value in objects.items():
        try:
            if value:
                ParseDict(value, getattr(message, name))
        except (ParseError, ValueError) as error:
            raise SettingsError(f"--{name}", str(error)) from error
    return message


def _decision(answer: dict[str, Any]) -> str:
    lines = [f"{answer['outcome']} · {answer['reason']}", answer["message"], f"risk {answer['risk_score']}"]
    if answer["policy"]:
        lines.append("policy {name} ({id}, priority {priority})".format_map(answer["policy"]))
    lines += [f"{name} {value}" for name, value in answer["action_params"].items()]
    if answer["approval_expires_at"]:
        state = "approval pending" if answer["approval_pending"] else "approval"
        lines.append(f"{state} {answer['approval_id']}, until {answer['approval_expires_at']}")
    if answer["retry_after"] is not None:
        lines.append(f"retry after {answer['retry_after']:.3f} s")
    left = [f"{count} this {window}" for window, count in answer["rate_remaining"].items() if count is not None]
    if left:
        lines.append(f"remaining {', '.join(left)}")
    lines.append(f"decision {answer['decision_id']}, registry revision {answer['registry_revision']}")
    return "\n".join(lines)
