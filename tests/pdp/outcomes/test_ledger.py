"""The ledger of outcomes on disk: a restart, a crash and a rewrite of the file lose none of it that was written."""

import json
from pathlib import Path
from typing import Any

import pytest

from pdp.core.model import Now, Trigger
from pdp.core.usage import Failures
from pdp.counters.file import read
from pdp.counters.writer import CountersWriter
from pdp.outcomes import ledger, open_decisions
from pdp.outcomes.ledger import Changes, Ledger, Taken
from pdp.outcomes.segments import Allowed
from pdp.outcomes.suspensions import Suspension
from tests.pdp.counters.counting import Inline, finish
from tests.pdp.outcomes.test_outcomes import named

AGENT = "billing-reader-test"
NOW = Now(1_800_000_000.0, 5000.0)
SUSPENSION = Suspension(AGENT, 2, Trigger.RATE_EXCEEDED, {"window": "minute", "actions": 3, "limit": 3}, NOW.wall)


def allowed(number: int) -> Allowed:
    """The decision of that number, which allowed an action so many microseconds ago."""
    approval_id = "appr-1" if number % 2 else ""
    return Allowed(named(number), AGENT, "Europe/Zurich", NOW.wall - number / 1e6, 1_000_000 + number, approval_id)


def allow(one: Ledger, *numbers: int) -> None:
    """Remember the decisions of these numbers."""
    for number in numbers:
        one.allow(allowed(number)[:6])


def taken(one: Ledger) -> Changes:
    """Its changes, packed."""
    changes: Taken = one.take(NOW.wall)
    packed = changes.pack()
    one.adopt(changes)
    return packed


def content(one: Ledger, numbers: int = 100) -> list[Any]:
    """What a ledger says of the decisions up to that number, and what else it holds."""
    decisions = [one.decisions.get(named(number), NOW.wall) for number in range(numbers)]
    whole = one.whole()
    return [len(one.decisions), *decisions, whole.failures, whole.suspensions]


def started(path: Path, boot_id: str = "boot", now: Now = NOW) -> CountersWriter:
    """The sidecar starts, on the file that is there."""
    return CountersWriter(path, boot_id, lambda: now)


def fill(one: Ledger) -> None:
    """A reported decision and an open one, outcomes, and a suspension."""
    allow(one, 1, 2)
    one.report(named(1), AGENT, 2, failed=True)
    one.suspend(SUSPENSION)


def test_a_killed_sidecar_keeps_what_was_written(tmp_path: Path) -> None:
    """Open decisions, reported ones, outcomes and suspensions; the file is not closed."""
    before = started(tmp_path / "counters")
    fill(before.ledger)
    finish(before._flush(Inline()))
    after = started(tmp_path / "counters").ledger
    assert content(after) == content(before.ledger)
    assert (after.decisions.get(named(2), NOW.wall), after.suspensions.all()) == (allowed(2), {AGENT: SUSPENSION})
    assert after.decisions.get(named(1), NOW.wall) == allowed(1)._replace(reported=True)
    assert after.report(named(2), AGENT, 2, failed=False) == Failures(2, 2, 0b10)


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
        allow(sidecar.ledger, work)
        if work > 1:
            sidecar.ledger.report(named(work - 1), AGENT, 1, failed=bool(work % 3))

    allow(sidecar.ledger, 0)
    finish(sidecar._rewrite(Inline(before)))
    finish(sidecar._flush(Inline()))
    assert work > 2
    assert content(read(tmp_path / "counters").ledger) == content(sidecar.ledger)


def test_a_write_that_fails_loses_no_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next file has those of the failed write, and what is reported of them."""
    sidecar = started(tmp_path / "counters")
    allow(sidecar.ledger, 1, 2)
    sidecar.ledger.report(named(1), AGENT, 1, failed=False)
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", failing)
        finish(sidecar._flush(Inline()))
    allow(sidecar.ledger, 3)
    finish(sidecar._flush(Inline()))
    assert sidecar.write_failures == 1
    assert content(read(tmp_path / "counters").ledger) == content(sidecar.ledger)
    assert len(sidecar.ledger.decisions) == 3


def test_decisions_that_were_not_packed_are_taken_again(tmp_path: Path) -> None:
    """The thread fails before it has packed them; so they are still there, and written by the next."""
    sidecar = started(tmp_path / "counters")
    allow(sidecar.ledger, 1, 2)
    sidecar.ledger.report(named(1), AGENT, 1, failed=False)
    finish(sidecar._flush(Inline(failing)))
    assert sidecar.ledger.decisions.get(named(2), NOW.wall) == allowed(2)
    allow(sidecar.ledger, 3)
    finish(sidecar._flush(Inline()))
    decisions = read(tmp_path / "counters").ledger.decisions
    assert [decisions.get(named(number), NOW.wall) for number in (1, 2, 3)] == [
        allowed(1)._replace(reported=True),
        allowed(2),
        allowed(3),
    ]
    assert (len(decisions), len(sidecar.ledger.decisions), sidecar.write_failures) == (3, 3, 1)


def test_a_reboot_keeps_open_decisions_by_the_wall_clock(tmp_path: Path) -> None:
    """The boot clock starts anew; an hour is an hour."""
    before = started(tmp_path / "counters")
    fill(before.ledger)
    finish(before._flush(Inline()))
    after = started(tmp_path / "counters", "another", Now(NOW.wall + 1800, 10.0)).ledger
    assert after.decisions.get(named(2), NOW.wall + 1800) == allowed(2)
    assert after.decisions.get(named(2), NOW.wall + 3600) is None
    after.take(NOW.wall + 7200)
    assert len(after.decisions) == 0


def test_changes_and_copies_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part holds up decisions; together they are the whole."""
    monkeypatch.setattr(ledger, "PART", 4)
    monkeypatch.setattr(open_decisions, "SEGMENT", 5)
    one = Ledger()
    for number in range(10):
        allow(one, number)
        one.report(named(number), f"agent-{number}", 1, failed=True)
        one.suspend(SUSPENSION._replace(agent_id=f"agent-{number}"))
    one.forget_suspension("agent-3")
    changes = taken(one)
    parts = list(changes.parts())
    assert [(sum(map(len, part.allowed)), len(part.reported)) for part in parts] == [
        (5, 0),
        (5, 0),
        (0, 4),
        (0, 2),
        (0, 4),
    ]
    for some in (parts, list(one.whole().parts())):
        assert all(sum(map(len, part.allowed)) <= 5 for part in some)
        other = Ledger()
        for part in some:
            other.apply(ledger.from_json(json.loads(ledger.encoded(part)), other.decisions))
        assert content(other) == content(one)
    assert taken(one) == Changes([], [], {}, {})


def test_what_waits_for_a_disk_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it works again, each decision that is still remembered is written, and whether it was reported."""
    monkeypatch.setattr(open_decisions, "SEGMENT", 5)
    monkeypatch.setattr(open_decisions, "MAX_DECISIONS", 40)
    monkeypatch.setattr(ledger, "MAX_DECISIONS", 40)
    one, other = Ledger(), Ledger()
    allow(one, 0)
    hanging = one.take(NOW.wall)
    for number in range(1, 500):
        allow(one, number)
        assert len(one.decisions) <= 40
        if number >= 30:
            one.report(named(number - 30), AGENT, 1, failed=False)
    hanging.pack()
    one.adopt(hanging)
    changes = taken(one)
    assert (sum(map(len, changes.allowed)), len(changes.reported)) == (39, 80)
    other.apply(changes)
    assert content(other, 500) == content(one, 500)
    remembered = [one.decisions.get(named(number), NOW.wall) for number in range(500)]
    assert {found.reported for found in remembered if found is not None} == {False, True}
    assert one.decisions.dropped == 461


def failing(*_: object) -> None:
    """A disk that does not work."""
    raise OSError(5, "Input/output error")
