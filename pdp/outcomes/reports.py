"""Reports of outcomes, from protobuf and JSON."""

from typing import Any

from pdp import wire
from pdp.core.action import REPORT, OutcomeReport
from pdp.core.errors import InvalidActionError, Problem, Problems
from pdp.core.fields import read_fields
from pdp.core.json import strict_json
from pdp.core.model import Result
from pdp.v1 import decision_pb2 as pb

MAX_REPORT_BYTES = 64 * 1024
"""An error of 4,096 characters with each of them escaped, and what stands beside it."""

_RESULTS = {result.value: result.name.lower() for result in Result}


def read_message(raw: bytes) -> OutcomeReport:
    """The report in a serialized message; `InvalidActionError` with every invalid field."""
    if len(raw) > MAX_REPORT_BYTES:
        raise InvalidActionError(Problem("request", f"is larger than {MAX_REPORT_BYTES} bytes"))
    message = wire.parse(pb.ReportOutcomeRequest, raw)
    given: dict[str, Any] = {
        "decision_id": message.decision_id,
        "result": _RESULTS.get(message.result, message.result or None),
        "error": message.error,
        "agent_id": message.agent_id,
        "actual_cost_usd": message.actual_cost_usd if message.HasField("actual_cost_usd") else None,
    }
    return _read({name: value for name, value in given.items() if value not in ("", None)})


def read_json(body: bytes) -> OutcomeReport:
    """The report in a JSON text; `InvalidActionError` with every invalid field."""
    try:
        return _read(strict_json.loads(body))
    except ValueError as error:
        if isinstance(error, InvalidActionError):
            raise
        raise InvalidActionError(Problem("request", f"is not JSON: {error}")) from None


def _read(document: Any) -> OutcomeReport:
    problems = Problems()
    values = read_fields(document, REPORT, "", problems)
    if problems:
        raise InvalidActionError(*problems)
    return OutcomeReport(*values.values())
