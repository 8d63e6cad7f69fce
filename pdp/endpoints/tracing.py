"""One span for each decision, for `--traces`; it needs the extra `otel` and is imported only with the flag."""

from opentelemetry.trace import StatusCode

from pdp import wire
from pdp.callers.callers import Caller
from pdp.endpoints.service import Decide
from pdp.serving.monitoring.tracing import Tracing, attributes
from pdp.v1 import decision_pb2 as pb


def traced(tracing: Tracing, decide: Decide) -> Decide:
    """`decide` in a span, which shows no attribute of the action and nothing of a person."""

    async def decide_in_span(request: wire.Request, caller: Caller) -> bytes:
        span = tracing.span("pdp.decision")
        if not span.is_recording():
            return await decide(request, caller)
        span.set_attributes(attributes(_asked(request)))
        try:
            answer = await decide(request, caller)
            span.set_attributes(attributes(_answered(pb.EvaluateResponse.FromString(answer))))
            return answer
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    return decide_in_span


def _asked(request: wire.Request) -> dict[str, str | int | bool]:
    return {
        "pdp.agent.id": request.action.agent_id,
        "pdp.action.type": request.action.action_type,
        "pdp.dry_run": request.dry_run,
    }


def _answered(answer: pb.EvaluateResponse) -> dict[str, str | int | bool]:
    return {
        "pdp.decision.id": answer.decision_id,
        "pdp.outcome": pb.Outcome.Name(answer.outcome).removeprefix("OUTCOME_"),
        "pdp.reason": pb.Reason.Name(answer.reason).removeprefix("REASON_"),
        "pdp.policy.id": answer.policy.id,
        "pdp.source": pb.Source.Name(answer.source).removeprefix("SOURCE_"),
    }
