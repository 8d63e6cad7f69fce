"""Persistent counters: read at the start, and written every half second by the thread that writes the decision log."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from math import floor
from pathlib import Path
from typing import Any, Protocol

from pdp.core.fields import quote_path
from pdp.core.model import Now
from pdp.counters.content import Moment, Saved
from pdp.counters.counters import Charges, Counters
from pdp.counters.file import CountersFile, NewFile, read
from pdp.counters.frames import DamagedError
from pdp.metrics import Metrics
from pdp.outcomes.ledger import Changes, Ledger, Taken

FLUSH_SECONDS = 0.5
"""Together with the time of a write this is less than the second that a crash may lose."""
RETRY_SECONDS = 1.0
MIN_STEP_SECONDS = 0.1
"""A wall clock that was set by more than this is written to the file, even without charges."""
SLICE = 200
"""The number of agents copied at once, in less than a millisecond."""

logger = logging.getLogger(__name__)


class DiskThread(Protocol):
    """The thread that does all disk work; `Spool` has it."""

    def in_thread(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """The result of `work` in that thread."""


class CountersWriter:
    """The counters and the ledger of outcomes of a data folder, and their file; `run` must run.

    After a restart of the machine the wall clock gives the age of the counts. It is compared with the latest wall clock
    seen, advanced with the boot clock, so that a clock that was set back and is right again makes no count older.
    """

    def __init__(self, path: Path, boot_id: str, clock: Callable[[], Now]) -> None:
        """Read the file at `path` and begin a new one; if it cannot be read, everything counts as used up."""
        self.write_failures = 0
        self.damaged = 0
        self._boot_id = boot_id
        self._clock = clock
        self._file = CountersFile(path)
        self._failing = False
        self._closed = asyncio.Event()
        now = clock()
        self._latest = self._wall_at_boot = now.wall - now.boot
        self.ledger = Ledger()
        self.counters = self._loaded(now)
        self.counters.record()
        try:
            self._write_whole(now)
        except OSError as error:
            self._fail(error)

    async def run(self, disk: DiskThread) -> None:
        """Write charges until closed; then try the rest once."""
        while not self._closed.is_set():
            await self._pause(RETRY_SECONDS if self._failing else FLUSH_SECONDS)
            await self._flush(disk)
        await self._flush(disk)
        self._file.close()

    def close(self) -> None:
        """Make `run` write the rest and end."""
        self._closed.set()

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        metrics.watch("pdp_counters_agents", "Agents with counters", lambda: len(self.counters.usage))
        metrics.watch_total(
            "pdp_counters_write_failures", "Writes of the counters that failed", lambda: self.write_failures
        )
        metrics.watch_total(
            "pdp_counters_damaged",
            "Counter files that could not be read; their counts are treated as used up",
            lambda: self.damaged,
        )

    def _loaded(self, now: Now) -> Counters:
        path = quote_path(self._file.path)
        try:
            saved = read(self._file.path)
        except FileNotFoundError:
            if self._file.path.with_name("node-id").exists():  # a new folder needs no log line
                logger.info("there are no counters in %s, so usage starts at zero", path)
            return Counters()
        except (OSError, DamagedError) as error:
            self.damaged += 1
            why = error.strerror if isinstance(error, OSError) else error
            logger.error(
                "cannot read the counters in %s: %s; until now every limit counts as reached and every day's budget as "
                "spent, so agents with limits are blocked for a minute, an hour, a day and until midnight",
                path,
                why,
            )
            self._keep_damaged()
            return Counters(lost_until=now)
        return self._placed(saved, now)

    def _placed(self, saved: Saved, now: Now) -> Counters:
        """The counters on the clock of this boot."""
        usage, lost_until = saved.usage, saved.lost_until
        self.ledger = saved.ledger
        wall, boot, latest = saved.at
        if saved.boot_id == self._boot_id and boot <= now.boot:
            self._latest = max(self._latest, latest - boot)
        else:
            # The clock may still be as far behind the latest as it was then.
            self._latest = max(now.wall + latest - wall, latest) - now.boot
            passed = max(0, floor(now.wall - latest))
            logger.info(
                "the counters of %d agents are from another boot, %d s ago by the wall clock", len(usage), passed
            )
            usage = {agent_id: one.moved(boot, now.boot - passed) for agent_id, one in usage.items()}
            if lost_until is not None:
                lost_until = lost_until._replace(boot=lost_until.boot - boot + now.boot - passed)
        kept = {agent_id: one for agent_id, one in usage.items() if not one.is_idle(now.boot)}
        return Counters(kept, lost_until)

    def _keep_damaged(self) -> None:
        # Linked, not moved: a restart must find the damaged file again until a new file replaces it.
        aside = self._file.path.with_suffix(".damaged")
        with suppress(OSError):
            aside.unlink(missing_ok=True)
            os.link(self._file.path, aside, follow_symlinks=False)

    def _moment(self, now: Now) -> Moment:
        self._latest = max(self._latest, now.wall - now.boot)
        return Moment(now.wall, now.boot, now.boot + self._latest)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _flush(self, disk: DiskThread) -> None:
        try:
            at = self._moment(self._clock())
            charges, taken = self.counters.take(), self.ledger.take(at.wall)
            wall_at_boot = at.wall - at.boot
            if charges or taken or abs(wall_at_boot - self._wall_at_boot) > MIN_STEP_SECONDS:
                await self._append(disk, at, charges, taken)
                self._wall_at_boot = wall_at_boot
            if self._file.is_behind or (self._file.is_filling and not self._closed.is_set()):
                await self._rewrite(disk)
        except Exception as error:
            self._fail(error)
            return
        if self._failing:
            self._failing = False
            logger.warning("the counters can be written again")

    async def _append(self, disk: DiskThread, at: Moment, charges: Mapping[str, Charges], taken: Taken) -> Changes:
        """Write to the file what was taken; its decisions stay packed in memory, also if the write fails."""

        def pack_and_append() -> Changes:
            changes = taken.pack()
            self._file.append(at, charges, changes)
            return changes

        try:
            changes: Changes = await disk.in_thread(pack_and_append)
        finally:
            self.ledger.adopt(taken)
        return changes

    async def _rewrite(self, disk: DiskThread) -> None:
        """Write a new file in slices of agents, so that no decision waits for all of them."""
        agent_ids = list(self.counters.usage)
        slices = [agent_ids[start : start + SLICE] for start in range(0, len(agent_ids), SLICE)]
        to_come: set[str] = set()
        for some in slices:
            to_come.update(some)
            await asyncio.sleep(0)
        new: NewFile = await disk.in_thread(partial(self._new_file, self._moment(self._clock())))
        try:
            at, whole = self._moment(self._clock()), self.ledger.whole()
            await disk.in_thread(partial(new.add_ledger, at, whole))
            for some in slices:
                at = self._moment(self._clock())
                charges, taken = self.counters.take(), self.ledger.take(at.wall)
                copies = self.counters.copies(some, at.boot)
                # The copies include the charges of these agents and of those to come; the others' must be added.
                followed = {agent_id: one for agent_id, one in charges.items() if agent_id not in to_come}
                to_come.difference_update(some)
                changes = await self._append(disk, at, charges, taken)
                await disk.in_thread(partial(new.follow, at, followed, changes))
                await disk.in_thread(partial(new.add, at, copies))
            await disk.in_thread(new.finish)
        finally:
            await disk.in_thread(new.abandon)

    def _write_whole(self, now: Now) -> None:
        at = self._moment(now)
        new = self._new_file(at)
        try:
            new.add_ledger(at, self.ledger.whole())
            agent_ids = iter(self.counters.usage)
            while some := tuple(islice(agent_ids, SLICE)):
                new.add(at, self.counters.copies(some, now.boot))
            new.finish()
        finally:
            new.abandon()

    def _new_file(self, at: Moment) -> NewFile:
        return self._file.rewrite(self._boot_id, at, self.counters.lost_until)

    def _fail(self, error: Exception) -> None:
        self.write_failures += 1
        if not self._failing:
            self._failing = True
            fault = None if isinstance(error, OSError) else error
            logger.error("cannot write the counters: %s; a restart would lose them", error, exc_info=fault)
