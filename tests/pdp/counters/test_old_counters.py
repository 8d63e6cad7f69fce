"""An upgrade keeps everything in the counters file, and the way back all but the open decisions."""

import json
from pathlib import Path
from typing import Any

import pytest

from pdp.core.model import Now
from pdp.counters import content
from pdp.counters.file import read
from pdp.counters.frames import DamagedError, contents
from pdp.counters.writer import CountersWriter
from pdp.outcomes import blocks
from pdp.outcomes.ledger import Ledger
from tests.pdp.counters import old_files
from tests.pdp.counters.counting import Inline, finish

ROW = ["01a3185c-5d7c-7003-960e-dacc0cb1e29c", "billing-reader-test", "UTC", 1_800_000_000.0, 1, "", False]
OTHERS: dict[str, Any] = {"reported": [], "failures": {}, "suspensions": {}}
AT = [1_800_000_000.0, 5000.0, 1_800_000_000.0]
BEGUN = {"boot_id": "boot", "at": AT, "lost_until": None}


def found(ledger: Ledger, expected: dict[str, Any]) -> dict[str, Any]:
    """What a ledger holds of an example."""
    whole, wall = ledger.whole(), expected["at"][0]
    decisions = [ledger.decisions.get(row[0], wall) for row in expected["decisions"]]
    return {
        "decisions": [list(one or ()) for one in decisions],
        "failures": {agent_id: list(one) for agent_id, one in whole.failures.items()},
        "suspensions": {agent_id: [*one[:2], one[2].value, *one[3:]] for agent_id, one in whole.suspensions.items()},
    }


def test_a_file_with_rows_of_decisions_is_read_whole(tmp_path: Path) -> None:
    """Usage, decisions with what is reported of them, outcomes and suspensions."""
    expected = old_files.example(tmp_path / "counters")
    saved = read(tmp_path / "counters")
    assert (saved.boot_id, list(saved.at), saved.lost_until) == (expected["boot_id"], expected["at"], None)
    assert {agent_id: content._usage(one) for agent_id, one in saved.usage.items()} == expected["usage"]
    assert len(saved.ledger.decisions) == len(expected["decisions"])
    ledger = {name: expected[name] for name in ("decisions", "failures", "suspensions")}
    assert found(saved.ledger, expected) == ledger


def test_a_start_replaces_it_by_a_file_of_packed_decisions(tmp_path: Path) -> None:
    """Which holds the same, and names nothing damaged."""
    expected = old_files.example(tmp_path / "counters")
    wall, boot, _ = expected["at"]
    sidecar = CountersWriter(tmp_path / "counters", expected["boot_id"], lambda: Now(wall, boot))
    assert sidecar.damaged == 0
    assert expected["decisions"][0][0].encode() not in (tmp_path / "counters").read_bytes()
    saved = read(tmp_path / "counters")
    assert {agent_id: content._usage(one) for agent_id, one in saved.usage.items()} == expected["usage"]
    assert len(saved.ledger.decisions) == len(expected["decisions"])
    assert found(saved.ledger, expected) == {name: expected[name] for name in found(saved.ledger, expected)}


def test_a_file_of_before_outcomes_is_read(tmp_path: Path) -> None:
    """It has no ledger."""
    charges = {"agent-1": [[5000, 3], [20_000, 1_000_000]]}
    old_files.write(tmp_path / "counters", [BEGUN, {"at": AT, "charges": charges}])
    saved = read(tmp_path / "counters")
    assert (saved.usage["agent-1"].micros_by_day, len(saved.ledger.decisions)) == ({20_000: 1_000_000}, 0)


def test_an_earlier_program_reads_all_but_open_decisions(tmp_path: Path) -> None:
    """It expects a list of rows, which is empty, and ignores what is packed."""
    sidecar = CountersWriter(tmp_path / "counters", "boot", lambda: Now(*AT[:2]))
    sidecar.ledger.allow(tuple(ROW[:6]))
    sidecar.ledger.report(ROW[0], ROW[1], 1, failed=True)
    finish(sidecar._flush(Inline()))
    documents = [json.loads(one) for one in contents((tmp_path / "counters").read_bytes())]
    parts = [part for document in documents for part in document.get("ledger", ())]
    assert [part["allowed"] for part in parts] == [[]] * 2
    assert [set(part) for part in parts] == [{"allowed", "packed", "reported", "failures", "suspensions"}] * 2


PACKED = json.loads(blocks.encoded(blocks.packed([tuple(ROW[:6])], b"\0")[0]))


@pytest.mark.parametrize(
    "part",
    [
        {"allowed": [["not an id", *ROW[1:]]]},
        {"allowed": [[ROW[0], None]]},
        {"allowed": [[*ROW[:4], 1 << 63, *ROW[5:]]]},
        {"allowed": [[*ROW[:3], "noon", *ROW[4:]]]},
        {"allowed": [[*ROW[:6], 300]]},
        {"allowed": [[*ROW[:6], "yes"]]},
        {"packed": [[[], *PACKED[1:]]]},
        {"packed": [[*PACKED[:2], ""]]},
        {"packed": [[*PACKED[:2], PACKED[2][:-4]]]},
        {"packed": [[*PACKED[:2], "!" + PACKED[2]]]},
        {"packed": [[*PACKED[:2], PACKED[2] + PACKED[2]]]},
        {"packed": [[*PACKED[:1], 1, PACKED[2]]]},
        {"packed": [None]},
    ],
)
def test_decisions_that_no_program_writes_are_damage(tmp_path: Path, part: dict[str, Any]) -> None:
    """Although the checksum is right."""
    for sound in ({"allowed": [ROW]}, {"allowed": [], "packed": [PACKED]}):
        old_files.write(tmp_path / "counters", [BEGUN, {"at": AT, "ledger": [OTHERS | sound]}])
        assert len(read(tmp_path / "counters").ledger.decisions) == 1
    old_files.write(tmp_path / "counters", [BEGUN, {"at": AT, "ledger": [{"allowed": []} | OTHERS | part]}])
    with pytest.raises(DamagedError, match="invalid content"):
        read(tmp_path / "counters")
