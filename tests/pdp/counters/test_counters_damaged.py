"""A damaged counters file is logged, and unknown usage counts as used up."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pdp.counters.file import read
from pdp.counters.frames import MARKER, DamagedError
from tests.pdp.counters.counting import Machine

LIMITS = {"max_actions_per_minute": 3, "max_actions_per_hour": 5, "max_actions_per_day": 7, "max_daily_budget_usd": 5}


def flipped(at: Callable[[bytes], int]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at(data)] ^= 1
        path.write_bytes(data)

    return spoil


def frame(number: int) -> Callable[[bytes], int]:
    """A byte within the frame of that number."""

    def at(data: bytes) -> int:
        place = -1
        for _ in range(number + 1):
            place = data.index(MARKER, place + 1)
        return place + 20

    return at


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def lengthened(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def replaced(path: Path) -> None:
    path.write_text("precious")


def of_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"pdp counters 1", b"pdp counters 2", 1))


def without_a_frame(path: Path) -> None:
    data = path.read_bytes()
    second, third = (frame(number)(data) - 20 for number in (2, 3))
    path.write_bytes(data[:second] + data[third:] + bytes(third - second))


def a_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILED = {
    "header": flipped(lambda _: 20),
    "first frame": flipped(frame(0)),
    "agents": flipped(frame(1)),
    "charges": flipped(frame(2)),
    "a marker": flipped(lambda data: frame(2)(data) - 20),
    "a length": flipped(lambda data: frame(2)(data) - 14),
    "truncated": truncated,
    "emptied": emptied,
    "lengthened": lengthened,
    "replaced": replaced,
    "another version": of_another_version,
    "a frame less": without_a_frame,
    "a link": a_link,
    "a folder": a_folder,
}


def used(folder: Path) -> Machine:
    """A machine with an agent's counts in the file, of which some are charges in frames of their own; stopped.

    Those frames have an open decision each.
    """
    machine = Machine(folder, **LIMITS)
    machine.ask(1)
    machine.stop()
    machine.start()
    for number in range(2):
        machine.ask(1)
        row = f"01a3185c-5d7c-7000-8000-{number:012x}", machine.agent_id, "UTC", machine.now.wall, 1_000_000, ""
        machine.sidecar.ledger.allow(row)
        machine.advance(1)
    machine.stop()
    return machine


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_file_counts_as_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    """Each limit until its window has passed and the budget until midnight, also for unknown agents."""
    machine = used(tmp_path)
    spoil(machine.path)
    caplog.clear()
    machine.start()
    (line,) = [record for record in caplog.records if "cannot read the counters" in record.message]
    assert (line.levelname, machine.sidecar.damaged) == ("ERROR", 1)
    assert machine.ask_all() == 0
    usage = machine.sidecar.counters.of("another-agent", "UTC", machine.now.boot)
    assert usage.remaining(machine.agent.limits, machine.now.boot) == (0, 0, 0)
    machine.advance(62)
    assert machine.sidecar.counters.of(machine.agent_id, "UTC", 0).remaining(
        machine.agent.limits, machine.now.boot
    ) == (3, 0, 0)
    machine.advance(3660)
    assert machine.ask_all() == 0
    machine.advance(86_400 + 1440)
    assert machine.ask_all(1) == 3


@pytest.mark.parametrize("spoil", [truncated, replaced, a_link])
def test_a_damaged_file_is_kept_aside_for_people(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """As `counters.damaged`; the new one is sound."""
    machine = used(tmp_path)
    spoil(machine.path)
    damaged = machine.path.read_bytes()
    machine.start()
    assert machine.path.with_suffix(".damaged").read_bytes() == damaged
    assert read(machine.path).lost_until is not None


def test_unknown_usage_stays_unknown_after_a_restart(tmp_path: Path) -> None:
    """Also for agents without an action before it, after a kill, and after a reboot."""
    machine = used(tmp_path)
    truncated(machine.path)
    machine.start()
    machine.kill()
    machine.start()
    assert machine.ask_all() == 0
    machine.advance(30)
    machine.kill()
    machine.reboot(20, right=True)
    assert machine.ask_all() == 0
    assert machine.sidecar.damaged == 0
    other = machine.sidecar.counters.of("another-agent", "UTC", machine.now.boot)
    assert 8 < other.wait(machine.agent.limits._replace(hour=None, day=None), machine.now.boot) < 13


def test_the_budget_is_spent_until_midnight_of_the_agents_own_zone(tmp_path: Path) -> None:
    """It is noon in London when the file is found damaged, and 21:00 in Tokyo."""
    machine = Machine(tmp_path, max_daily_budget_usd=5, time_window_timezone="Asia/Tokyo")
    machine.stop()
    machine.time = 1_036_800.0  # twelve whole days after noon
    truncated(machine.path)
    machine.start()
    assert not machine.ask(1)
    machine.advance(3 * 3600 - 10)
    assert not machine.ask(1)
    machine.advance(11)
    assert machine.ask(1)


def test_an_interrupted_last_write_is_not_damage(tmp_path: Path) -> None:
    """Wherever it was cut: what came before it counts, and what was in it may be lost."""
    machine = used(tmp_path)
    data = machine.path.read_bytes()
    last = data.rindex(MARKER)
    end = len(data.rstrip(b"\0"))
    for cut in range(last, end):
        machine.path.write_bytes(data[:cut] + bytes(len(data) - cut))
        (usage,) = read(machine.path).usage.values()
        assert sum(usage.micros_by_day.values()) == 2_000_000
    machine.path.write_bytes(data)
    (usage,) = read(machine.path).usage.values()
    assert sum(usage.micros_by_day.values()) == 3_000_000


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """But in the last frame, which a crash may have cut off: then it is as if that had not been written."""
    machine = used(tmp_path)
    data = machine.path.read_bytes()
    sound = read(machine.path)
    whole, last = len(data.rstrip(b"\0")), data.rindex(MARKER)
    for at in range(whole):
        spoiled = bytearray(data)
        spoiled[at] ^= 0x10
        machine.path.write_bytes(spoiled)
        if at < last:
            with pytest.raises(DamagedError):
                read(machine.path)
        else:
            assert read(machine.path).at < sound.at


def test_without_its_file_nothing_counts_as_used(tmp_path: Path) -> None:
    """So an operator can delete a damaged file while the sidecar is stopped."""
    machine = used(tmp_path)
    truncated(machine.path)
    machine.start()
    assert machine.ask_all() == 0
    machine.stop()
    machine.path.unlink()
    machine.start()
    assert machine.ask_all() == 3
