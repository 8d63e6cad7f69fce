"""Decisions that allowed an action, packed into columns: 37 bytes each, in memory and in the counters file."""

import json
import sys
from array import array
from binascii import a2b_base64, a2b_hex, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from sys import intern
from typing import Any

Row = tuple[str, str, str, float, int, str]
"""Of a decision: its id, agent, time zone, time (Unix seconds), cost in micro-dollars, and the approval that it used.

A plain tuple is quicker to make than a named one, and the garbage collector need not visit it.
"""
Agent = tuple[str, str]
"""Its id and its time zone."""
Key = tuple[int, int]
"""The first and the last 8 bytes of a decision's id, which is a UUID."""

_BYTES_EACH = 37
_LAST_HALF = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Block:
    """Decisions in the order of their ids: a column for each member."""

    heads: "array[int]"
    """The first halves of the ids."""
    tails: "array[int]"
    """The last halves."""
    times: "array[float]"
    costs: "array[int]"
    numbers: "array[int]"
    """Of the agents: places in `agents`."""
    reported: bytes
    """1: the outcome is known."""
    agents: Sequence[Agent]
    approvals: Mapping[int, str]
    """The approvals that decisions used, by the places of the decisions."""

    def __len__(self) -> int:
        return len(self.reported)


def key_of(decision_id: str) -> Key | None:
    """The halves of an id; None if it is not a UUID in the canonical form, which every decision's id is."""
    try:
        number = int(decision_id.replace("-", ""), 16)
    except ValueError:
        return None
    head, tail = number >> 64, number & _LAST_HALF
    return (head, tail) if id_of(head, tail) == decision_id and len(decision_id) == 36 else None


def id_of(head: int, tail: int) -> str:
    """The id with these halves."""
    digits = f"{head:016x}{tail:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def packed(rows: Sequence[Row], reported: bytes) -> list[Block]:
    """The rows as blocks, in the same order: a new one begins where an id is not greater than the one before.

    `ValueError` if an id is not a UUID, `OverflowError` if a number does not fit.
    """
    ids = [row[0] for row in rows]
    falls: list[int] = []
    if sorted(ids) != ids:  # the clock was set back
        falls = [place for place, (one, other) in enumerate(pairwise(ids), 1) if other <= one]
    bounds = pairwise([0, *falls, len(rows)])
    return [_block(ids[start:end], rows[start:end], reported[start:end]) for start, end in bounds if rows]


def _block(ids: Sequence[str], rows: Sequence[Row], reported: bytes) -> Block:
    halves = array("Q", a2b_hex("".join(ids).encode().translate(None, b"-")))
    if len(halves) != 2 * len(ids):
        raise ValueError("the id of a decision is not a UUID")
    if sys.byteorder == "little":
        halves.byteswap()
    agents: dict[Agent, int] = {}
    numbers = array("I", [agents.setdefault(row[1:3], len(agents)) for row in rows])
    times, costs = array("d", [row[3] for row in rows]), array("q", [row[4] for row in rows])
    approvals = {place: row[5] for place, row in enumerate(rows) if row[5]}
    return Block(halves[::2], halves[1::2], times, costs, numbers, reported, tuple(agents), approvals)


def encoded(block: Block) -> bytes:
    """A block as JSON for `from_json`: its agents, its approvals, and the columns one after the other in base64."""
    texts = json.dumps((block.agents, list(block.approvals.items())), separators=(",", ":")).encode()
    arrays = (block.heads, block.tails, block.times, block.costs, block.numbers)
    columns = b"".join((*(_little_endian(column).tobytes() for column in arrays), block.reported))
    return b'%s,"%s"]' % (texts[:-1], b2a_base64(columns, newline=False))


def from_json(document: Any) -> Block:
    """A block from JSON; `ValueError` or `TypeError` if it is not what `encoded` makes."""
    agents, approvals, columns = document
    data = a2b_base64(columns, strict_mode=True)
    number, rest = divmod(len(data), _BYTES_EACH)
    arrays: list[array[Any]] = []
    for kind in "QQdqI":
        column = array(kind)
        column.frombytes(data[: number * column.itemsize])
        data = data[number * column.itemsize :]
        arrays.append(_little_endian(column))
    heads, tails, times, costs, numbers = arrays
    if rest or not number or max(numbers) >= len(agents):
        raise ValueError("a block of decisions is incomplete")
    named = [(intern(agent_id), intern(zone)) for agent_id, zone in agents]
    return Block(heads, tails, times, costs, numbers, data, named, dict(approvals))


def _little_endian(column: "array[Any]") -> "array[Any]":
    """The column from the order of this machine's bytes to that of the file, or back."""
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column
