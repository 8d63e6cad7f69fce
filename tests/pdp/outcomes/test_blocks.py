"""Packed decisions: what goes in comes out, in any order of bytes, and of ids only what is one."""

import json
import sys

import pytest

from pdp.outcomes.blocks import Block, Row, encoded, from_json, id_of, key_of, packed
from tests.pdp.outcomes.test_outcomes import AGENT, UNKNOWN, named

ROWS: list[Row] = [
    (named(1), AGENT, "UTC", 1_800_000_000.123456, 0, ""),
    (named(2), "other-agent", "Europe/Zurich", 0.1, 10**15, "appr-1"),
    (named(4), AGENT, "UTC", -1.5, 1, 'a "name" in ünïcode'),
]


def rows(block: Block) -> list[Row]:
    """The rows that a block is made of."""
    return [
        (
            id_of(block.heads[place], block.tails[place]),
            *block.agents[block.numbers[place]],
            block.times[place],
            block.costs[place],
            block.approvals.get(place, ""),
        )
        for place in range(len(block))
    ]


def test_what_is_packed_and_written_is_read_exactly() -> None:
    """Also times that have no exact decimal form."""
    (block,) = packed(ROWS, b"\0\1\0")
    read = from_json(json.loads(encoded(block)))
    assert (rows(block), rows(read), read.reported) == (ROWS, ROWS, b"\0\1\0")
    assert packed([], b"") == []


def test_a_block_begins_where_ids_do_not_increase() -> None:
    """The order of rows stays, and each block is in the order of its ids."""
    made = [ROWS[1], ROWS[2], ROWS[0], ROWS[1], ROWS[1]]
    blocks = packed(made, bytes(range(5)))
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert [row for block in blocks for row in rows(block)] == made
    assert b"".join(block.reported for block in blocks) == bytes(range(5))


def test_the_file_is_little_endian_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the other order turns the bytes of each number around, both ways."""
    (block,) = packed(ROWS[::2], bytes(2))  # of one agent, whose number is 0 in both orders
    written = encoded(block)
    other = "big" if sys.byteorder == "little" else "little"
    for column in (block.heads, block.tails, block.times, block.costs, block.numbers):
        column.byteswap()
    monkeypatch.setattr(sys, "byteorder", other)
    assert encoded(block) == written
    assert from_json(json.loads(written)) == Block(
        block.heads, block.tails, block.times, block.costs, block.numbers, bytes(2), list(block.agents), block.approvals
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-" * 36,
        UNKNOWN.upper().replace("0", "A"),
        UNKNOWN.replace("-", ""),
        UNKNOWN + "0",
        "1" + UNKNOWN[1:] + "0",
        "0" + UNKNOWN,
        "+" + UNKNOWN[1:],
        UNKNOWN[:-1] + " ",
        UNKNOWN[:-2] + "_0",
        UNKNOWN.replace("-", "_"),
        UNKNOWN[:-1] + "٣",
        "f" * 64,
    ],
)
def test_only_a_canonical_uuid_is_an_id(text: str) -> None:
    """Another way to write one names no decision, as it did not when ids were texts."""
    assert key_of(text) is None


def test_an_id_is_its_halves() -> None:
    """Both ways, up to the greatest."""
    for decision_id in (
        UNKNOWN,
        named(7),
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "00000000-0000-0000-0000-000000000000",
    ):
        key = key_of(decision_id)
        assert key is not None
        assert id_of(*key) == decision_id
