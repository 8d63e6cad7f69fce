"""Batches of a decision log and their hash chain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.log_format.batches import GENESIS, BadBatchError, opened, sealed, varint
from pdp.v1 import log_pb2 as pb


def record(text: str = "a") -> bytes:
    return pb.LogRecord(decision=pb.LoggedDecision(repeat_id=text)).SerializeToString()


@given(st.integers(1, 2**53), st.lists(st.text(max_size=300), min_size=1, max_size=20))
def test_a_batch_is_the_message_of_its_records(first: int, texts: list[str]) -> None:
    """The bytes joined by hand are those that protobuf reads and writes."""
    batch = sealed(GENESIS, first, map(record, texts))
    message = opened(batch.content)
    assert message.SerializeToString() == batch.content
    assert (message.first_sequence, batch.last) == (first, first + len(texts) - 1)
    assert [one.decision.repeat_id for one in message.records] == texts


def test_any_other_byte_or_place_breaks_the_chain() -> None:
    """A hash covers the bytes of the batch and the hash before it."""
    one = sealed(GENESIS, 1, [record()])
    two = sealed(one.hash, 2, [record()])
    assert one.is_intact and two.is_intact
    assert not two._replace(content=sealed(one.hash, 3, [record()]).content).is_intact
    assert not two._replace(previous_hash=GENESIS).is_intact


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff", "is not a `pdp.v1.LogBatch`"),
        (b"", "`first_sequence` is `0`, and not 1 or more"),
        (sealed(GENESIS, 1, []).content, "has 0 records, and not 1 to 1000"),
        (sealed(GENESIS, 1, [b""] * 1001).content, "has 1001 records, and not 1 to 1000"),
    ],
)
def test_what_is_not_a_batch_is_refused(content: bytes, why: str) -> None:
    """The error says why."""
    with pytest.raises(BadBatchError, match=why):
        opened(content)


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_written_as_protobuf_does(number: int) -> None:
    """Seven bits a byte, the lowest first."""
    assert pb.LogGap.FromString(b"\x18" + varint(number)).records == number
