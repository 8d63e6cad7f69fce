"""The ledger of outcomes on disk: a restart, a crash and a rewrite of the file lose none of it that was written."""

import json
from pathlib import Path

import pytest

from pdp.core.model import Now, Trigger
from pdp.core.usage import Failures
from pdp.counters.file import read
from pdp.counters.writer import CountersWriter
from pdp.outcomes import ledger, open_decisions
from pdp.outcomes.ledger import Changes, Ledger
from pdp.outcomes.open_decisions import Allowed
from pdp.outcomes.suspensions import Suspension
from tests.pdp.counters.counting import Inline, finish

AGENT = "billing-reader-test"
NOW = Now(1_800_000_000.0, 5000.0)
SUSPENSION = Suspension(AGENT, 2, Trigger.RATE_EXCEEDED, {"window": "minute", "actions": 3, "limit": 3}, NOW.wall)


def allowed(decision_id: str, number: int = 0) -> Allowed:
    """A decision that allowed an action, so many seconds ago."""
    return Allowed(
        decision_id, AGENT, "Europe/Zurich", NOW.wall - number, 1_000_000 + number, "appr-1" if number % 2 else ""
    )


def started(path: Path, boot_id: str = "boot", now: Now = NOW) -> CountersWriter:
    """The sidecar starts, on the file that is there."""
    return CountersWriter(path, boot_id, lambda: now)


def fill(one: Ledger) -> None:
    """A reported and an open decision, outcomes, and a suspension."""
    one.allow(allowed("reported", 1))
    one.allow(allowed("open"))
    one.report("reported", AGENT, 2, failed=True)
    one.suspend(SUSPENSION)


def test_a_killed_sidecar_keeps_what_was_written(tmp_path: Path) -> None:
    """Open decisions, reported ones, outcomes and suspensions; the file is not closed."""
    before = started(tmp_path / "counters")
    fill(before.ledger)
    finish(before._flush(Inline()))
    after = started(tmp_path / "counters").ledger
    assert after.whole() == before.ledger.whole()
    assert (after.decisions.get("open", NOW.wall), after.suspensions.all()) == (allowed("open"), {AGENT: SUSPENSION})
    assert after.report("open", AGENT, 2, failed=False) == Failures(2, 2, 0b10)


def test_a_settlement_is_written_with_its_report(tmp_path: Path) -> None:
    """Less than was charged, on an earlier day too."""
    before = started(tmp_path / "counters")
    usage = before.counters.of(AGENT, "UTC", NOW.boot)
    usage.spend(20_000, 5_000_000)
    usage.spend(20_001, 1_000_000)
    before._write_whole(NOW)
    before.counters.settle(AGENT, 20_000, -4_000_000)
    before.counters.settle(AGENT, 20_001, 2_000_000)
    finish(before._flush(Inline()))
    again = started(tmp_path / "counters").counters.usage[AGENT]
    assert (again.spent(20_000), again.micros_by_day) == (4_000_000, {20_000: 1_000_000, 20_001: 3_000_000})


@pytest.mark.parametrize("agents", [0, 3])
def test_a_rewrite_keeps_what_changes_meanwhile(tmp_path: Path, agents: int) -> None:
    """Whatever is taken between two pieces of the disk's work is in the new file or follows it."""
    sidecar, work = started(tmp_path / "counters"), 0
    for number in range(agents):
        sidecar.counters.of(f"agent-{number}", "UTC", NOW.boot).count(NOW.boot)

    def before() -> None:
        nonlocal work
        work += 1
        sidecar.ledger.allow(allowed(str(work), work))
        if work > 1:
            sidecar.ledger.report(str(work - 1), AGENT, 1, failed=bool(work % 3))

    finish(sidecar._rewrite(Inline(before)))
    finish(sidecar._flush(Inline()))
    assert read(tmp_path / "counters").ledger.whole() == sidecar.ledger.whole()


def test_a_reboot_keeps_open_decisions_by_the_wall_clock(tmp_path: Path) -> None:
    """The boot clock starts anew; an hour is an hour."""
    before = started(tmp_path / "counters")
    fill(before.ledger)
    finish(before._flush(Inline()))
    after = started(tmp_path / "counters", "another", Now(NOW.wall + 1800, 10.0)).ledger
    assert after.decisions.get("open", NOW.wall + 1800) == allowed("open")
    assert after.decisions.get("open", NOW.wall + 3600) is None
    after.take(NOW.wall + 7200)
    assert len(after.decisions) == 0


def test_a_file_of_before_outcomes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no ledger; the program of before reads a file that has one."""
    monkeypatch.setattr("pdp.counters.content.followed", lambda at, _charges, _changes: json.dumps({"at": at}).encode())
    before = started(tmp_path / "counters")
    fill(before.ledger)
    finish(before._flush(Inline()))
    assert started(tmp_path / "counters").ledger.whole() == Ledger().whole()


def test_changes_and_copies_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part holds up decisions; together they are the whole."""
    monkeypatch.setattr(ledger, "PART", 4)
    monkeypatch.setattr(open_decisions, "SEGMENT", 5)
    one, other = Ledger(), Ledger()
    for number in range(10):
        one.allow(allowed(str(number), number))
        one.report(str(number), f"agent-{number}", 1, failed=True)
        one.suspend(SUSPENSION._replace(agent_id=f"agent-{number}"))
    one.forget_suspension("agent-3")
    changes = one.take(NOW.wall)
    for parts in (list(changes.parts()), list(one.whole().parts())):
        assert all(len(part.allowed) <= 4 for part in parts)
        other = Ledger()
        for part in parts:
            other.apply(ledger.from_json(json.loads(json.dumps(ledger.to_json(part)))))
        assert other.whole() == one.whole()
    assert one.take(NOW.wall) == Changes([], [], {}, {})


def test_what_waits_for_a_disk_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it works again, each decision that is still remembered is written, and whether it was reported."""
    monkeypatch.setattr(open_decisions, "SEGMENT", 5)
    monkeypatch.setattr(ledger, "MAX_DECISIONS", 40)
    one, other = Ledger(), Ledger()
    for number in range(500):
        one.allow(allowed(str(number)))
        if number >= 30:
            one.report(str(number - 30), AGENT, 1, failed=False)
    changes = one.take(NOW.wall)
    assert (len(changes.allowed), len(changes.reported)) == (40, 80)
    other.apply(changes)
    remembered = [one.decisions.get(str(number), NOW.wall) for number in range(500)]
    assert remembered == [other.decisions.get(str(number), NOW.wall) for number in range(500)]
    assert {found.reported for found in remembered if found is not None} == {False, True}
