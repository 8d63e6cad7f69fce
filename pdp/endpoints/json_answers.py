"""What people ask in JSON beside decisions: an explanation, and the state of an approval."""

from contextlib import aclosing
from functools import partial
from typing import Any

from pdp import wire
from pdp.approvals import TooManyWaitingError, next_update
from pdp.callers.callers import Caller
from pdp.core.errors import InvalidActionError
from pdp.core.fields import quote
from pdp.decision_point import UnavailableError
from pdp.endpoints import incoming
from pdp.endpoints.service import REQUEST_ERRORS, DecisionService, problem
from pdp.serving.requests import CrowdedError
from pdp.sync.uplink import StoreUnreachableError, UnknownApprovalError
from pdp.v1 import decision_pb2 as pb


class JsonAnswers:
    """Each answer is an HTTP status, and a document or a problem (RFC 9457)."""

    def __init__(self, service: DecisionService) -> None:
        self._service = service
        self._reading = incoming.Reading()

    async def explain(self, body: bytes, caller: Caller) -> tuple[int, dict[str, Any]]:
        """The explanation of an action, in the form of `pdp explain --json`."""
        try:
            action = await self._reading.of(len(body), partial(incoming.read_json_action, body))
            return 200, await self._service.explained(action, _explanation_json, caller)
        except CrowdedError as error:
            return 429, problem(429, "Too many explanations", str(error))
        except REQUEST_ERRORS as error:
            return self._service.json_problem(error)

    async def approval(self, approval_id: str, seconds: float, caller: Caller) -> tuple[int, dict[str, Any]]:
        """The state of an approval: at once if it is not pending, else the next one, or the same after `seconds`."""
        try:
            message = pb.WaitForApprovalRequest(approval_id=approval_id)
            async with aclosing(self._service.updates(wire.read_approval_id(message), caller)) as updates:
                return 200, wire.approval_json(await next_update(updates, seconds))
        except UnknownApprovalError:
            return 404, problem(404, "Unknown approval", f"approval {quote(approval_id)} is unknown")
        except TooManyWaitingError as error:
            return 429, problem(429, "Too many wait", str(error))
        except (UnavailableError, StoreUnreachableError) as error:
            return 503, problem(503, "No state now", str(error))
        except InvalidActionError as error:
            return self._service.json_problem(error)


def _explanation_json(answer: pb.ExplainResponse) -> dict[str, Any]:
    from pdp.endpoints import explaining  # in the thread that explains

    return explaining.explanation_json(answer)
