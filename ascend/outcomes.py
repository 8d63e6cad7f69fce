"""How an action ended, as it is reported to the sidecar."""

import logging
from collections.abc import Callable
from math import isfinite
from typing import TypeVar

from ascend.calls.calls import CallError
from pdp.v1 import decision_pb2 as pb

MAX_ERROR_CHARACTERS = 4096
MAX_DOLLARS = 1_000_000_000

logger = logging.getLogger("ascend")

T = TypeVar("T")


def outcome(
    agent_id: str, decision_id: str, *, cost: float | None = None, error: BaseException | str | None = None
) -> pb.ReportOutcomeRequest:
    """The report that the action of a decision succeeded, or failed with this error. `ValueError` for a wrong cost."""
    message = pb.ReportOutcomeRequest(
        decision_id=decision_id,
        agent_id=agent_id,
        result=pb.ACTION_RESULT_SUCCEEDED if error is None else pb.ACTION_RESULT_FAILED,
        error="" if error is None else _described(error),
    )
    if cost is not None:
        message.actual_cost_usd = dollars(cost)
    return message


def cost_of(result: T, cost: Callable[[T], float | None] | None) -> float | None:
    """What `cost` says that a result has cost; None if it is not told, or if it fails: the action is done by then."""
    if cost is None:
        return None
    try:
        value = cost(result)
        return None if value is None else dollars(value)
    except Exception as error:
        logger.warning("the cost of an action is not known, so its estimate counts: %s", _described(error))
        return None


def log_lost(outcome: pb.ReportOutcomeRequest, error: Exception) -> None:
    """Log an outcome that could not be reported: the action is done, so nothing else may come of it."""
    why = str(error) if isinstance(error, CallError) else _described(error)
    logger.warning(
        "the outcome of decision `%s` was not reported, so its estimate counts: %s", outcome.decision_id, why
    )


def dollars(value: float) -> float:
    """An amount in US dollars; `ValueError` if it is none."""
    amount = float(value)
    if not (isfinite(amount) and 0 <= amount <= MAX_DOLLARS):
        raise ValueError(f"`actual_cost_usd`: `{value}` is not within 0 to {MAX_DOLLARS}")
    return amount


def _described(error: BaseException | str) -> str:
    """An error as the sidecar takes it: bounded, without what is not text. Exceptions may be of any class."""
    try:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:
        text = type(error).__name__
    return text[:MAX_ERROR_CHARACTERS].encode(errors="replace").decode().replace("\0", "?")
