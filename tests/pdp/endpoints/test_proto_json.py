"""Messages as JSON: any JSON is a message or a fault with a path, and what is written is protobuf's mapping."""

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.core.errors import InvalidActionError
from pdp.endpoints import proto_json
from pdp.v1 import decision_pb2 as pb

METHODS = pb.DESCRIPTOR.services_by_name["PolicyDecisionPoint"].methods
REQUESTS = [GetMessageClass(method.input_type) for method in METHODS]
NAMES = sorted({name for kind in (*REQUESTS, pb.Action) for name in proto_json._fields(kind.DESCRIPTOR)})

names = st.sampled_from([*NAMES, "surprise", "[pdp.v1.x]", "@type"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(REQUESTS), document=documents)
def test_any_json_is_a_message_or_a_fault_with_a_path(kind: type[Message], document: Any) -> None:
    """Never another error; and what is a message here is the same message to protobuf."""
    message = kind()
    try:
        list(proto_json.read(message, document))
    except InvalidActionError as error:
        assert error.problems[0].path
        return
    assert message == ParseDict(document, kind())


ANSWERS: list[Message] = [
    pb.EvaluateBatchResponse(),
    pb.EvaluateBatchResponse(results=[pb.EvaluateResult(), pb.EvaluateResult(error=pb.EvaluateError(code=3))]),
    pb.ExplainResponse(stages=[pb.StageExplanation(stage="a")], policies=[pb.PolicyExplanation()], would_allow=["x"]),
    pb.ExplainResponse(policies=[pb.PolicyExplanation(held=True)]),
    pb.EvaluateResponse(message="ä", registry_revision=1 << 60, shadow=[pb.ShadowVerdict(), pb.ShadowVerdict()]),
    pb.ApprovalUpdate(state=pb.APPROVAL_STATE_USED),
]


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: str(message).replace("\n", " "))
def test_an_answer_is_written_in_pieces_that_are_its_json(message: Message) -> None:
    """One item of a list a piece."""
    pieces = list(proto_json.write(message))
    assert json.loads("".join(pieces)) == MessageToDict(message)
    items = sum(len(value) for field, value in message.ListFields() if field.is_repeated and field.message_type)
    assert len(pieces) == items + 1
