"""Answers are written as bytes, in parts that are joined: protobuf must find in them what it would have written."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pdp import wire
from pdp.core.compile import CompiledPolicy
from pdp.core.decision import Decision
from pdp.core.messages import by_policy
from pdp.core.model import Outcome, Reason, Source
from pdp.core.usage import Limits
from pdp.v1 import decision_pb2 as pb
from pdp.wire import results
from tests.core.records import policy_record

texts = st.text(st.characters(codec="utf-8"), max_size=200)
int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
doubles = st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
policies = st.fixed_dictionaries(
    {
        "policy_id": texts,
        "policy_name": texts,
        "priority": int32s,
        "policy_action": st.sampled_from(Outcome),
        "action_params": st.dictionaries(texts, values, max_size=3),
    }
).map(lambda fields: CompiledPolicy(replace(policy_record(), **fields)))
matches = st.builds(
    Decision,
    st.sampled_from(Outcome),
    st.just(Reason.POLICY_MATCHED),
    int32s,
    policies,
    st.booleans(),
    st.none() | doubles,
    shadow=st.lists(policies, max_size=3).map(tuple),
)
decisions = matches | st.builds(
    Decision,
    st.sampled_from(Outcome),
    st.sampled_from(Reason),
    int32s,
    st.none() | policies,
    st.booleans(),
    st.none() | doubles,
    shadow=st.lists(policies, max_size=3).map(tuple),
)
approvals = st.builds(
    wire.AwaitedApproval, texts.filter(bool), st.just(0.0) | st.floats(-6e10, 2e11).map(round), st.booleans()
)
beside: dict[str, st.SearchStrategy[Any]] = {
    "decision_id": texts,
    "revision": int64s,
    "source": st.sampled_from(Source),
    "staleness": doubles,
    "agent_version": texts,
    "remaining": st.builds(Limits, *[st.none() | int64s] * 3),
    "budget_micros": st.none() | st.integers(0, 2**60),
    "approval": st.none() | approvals,
}
answers = st.builds(wire.Answer, decisions, message=texts.filter(bool), **beside)
answers |= st.builds(wire.Answer, matches, message=st.just(""), **beside)


def by_protobuf(answer: wire.Answer) -> pb.EvaluateResponse:
    """The message of an answer, field by field."""
    decision, (minute, hour, day) = answer.decision, answer.remaining
    text = answer.message or by_policy(decision.policy, decision.outcome)
    message = pb.EvaluateResponse(
        outcome=pb.Outcome.Name(decision.outcome),
        reason=pb.Reason.Name(decision.reason),
        message=text,
        decision_id=answer.decision_id,
        risk_score=decision.risk_score,
        mfa_required=decision.mfa_required,
        policy=None if decision.policy is None else reference(decision.policy),
        shadow=[
            pb.ShadowVerdict(policy=reference(policy), outcome=pb.Outcome.Name(policy.outcome))
            for policy in decision.shadow
        ],
        budget_remaining_usd=None if answer.budget_micros is None else answer.budget_micros / 1_000_000,
        retry_after=decision.retry_after,
        agent_version=answer.agent_version,
        registry_revision=answer.revision,
        staleness=answer.staleness,
        source=pb.Source.Name(answer.source),
    )
    if (minute, hour, day) != (None, None, None):
        message.rate_remaining.CopyFrom(pb.RateRemaining(minute=minute, hour=hour, day=day))
    if decision.policy is not None and decision.policy.action_params:
        message.action_params.update(dict(decision.policy.action_params))
    if answer.approval is not None:
        message.approval_id, message.approval_pending = answer.approval.approval_id, answer.approval.pending
        if answer.approval.expires_at:
            message.approval_expires_at.FromSeconds(int(answer.approval.expires_at))
    return message


def reference(policy: CompiledPolicy) -> pb.PolicyReference:
    return pb.PolicyReference(id=policy.policy_id, name=policy.policy_name, priority=policy.priority)


@given(answers)
def test_the_bytes_of_an_answer_are_its_message(answer: wire.Answer) -> None:
    """Every field, given or not, with any text and number, is what protobuf has when the message is built by hand."""
    raw, expected = wire.write_answer(answer), by_protobuf(answer)
    assert pb.EvaluateResponse.FromString(raw) == expected
    assert len(raw) == expected.ByteSize()


@given(answers)
def test_an_answer_is_written_alike_again(answer: wire.Answer) -> None:
    """The parts that are kept are those of the policy, the version and the revision, and of nothing else."""
    other = wire.Answer(answer.decision, "another", answer.message, 0, Source.LIVE, 1.0, "")
    first = wire.write_answer(answer)
    assert pb.EvaluateResponse.FromString(wire.write_answer(other)) == by_protobuf(other)
    assert wire.write_answer(answer) == first


def test_an_answer_tells_of_a_hundred_shadow_policies() -> None:
    """Those that come first in the order of evaluation."""
    shadow = tuple(CompiledPolicy(policy_record(policy_id=f"pol-{number}")) for number in range(wire.MAX_SHADOWS + 1))
    decision = Decision(Outcome.ALLOW, Reason.RISK_BELOW_AUTO_APPROVE, shadow=shadow)
    raw = wire.write_answer(wire.Answer(decision, "d-1", "low", 1, Source.LIVE, 0.0))
    told = [verdict.policy.id for verdict in pb.EvaluateResponse.FromString(raw).shadow]
    assert told == [policy.policy_id for policy in shadow[: wire.MAX_SHADOWS]]


@given(st.lists(answers | texts, max_size=5), st.integers(1, 2**64 - 1), texts)
def test_results_are_put_around_answers_unread(asked: list[wire.Answer | str], sequence: int, key: str) -> None:
    """A batch and a stream hold the answers and errors as protobuf would have written them."""
    batch = b""
    expected = []
    for one in asked:
        if isinstance(one, str):
            raw = pb.EvaluateResult(error=pb.EvaluateError(message=one)).SerializeToString()
        else:
            raw = results.answered(wire.write_answer(one))
        result = pb.EvaluateResult.FromString(raw)
        assert result.response == by_protobuf(one) if isinstance(one, wire.Answer) else result.error.message == one
        batch += results.batched(raw)
        expected.append(result)
        streamed = pb.EvaluateStreamResponse.FromString(results.streamed(raw, sequence, key))
        assert streamed == pb.EvaluateStreamResponse(sequence=sequence, idempotency_key=key, result=result)
    assert list(pb.EvaluateBatchResponse.FromString(batch).results) == expected
