"""Attack after attack on a running installation, beside honest callers, an administrator and kills; then the account.

`python -m tests.hostile.campaign --minutes 60 --seed 1` prints the account; exit code 1: it found something.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from tests.hostile.attacks import ATTACKS
from tests.hostile.installation import Installation, Program, Target, installed
from tests.hostile.witness import Witness, administer

FLUSH_SECONDS = 1.0
"""A decision given within so long of a kill may have no record."""
MAX_LAG_SECONDS = 0.1
MAX_LOG_LINES_PER_SECOND = 20
MAX_GROWTH = 1.25
GROWTH_BYTES = 24 << 20
DRAIN_SECONDS = 300
ATTACKER_NICE = 15

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """What one program took at one moment."""

    at: float
    resident_bytes: int
    open_files: int


@dataclass
class Account:
    """What a campaign found, and its figures."""

    findings: list[str] = field(default_factory=list)
    decided: list[tuple[float, int, str]] = field(default_factory=list)
    """Decisions that attackers were given: when at the latest, by which sidecar, under which id."""
    figures: dict[str, object] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    attacks: int = 0
    late_turns: Counter[str] = field(default_factory=Counter)
    """Late turns of the event loops, by the attacks of the round: a finding of a long campaign, but not of a test on a
    busy machine."""

    def find(self, *findings: str) -> None:
        """Record a finding and print it at once, because people watch a long campaign."""
        self.findings += findings
        for finding in findings:
            logger.warning("%s", finding)


class Campaign:
    """One campaign against one installation."""

    def __init__(self, installation: Installation, seed: int, *, kills: bool) -> None:
        self.account = Account()
        self._installation = installation
        self._random = random.Random(seed)
        self._seed = seed
        self._kills = kills
        self._witnesses = [Witness(grpc) for grpc, _ in installation.sidecar_addresses]
        self._targets: list[Target] = []
        self._disturbed = 0.0
        """When a program was last stopped or killed, or answered again after that."""
        self._late: dict[str, float] = {}
        self._began = time.monotonic()

    async def run(self, rounds: Iterable[Sequence[str]], seconds: float) -> Account:
        """Each round is a few attacks at once, for so many seconds each."""
        self._targets = [await self._installation.target(number) for number in range(len(self._witnesses))]
        callers = [asyncio.create_task(witness.run()) for witness in self._witnesses]
        callers.append(asyncio.create_task(administer(self._installation, self._witnesses)))
        callers.append(asyncio.create_task(self._probe()))
        try:
            for number, names in enumerate(rounds):
                await self._round(number, names, seconds)
                self._sample()
                await self._count_late_turns(" and ".join(names))
                for caller in callers:
                    if caller.done():
                        caller.result()
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        await self._conclude()
        return self.account

    async def _round(self, number: int, names: Sequence[str], seconds: float) -> None:
        sidecar = number % len(self._witnesses)
        attackers = [self._attack(name, sidecar, seconds, number) for name in names]
        if self._kills and number % 4 == 3:
            attackers.append(self._disturb(number // 4, seconds))
        await asyncio.gather(*attackers)

    async def _attack(self, name: str, sidecar: int, seconds: float, number: int) -> None:
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", str(ATTACKER_NICE), sys.executable, "-m", "tests.hostile.attacks"),
            *("--seconds", str(seconds), "--seed", f"{self._seed + number}", name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"GRPC_VERBOSITY": "NONE"},
        )
        out, err = await process.communicate(self._targets[sidecar].as_json().encode())
        self.account.attacks += 1
        if process.returncode:
            self.account.find(f"attacker {name} failed: {err.decode()[-2000:]}")
            return
        tally = json.loads(out)
        # A killed sidecar or store answers nothing: what an attacker takes for a fault then is none.
        if self._disturbed < began:
            self.account.find(*(f"{name}: {finding}" for finding in tally["findings"]))
        at = time.monotonic()
        self.account.decided += [(at, sidecar, decision_id) for decision_id in tally["decisions"]]

    async def _disturb(self, number: int, seconds: float) -> None:
        """Stop, kill or restart a program in the midst of an attack."""
        await asyncio.sleep(self._random.uniform(0, seconds / 2))
        last = len(self._witnesses) - 1
        program: Program = self._installation.sidecars[last]
        self._disturbed = time.monotonic()
        match number % 3:
            case 0:
                self._witnesses[last].kills.append(time.monotonic())
                await program.kill()
                self._witnesses[last].kills.append(time.monotonic())
            case 1:
                await program.stop()
            case _:
                program = self._installation.store
                await program.kill()
        program.start()
        address = self._installation.store_http
        if program is not self._installation.store:
            _, address = self._installation.sidecar_addresses[last]
        await self._installation.until_ready(address)
        self._disturbed = time.monotonic()

    async def _probe(self) -> None:
        """The liveness probe of the first sidecar, each second: a failure would have it restarted."""
        _, address = self._installation.sidecar_addresses[0]
        while True:
            status = await self._installation.probe(address)
            if status != 200:
                self.account.find(f"the liveness probe was answered {status}")
            await asyncio.sleep(1.0)

    def _sample(self) -> None:
        for program in (self._installation.store, self._installation.sidecars[0]):
            sample = Sample(time.monotonic() - self._began, program.resident_bytes(), program.open_files())
            self.account.samples.setdefault(program.name, []).append(sample)

    async def _conclude(self) -> None:
        account = self.account
        for witness in self._witnesses:
            account.find(*witness.findings, *witness.overruns())
        await self._count_late_turns("the end")
        await self._check_records()
        await self._installation.stop()
        seconds = time.monotonic() - self._began
        for program in self._installation.programs():
            account.find(*program.log_faults())
            lines = program.log.read_bytes().count(b"\n")
            account.figures[f"log lines of {program.name}"] = lines
            if lines > MAX_LOG_LINES_PER_SECOND * seconds:
                account.find(f"{program.name} wrote {lines} lines in {seconds:.0f} s")
        account.find(*(fault for name in account.samples for fault in self._growth(name)))
        first = self._witnesses[0]
        account.figures |= {
            "seconds": round(seconds),
            "attacks": account.attacks,
            "decisions of honest callers": sum(len(witness.given) for witness in self._witnesses),
            "decisions of attackers": len(account.decided),
            "errors of honest callers at the sidecar that was never stopped": len(first.errors),
            "p50, p99, p99.9 there, ms": [round(first.latency(share) * 1000, 1) for share in (0.5, 0.99, 0.999)],
        }

    async def _count_late_turns(self, cause: str) -> None:
        _, sidecar = self._installation.sidecar_addresses[0]
        for name, address, metric in (
            ("sidecar-0", sidecar, "pdp_event_loop"),
            ("store", self._installation.store_http, "registry_store_event_loop"),
        ):
            samples = dict(await _samples(address))
            turns = samples[f"{metric}_held_seconds_count", ""]
            late = turns - samples[f"{metric}_held_seconds_bucket", str(MAX_LAG_SECONDS)]
            waited = turns - samples[f"{metric}_lag_seconds_bucket", str(MAX_LAG_SECONDS)]
            before = self._late.get(name, 0)
            # Where it is less, the program was started again and counts anew.
            if more := late - before if late >= before else late:
                self.account.late_turns[f"{cause}: {name}"] += int(more)
            self._late[name] = late
            self.account.figures[
                f"turns of {name} since its start, of these over {MAX_LAG_SECONDS} s late, and that by its own work"
            ] = [turns, waited, late]

    async def _check_records(self) -> None:
        """Every decision that anybody was given has its record at the store, once all are sent."""
        given = [(one.ended, number, one.decision_id) for number, w in enumerate(self._witnesses) for one in w.given]
        wanted = {
            decision_id
            for at, sidecar, decision_id in given + self.account.decided
            if not any(kill - FLUSH_SECONDS <= at <= kill + 60 for kill in self._witnesses[sidecar].kills)
        }
        missing: set[str] = wanted
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while missing:
                    missing = wanted - self._installation.recorded()
                    if missing:
                        await asyncio.sleep(1.0)
        self.account.figures["decisions looked for at the store"] = len(wanted)
        if missing:
            self.account.find(f"{len(missing)} decisions have no record, as {sorted(missing)[:3]}")

    def _growth(self, name: str) -> list[str]:
        samples = self.account.samples[name]
        if len(samples) < 40:
            return []
        half = len(samples) // 2
        early = statistics.median(one.resident_bytes for one in samples[half // 2 : half])
        late = statistics.median(one.resident_bytes for one in samples[-half // 2 :])
        files = max(one.open_files for one in samples[-half // 2 :])
        self.account.figures[f"resident MiB of {name}, second and last quarter"] = [
            round(early / 2**20),
            round(late / 2**20),
        ]
        self.account.figures[f"open files of {name} at most, last quarter"] = files
        return [f"{name} grew from {early} to {late} bytes"] if late > MAX_GROWTH * early + GROWTH_BYTES else []


async def _samples(address: str) -> list[tuple[tuple[str, str], float]]:
    """Every sample of a program's metrics, by its name and `le`."""
    with urllib3.PoolManager(retries=False, timeout=30.0) as pool:
        text = (await asyncio.to_thread(pool.request, "GET", f"http://{address}/metrics")).data.decode()
    return [
        ((sample.name, sample.labels.get("le", "")), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def rounds_for(seconds: float, seed: int) -> Iterator[list[str]]:
    """Rounds of two attacks at once, drawn by chance, for so long."""
    chances, until = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < until:
        yield chances.sample(list(ATTACKS), 2)


async def campaign(
    folder: Path, rounds: Iterable[Sequence[str]], seconds: float, seed: int = 0, *, kills: bool
) -> Account:
    """The account of a campaign on a new installation in `folder`."""
    async with installed(folder) as installation:
        return await Campaign(installation, seed, kills=kills).run(rounds, seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    rounds = rounds_for(given.minutes * 60, given.seed)
    with tempfile.TemporaryDirectory(prefix="pdp-hostile-") as folder:
        account = asyncio.run(campaign(Path(folder), rounds, given.seconds, given.seed, kills=True))
    late = [
        f"{times} turns over {MAX_LAG_SECONDS} s late at {what}" for what, times in account.late_turns.most_common()
    ]
    found = account.findings + late
    lines = [f"{name}: {figure}" for name, figure in account.figures.items()]
    sys.stdout.write("\n".join([*lines, f"found: {len(found)}", *found[:50], ""]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
