"""Counters over stops, kills, reboots and clocks set back and forth, against every action that was ever admitted."""

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pdp.core.decision import Decision
from pdp.core.model import Outcome, Reason
from pdp.core.usage import Limits, Usage
from pdp.counters import writer
from pdp.counters.counters import MAX_SECONDS, Charges, Counters
from pdp.counters.file import read
from tests.history import BruteForce
from tests.pdp.counters.counting import Inline, Machine, finish

MEMORY = Path("/dev/shm")
ALLOWED = Decision(Outcome.ALLOW, Reason.RISK_BELOW_AUTO_APPROVE)
LIMITS = {"max_actions_per_minute": 3, "max_actions_per_hour": 8, "max_actions_per_day": 20, "max_daily_budget_usd": 5}
WIDTHS = {60: 3, 3600: 8, 86_400: 20}

seconds = st.one_of(
    st.sampled_from([0.1, 0.5, 1.0, 59.0, 60.0, 61.0, 3540.0, 3600.0, 3661.0, 43_200.0, 86_400.0]),
    st.floats(0.001, 100_000),
)
away = st.one_of(st.sampled_from([0.0, 1.0, 59.5, 60.0, 3600.0, 86_400.0]), st.floats(0, 100_000))
jumps = st.one_of(
    st.sampled_from([-1.0, 1.0, -60.0, 60.0, -3600.0, 3600.0, -86_400.0, 86_400.0, 34_560_000.0, -34_560_000.0]),
    st.floats(-200_000, 200_000),
)
steps = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    st.tuples(st.just("ask"), st.integers(1, 30), st.just(0.0)),
    st.tuples(st.just("advance"), seconds),
    st.just(("wait",)),
    st.tuples(st.just("step"), jumps),
    st.tuples(st.just("stop"), away),
    st.tuples(st.just("kill"), away),
    st.tuples(st.just("torn"), st.floats(0, 0.99), away),
    st.tuples(st.just("reboot"), away, st.booleans(), st.sampled_from([0.0, 10.0, 100_000.0])),
)

reboots = st.one_of(
    st.tuples(st.just("ask"), st.just(5), st.sampled_from([0.0, 1.0])),
    st.tuples(st.just("advance"), st.sampled_from([0.7, 1.0, 30.4, 61.0])),
    st.just(("wait",)),
    st.tuples(st.just("step"), st.sampled_from([-120.0, 120.0, -5000.0, 5000.0])),
    st.tuples(st.just("reboot"), st.sampled_from([0.0, 1.0, 30.0, 90.0]), st.booleans(), st.sampled_from([0.0, 100.0])),
)
"""Close to each other, so that the windows are still full."""


def live(machine: Machine, step: tuple[Any, ...]) -> None:
    """Apply one step to the machine."""
    match step:
        case "ask", times, dollars:
            for _ in range(times):
                machine.ask(dollars)
        case "advance", passed:
            machine.advance(passed)
        case ("wait",):
            machine.advance(machine.wait())
            machine.ask_all()
        case "step", jump:
            machine.step(jump)
        case "stop", passed:
            machine.stop()
            machine.time += passed
            machine.start()
        case "kill", passed:
            machine.kill()
            machine.time += passed
            machine.start()
        case "torn", share, passed:
            machine.kill_while_writing(share)
            machine.time += passed
            machine.start()
        case "reboot", passed, right, early:
            machine.kill()
            machine.reboot(passed, right=right, early=early)


def check_limits(machine: Machine) -> None:
    """No interval of true time and no day exceeds its limit, apart from actions lost in a crash."""
    for width, limit in WIDTHS.items():
        pairs = zip(machine.admitted, machine.admitted[limit:], strict=False)
        assert all(late.at - early.at > width - 1e-3 for early, late in pairs)
    for one in machine.admitted:
        # Who is idle for 26 h is forgotten, and so is what it spent on a day to which the clock goes back after that.
        same = [other for other in machine.admitted if other.day == one.day and 0 <= one.at - other.at < 25 * 3600]
        assert sum(other.micros for other in same) <= 5_000_000


def endure(life: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        machine = Machine(Path(folder), **LIMITS)
        for step in life:
            event(step[0])
            live(machine, step)
            assert machine.sidecar.damaged == 0
        machine.kill()
        check_limits(machine)
        machine.start()
        machine.advance(90_000)
        usage = machine.sidecar.counters.of(machine.agent_id, "UTC", machine.now.boot)
        assert usage.remaining(machine.agent.limits, machine.now.boot) == machine.agent.limits, "some count for ever"
        machine.kill()


@given(st.lists(steps, max_size=25))
def test_no_limit_is_exceeded_over_restarts(life: list[tuple[Any, ...]]) -> None:
    """100 runs of stops, kills, kills during a write, reboots, and changes of the wall clock."""
    endure(life)


@settings(max_examples=300)
@given(st.lists(reboots, min_size=5, max_size=15))
def test_no_limit_is_exceeded_over_reboots_with_a_wrong_clock(life: list[tuple[Any, ...]]) -> None:
    """The clock is set back and forth between reboots, and corrected after some of them."""
    endure(life)


@pytest.mark.soak
@settings(max_examples=20_000)
@given(st.lists(steps, max_size=60))
def test_no_limit_is_exceeded_over_many_restarts(life: list[tuple[Any, ...]]) -> None:
    """The same in 20,000 longer runs."""
    endure(life)


@given(st.lists(st.tuples(seconds, st.booleans(), st.integers(0, 3)), max_size=30))
def test_a_clean_stop_loses_nothing(life: list[tuple[float, bool, int]]) -> None:
    """After each stop and start all counts and spend equal those of the brute force."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        machine, history = Machine(Path(folder), max_daily_budget_usd=1000), BruteForce()
        limits = Limits(1000, 1000, 1000)
        for passed, stop, dollars in life:
            assert machine.ask(dollars)
            history.count(machine.now.boot)
            history.spend(machine.admitted[-1].day, dollars * 1_000_000)
            if stop:
                machine.stop()
                machine.start()
            usage = machine.sidecar.counters.of(machine.agent_id, "UTC", machine.now.boot)
            assert usage.remaining(limits, machine.now.boot) == history.remaining(limits, machine.now.boot)
            assert usage.spent(machine.admitted[-1].day) == history.spent(machine.admitted[-1].day)
            machine.advance(min(passed, 80_000))
        machine.kill()


@pytest.mark.parametrize("early", [0.0, 5.0, 1_000_000.0])
def test_after_a_reboot_the_wall_clock_gives_the_age_of_counts(tmp_path: Path, early: float) -> None:
    """Of three actions, 40 s before the machine went down for 10 s, none passes for 11 s more, and then all do."""
    machine = Machine(tmp_path, max_actions_per_minute=3)
    assert machine.ask_all() == 3
    machine.advance(40)
    machine.kill()
    machine.reboot(10, right=True, early=early)
    assert machine.ask_all() == 0
    machine.advance(9)
    assert machine.ask_all() == 0
    machine.advance(3)
    assert machine.ask_all() == 3


def test_a_later_boot_clock_of_another_boot_is_not_the_same_clock(tmp_path: Path) -> None:
    """Only the boot id identifies the clock: a day on the new clock is not a day for the old counts."""
    machine = Machine(tmp_path, max_actions_per_minute=3)
    machine.kill()
    machine.reboot(1, right=True)
    assert machine.ask_all() == 3
    machine.advance(1)
    machine.kill()
    machine.reboot(1, right=True, early=86_400)
    assert machine.ask_all() == 0


def test_a_clock_set_back_during_downtime_keeps_counts_longer(tmp_path: Path) -> None:
    """No time seems to have passed; after that the boot clock counts."""
    machine = Machine(tmp_path, max_actions_per_minute=3)
    assert machine.ask_all() == 3
    machine.advance(50)
    machine.wrong = -7200
    machine.reboot(3600, right=False)
    assert machine.ask_all() == 0
    machine.advance(62)
    assert machine.ask_all() == 3


def test_a_clock_that_was_behind_and_is_right_after_a_reboot_makes_no_count_older(tmp_path: Path) -> None:
    """An hour behind while three actions were admitted, right again a second later in the next boot: they count."""
    machine = Machine(tmp_path, max_actions_per_minute=3)
    machine.advance(1)
    machine.step(-3600)
    assert machine.ask_all() == 3
    machine.advance(1)
    machine.kill()
    machine.reboot(1, right=True)
    assert machine.ask_all() == 0


def test_a_clock_that_was_behind_for_two_boots_makes_no_count_older(tmp_path: Path) -> None:
    """How long the machine was down before the second is not known, so none of it passes as time when it is right."""
    machine = Machine(tmp_path, max_actions_per_minute=3)
    machine.step(-3600)
    machine.kill()
    machine.reboot(1800, right=False)
    assert machine.ask_all() == 3
    machine.advance(1)
    machine.kill()
    machine.reboot(1, right=True)
    assert machine.ask_all() == 0


def test_a_clock_far_ahead_for_a_moment_keeps_todays_spend(tmp_path: Path) -> None:
    """400 days ahead, a restart there, and back: today is spent, and tomorrow is whole."""
    machine = Machine(tmp_path, max_daily_budget_usd=5)
    assert machine.ask_all(1) == 5
    machine.step(400 * 86_400)
    assert machine.ask_all(1) == 5
    machine.stop()
    machine.start()
    machine.step(-400 * 86_400)
    assert machine.ask_all(1) == 0
    machine.advance(86_400)
    assert machine.ask_all(1) == 5


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "of a release before"])
def test_without_a_counters_file_usage_starts_at_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_new: bool
) -> None:
    """A used folder logs this once; the new file is private."""
    caplog.set_level("INFO")
    if not is_new:
        (tmp_path / "node-id").touch()
    machine = Machine(tmp_path, max_actions_per_minute=3)
    assert machine.ask_all() == 3
    expected = [] if is_new else [f"there are no counters in `{machine.path}`, so usage starts at zero"]
    assert [record.message for record in caplog.records] == expected
    assert machine.path.stat().st_mode & 0o777 == 0o600


def ignore_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("os.fsync", lambda _file: None)
    patch.setattr("os.fdatasync", lambda _file: None)


def test_the_file_stays_bounded_and_holds_what_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand writes leave it at 1 MiB or so; agents that come, and idle ones, in slices."""
    ignore_disk(monkeypatch)
    monkeypatch.setattr(writer, "SLICE", 3)
    machine = Machine(tmp_path)
    counters = machine.sidecar.counters
    places = set()
    for number in range(20_000):
        for name in (f"agent-{number % 10}", f"passing-{number // 5000}"):
            usage = counters.of(name, "UTC", machine.now.boot)
            usage.count(machine.now.boot)
            counters._charges[name] = Charges({int(machine.now.boot): 1}, {})
        machine.advance(1)
        places.add(machine.path.stat().st_ino)
    assert len(places) > 1
    assert machine.path.stat().st_size < 3 << 20
    saved = read(machine.path).usage
    assert {name: current_counts(one) for name, one in saved.items()} == {
        name: current_counts(one) for name, one in counters.usage.items()
    }


def current_counts(usage: Usage) -> list[Any]:
    """The counts of the usage that have not expired."""
    copy = usage.copy()
    for window in copy.windows:
        window.total_at(copy.seconds.newest)
    return [[window.by_index() for window in copy.windows], copy.micros_by_day]


@given(st.integers(0, 12), st.lists(st.tuples(st.integers(0, 14), st.integers(0, 12)), max_size=12))
def test_what_is_charged_while_a_new_file_is_written_is_in_it_once(agents: int, during: list[tuple[int, int]]) -> None:
    """Whether the agent was copied already, is to come, or is new; and the old file has it until then."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(writer, "SLICE", 2)
        machine = Machine(Path(folder))
        counters = machine.sidecar.counters

        def charge(number: int) -> None:
            usage = counters.of(f"agent-{number}", "UTC", machine.now.boot)
            counters.charge(f"agent-{number}", usage, ALLOWED, machine.now.boot)

        for number in range(agents):
            charge(number)
        machine.flush()
        work = 0

        def before() -> None:
            nonlocal work
            work += 1
            for at, number in during:
                if at == work:
                    charge(number)

        finish(machine.sidecar._rewrite(Inline(before)))
        finish(machine.sidecar._flush(Inline()))
        assert {name: current_counts(one) for name, one in read(machine.path).usage.items()} == {
            name: current_counts(one) for name, one in counters.usage.items()
        }
        machine.kill()


def test_pending_charges_are_bounded_while_the_disk_hangs() -> None:
    """However many there are: two numbers for each second of two minutes, and then one for all before."""
    counters, costing = Counters(), replace(ALLOWED, cost_micros=1, day=1)
    counters.record()
    usage = counters.of("agent-1", "UTC", 0.0)
    for second in range(10 * MAX_SECONDS):
        for _ in range(3):
            counters.charge("agent-1", usage, costing, float(second))
    charges = counters.take()["agent-1"]
    assert len(charges.actions) <= MAX_SECONDS
    assert sum(charges.actions.values()) == 30 * MAX_SECONDS
    assert all(one < other for one, other in pairwise(charges.actions))
    assert counters.take() == {}


def test_a_failing_disk_is_logged_once_and_no_count_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Decisions continue, each failure is counted, and one line is logged at the start and one at the end."""
    machine = Machine(tmp_path, max_actions_per_day=10)
    assert machine.ask()
    machine.advance(1)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        for _ in range(4):
            assert machine.ask()
            machine.advance(1)
    assert machine.sidecar.write_failures >= 4
    machine.advance(1)
    assert [record.levelname for record in caplog.records if "the counters" in record.message] == ["ERROR", "WARNING"]
    assert "No space left on device" in caplog.records[0].message
    machine.kill()
    machine.start()
    assert machine.ask_all() == 5


def test_the_sidecar_starts_with_a_folder_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts in memory, logs this, and writes as soon as it can."""
    folder = tmp_path / "gone"
    machine = Machine(folder, max_actions_per_minute=3)
    assert machine.sidecar.write_failures == 1
    assert "cannot write the counters" in caplog.text
    assert machine.ask_all() == 3
    folder.mkdir()
    machine.advance(1)
    machine.kill()
    machine.start()
    assert machine.ask_all() == 0
