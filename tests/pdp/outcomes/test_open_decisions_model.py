"""Open decisions against a plain dict, through allows, reports, hours, changes of the clock, crashes and restarts."""

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from pdp.core.ids import DecisionIds
from pdp.core.model import Now
from pdp.counters.writer import CountersWriter
from pdp.outcomes import open_decisions
from pdp.outcomes.open_decisions import OPEN_SECONDS
from pdp.outcomes.segments import Allowed
from tests.pdp.counters.counting import Inline, finish

MEMORY = Path("/dev/shm")
SEGMENT, MOST = 5, 40
START = 1_800_000_000.0
ZONES = ("UTC", "Europe/Zurich", "Asia/Tokyo")

allows = st.tuples(
    st.just("allow"),
    st.integers(1, 12),
    st.integers(0, 6),
    st.sampled_from([0, 1, 10**15]),
    st.sampled_from(["", "a-1"]),
)
reports = st.tuples(st.just("report"), st.integers(0, 30))
steps = st.one_of(
    allows,
    reports,
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.0011, 0.5, 600.0, 3000.0, 3600.0])),
    st.tuples(st.just("set"), st.sampled_from([-7200.0, -20.0, -0.3, 0.4, 30.0, 7200.0])),
    st.tuples(st.just("flush"), st.lists(st.one_of(allows, reports), max_size=3), st.integers(1, 3)),
    st.tuples(st.just("rewrite"), st.lists(st.one_of(allows, reports), max_size=3), st.integers(1, 3)),
    st.just(("stop",)),
    st.just(("kill",)),
)


class Life:
    """A sidecar, and what it has to remember."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.random = Random(1)
        self.wall, self.boot, self.newest = START, 5000.0, START
        self.made: dict[str, Allowed] = {}
        """In the order of making."""
        self.gone: set[str] = set()
        """Those that an hour, by some clock, has passed for; they may be forgotten."""
        self.unwritten: dict[str, Allowed | None] = {}
        """What decisions made or reported since the last write were before."""
        self.start()

    def start(self) -> None:
        self.sidecar = CountersWriter(self.path, "boot", lambda: Now(self.wall, self.boot))
        self.ids = DecisionIds(self.random.getrandbits)
        assert self.sidecar.damaged == 0

    def live(self, step: tuple[Any, ...]) -> None:
        match step:
            case "allow", times, agent, cost, approval_id:
                for _ in range(times):
                    self.allow(f"agent-{agent}", ZONES[agent % 3], cost, approval_id)
            case "report", back:
                if back < len(self.made):
                    self.report([*self.made][-1 - back])
            case "advance", passed:
                self.pass_time(passed, passed)
            case "set", jump:
                self.pass_time(0.0, jump)
            case "flush", during, at:
                finish(self.sidecar._flush(self.disk(during, at)))
                self.flush()
            case "rewrite", during, at:
                self.flush()
                finish(self.sidecar._rewrite(self.disk(during, at)))
                self.flush()
            case ("stop",):
                self.stop()
            case ("kill",):
                self.kill()

    def stop(self) -> None:
        self.sidecar.close()
        finish(self.sidecar.run(Inline()))
        self.unwritten.clear()
        self.start()

    def kill(self) -> None:
        self.sidecar._file.close()
        for decision_id, before in self.unwritten.items():
            if before is None:
                del self.made[decision_id]
            else:
                self.made[decision_id] = before
        self.unwritten.clear()
        self.start()

    def disk(self, during: list[tuple[Any, ...]], at: int) -> Inline:
        """A disk; before its piece of work number `at` something happens."""
        pieces = 0

        def before() -> None:
            nonlocal pieces
            pieces += 1
            if pieces == at:
                for step in during:
                    self.live(step)

        return Inline(before)

    def flush(self) -> None:
        finish(self.sidecar._flush(Inline()))
        self.unwritten.clear()

    def allow(self, agent_id: str, zone: str, cost: int, approval_id: str) -> None:
        one = Allowed(self.ids.next(self.wall), agent_id, zone, self.wall, cost, approval_id)
        self.sidecar.ledger.allow(one[:6])
        self.made[one.decision_id] = one
        self.unwritten[one.decision_id] = None

    def report(self, decision_id: str) -> None:
        if self.sidecar.ledger.decisions.get(decision_id, self.wall) is None:
            return
        self.sidecar.ledger.report(decision_id, "agent", 1, failed=False)
        before = self.made[decision_id]
        self.unwritten.setdefault(decision_id, before)
        self.made[decision_id] = before._replace(reported=True)

    def pass_time(self, boot: float, wall: float) -> None:
        self.boot += boot
        self.wall += wall
        self.newest = max(self.newest, self.wall)
        self.gone.update(one.decision_id for one in self.made.values() if self.newest - one.at >= OPEN_SECONDS)

    def check(self) -> None:
        decisions = self.sidecar.ledger.decisions
        assert len(decisions) <= MOST
        kept = [*self.made][-(MOST - SEGMENT) :]
        for decision_id, one in self.made.items():
            found = decisions.get(decision_id, self.wall)
            if self.wall - one.at >= OPEN_SECONDS:
                assert found is None
            elif decision_id in kept and decision_id not in self.gone:
                assert found == one
            else:
                assert found in (None, one)
        assert decisions.get("01a3185c-5d7c-7000-8000-000000000000", self.wall) is None


def endure(life: list[tuple[Any, ...]]) -> None:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(open_decisions, "SEGMENT", SEGMENT)
        patch.setattr(open_decisions, "MAX_DECISIONS", MOST)
        one = Life(Path(folder) / "counters")
        for step in life:
            event(step[0])
            one.live(step)
            one.check()
        one.sidecar._file.close()


SOME = ("allow", 12, 0, 0, "")


@example([SOME, SOME, SOME, ("stop",), ("allow", 5, 0, 0, "")])  # full after a restart
@given(st.lists(steps, max_size=30))
def test_open_decisions_equal_a_dict(life: list[tuple[Any, ...]]) -> None:
    """The newest are there as they were made, with what is reported; none twice, none too old, none that is unknown."""
    endure(life)


@pytest.mark.soak
@settings(max_examples=5_000)
@given(st.lists(steps, max_size=60))
def test_open_decisions_equal_a_dict_for_long(life: list[tuple[Any, ...]]) -> None:
    """The same in 5,000 longer runs."""
    endure(life)
