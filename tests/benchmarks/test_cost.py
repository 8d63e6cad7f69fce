"""The cost of a call over that of an empty one."""

import pytest

from benchmarks.peers import rule
from benchmarks.wire import cost
from pdp.v1 import decision_pb2 as pb


def test_each_protocol_is_measured() -> None:
    """With real programs, which decide as the rule says."""
    assert cost.ratios(rounds=1, calls=20).keys() == cost.PROTOCOLS.keys()


@pytest.mark.parametrize("case", rule.CASES)
def test_a_wrong_answer_ends_the_measurement(case: rule.Case) -> None:
    """Both an allow that should be none, and none that should be one."""
    answers = {True: pb.OUTCOME_ALLOW, False: pb.OUTCOME_BLOCK}
    cost.check(pb.EvaluateResponse(outcome=answers[case.allowed]).SerializeToString(), allowed=case.allowed)
    with pytest.raises(AssertionError, match="to be allowed"):
        wrong = pb.EvaluateResponse(outcome=answers[not case.allowed]).SerializeToString()
        cost.check(wrong, allowed=case.allowed)
