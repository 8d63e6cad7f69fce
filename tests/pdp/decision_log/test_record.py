"""A decision as a record: every field, canonical, and redacted."""

import json
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from pdp import wire
from pdp.core.action import Action
from pdp.core.json.canonical_json import doubles
from pdp.decision_log.record import Entry, Opens, gap, record
from pdp.decision_log.redaction import NOTHING, Redaction
from pdp.log_format.batches import GENESIS, opened, sealed, varint
from pdp.log_format.documents import document, text
from pdp.v1 import decision_pb2 as pb
from pdp.v1 import log_pb2
from pdp.wire import instant
from tests.deciding import answer_in, entry_of, shown
from tests.given import NOON


def entry(action: Action, **changes: Any) -> Entry:
    """A decision about `action` as it was made at noon."""
    answer = pb.EvaluateResponse(
        outcome=pb.OUTCOME_ALLOW, reason=pb.REASON_RISK_BELOW_AUTO_APPROVE, decision_id="d-1", message="risk 10 is low"
    )
    return entry_of(action, answer, seconds=0.000125, **changes)


FULL = Action(
    "billing-agent-prod",
    "transaction.process",
    "ledger",
    "row-9",
    45,
    1500.5,
    2_500_000,
    ("pii", "financial"),
    "files",
    "read",
    "production",
    {"customer": {"ssn": "123", "naïve": "ß"}, "n": 3},
    True,
)


def written_by_protobuf(made: Entry) -> bytes:
    """The record as protobuf itself serializes it."""
    decision = log_pb2.LoggedDecision(
        request=pb.EvaluateRequest.FromString(made.request),
        answer=pb.EvaluateResponse.FromString(made.answer),
        repeat_id=made.repeat_id,
        decided_at_microseconds=round(made.at * 1_000_000),
        latency_nanoseconds=round(made.seconds * 1_000_000_000),
        cost_micros=made.cost_micros,
    )
    if made.opens is not None:
        decision.opens.CopyFrom(log_pb2.OpenedApproval(**made.opens._asdict()))
    return log_pb2.LogRecord(decision=decision).SerializeToString()


entries = st.builds(
    Entry,
    st.builds(pb.EvaluateRequest, idempotency_key=st.text(), approval_id=st.text(max_size=300), dry_run=st.booleans()),
    st.builds(pb.EvaluateResponse, message=st.text(max_size=300), risk_score=st.integers(-5, 100)),
    st.floats(-1e9, 1e10),
    st.floats(0, 1e6),
    st.integers(0, 2**60),
    st.none() | st.builds(Opens, st.text(), st.binary(max_size=40), st.integers(0, 2**40)),
    st.text(),
)


@given(entries)
def test_its_bytes_are_those_that_protobuf_writes(made: Entry) -> None:
    """For every field, given or not."""
    made = made._replace(request=made.request.SerializeToString(), answer=made.answer.SerializeToString())
    assert record(made, NOTHING) == written_by_protobuf(made)


def test_every_field_of_the_action_and_of_the_answer_is_written() -> None:
    """Under the names that the interfaces use; costs in dollars."""
    opens = Opens("a-1", bytes(range(32)), 600)
    written = shown(entry(FULL, idempotency_key="k-1", approval_id="a-0", cost_micros=2_500_000, opens=opens))
    assert written.pop("answer") == wire.answer_json(answer_in(entry(FULL)))
    assert written == {
        "decision_id": "d-1",
        "repeat_of": None,
        "decided_at": "2026-11-20T12:00:00.000000Z",
        "latency_seconds": 0.000125,
        "dry_run": False,
        "idempotency_key": "k-1",
        "approval_id": "a-0",
        "cost_micros": 2_500_000,
        "opens": {"approval_id": "a-1", "action_sha256": bytes(range(32)).hex(), "timeout_seconds": 600},
        "action": {
            "agent_id": "billing-agent-prod",
            "action_type": "transaction.process",
            "resource": "ledger",
            "resource_id": "row-9",
            "risk_score": 45,
            "amount": 1500.5,
            "estimated_cost_usd": 2.5,
            "data_classifications": ["pii", "financial"],
            "mcp_server": "files",
            "tool": "read",
            "environment": "production",
            "attributes": {"customer": {"ssn": "123", "naïve": "ß"}, "n": 3},
            "mfa_verified": True,
        },
    }


def test_missing_fields_are_null_or_empty() -> None:
    """No field is left out."""
    action = shown(entry(Action("billing-agent-prod", "api.read")))["action"]
    assert set(action) == set(shown(entry(FULL))["action"])
    assert [name for name, value in action.items() if value is None] == ["risk_score", "amount", "estimated_cost_usd"]


def test_a_repeat_has_its_own_id_and_names_the_decision() -> None:
    """The answer is as it was given first."""
    written = shown(entry(FULL, repeat_id="d-2"))
    assert (written["decision_id"], written["repeat_of"], written["answer"]["decision_id"]) == ("d-2", "d-1", "d-1")


def test_its_text_is_canonical() -> None:
    """Sorted keys, nothing between them, UTF-8: the same decision is the same line."""
    written = text(shown(entry(FULL)))
    again = json.dumps(json.loads(written), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert written == again
    assert "naïve".encode() in written
    assert b"\n" not in written


def test_attributes_are_redacted() -> None:
    """And nothing of them is elsewhere in the record."""
    redact = Redaction.of(["customer.ssn"])
    assert shown(entry(FULL), redact)["action"]["attributes"]["customer"] == {"ssn": "[redacted]", "naïve": "ß"}
    assert b"123" not in record(entry(FULL), redact)


def test_a_request_without_attributes_is_not_read_again_for_redaction() -> None:
    """It costs only where paths are configured and attributes came."""
    unreadable = entry(Action("billing-agent-prod", "api.read"))._replace(request=b"\xff")
    assert record(unreadable, Redaction.of(["customer.ssn"])) == record(unreadable, NOTHING)
    with pytest.raises(DecodeError):
        record(unreadable._replace(has_attributes=True), Redaction.of(["customer.ssn"]))


@pytest.mark.parametrize("groups", [1, 98])
def test_fields_that_nobody_knows_are_not_written(groups: int) -> None:
    """Neither values that no redaction would find, nor groups so deep that nobody could read the batch around them."""
    known = pb.EvaluateRequest(action=pb.Action(agent_id="billing-agent-prod", action_type="api.read"))
    begin, end = varint(1000 << 3 | 3), varint(1000 << 3 | 4)
    unknown = begin * groups + varint(1000 << 3 | 2) + b"\x03ssn" + end * groups
    request = wire.read_request(wire.parse(pb.EvaluateRequest, known.SerializeToString() + unknown))
    assert request.raw == known.SerializeToString()
    written = record(entry(request.action)._replace(request=request.raw), NOTHING)
    assert opened(sealed(GENESIS, 1, [written]).content).records[0].decision.request == known


def test_attributes_that_came_by_grpc_are_written_and_redacted() -> None:
    """They are decoded only now, whole numbers as such."""
    attributes = Struct()
    attributes.update({"cards": [{"number": "4111", "limit": 500}]})
    action = wire.read_action(pb.Action(agent_id="billing-agent-prod", action_type="api.read", attributes=attributes))
    written = shown(entry(action), Redaction.of(["cards.*.number"]))
    assert written["action"]["attributes"] == {"cards": [{"number": "[redacted]", "limit": 500}]}


def test_numbers_are_written_in_their_shortest_form() -> None:
    """Whole ones without a fraction; none takes more than 25 characters, however large."""
    attributes = doubles({"x": [1e308, 1.0, -0.0, 10**300, 2**53 + 1, 0.1]})
    action = Action("billing-agent-prod", "api.read", amount=7500.0, attributes=attributes)
    written = text(shown(entry(action)))
    assert b'"amount":7500,' in written
    assert b'"x":[1e+308,1,0,1e+300,9007199254740992,0.1]' in written


def test_a_line_break_in_a_text_is_no_line_break_in_the_record() -> None:
    """Each one is a line."""
    action = Action("billing-agent-prod", "api.read", resource="a\nb\r\x85\u2028", attributes={"\n": "\n"})
    written = text(shown(entry(action)))
    assert b"\n" not in written
    assert b"\r" not in written
    assert json.loads(written)["action"]["resource"] == action.resource


def test_a_gap_names_the_first_and_the_last_and_how_many() -> None:
    """And when it was noticed."""
    assert document(log_pb2.LogRecord.FromString(gap(7, 9, NOON))) == {
        "gap": {"first_sequence": 7, "last_sequence": 9, "records": 3, "at": "2026-11-20T12:00:00.000000Z"}
    }


def test_times_are_of_one_width() -> None:
    """To the microsecond, in UTC."""
    assert instant(NOON + 0.25) == "2026-11-20T12:00:00.250000Z"
    assert instant(0) == "1970-01-01T00:00:00.000000Z"
