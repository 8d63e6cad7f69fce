"""Instructions of a decision in process, counted by valgrind: whatever else the machine does, the count hardly varies.

python -m benchmarks.inside.instructions

The program imports and warms up once, and forks for each count. What N calls take is the count of 2N calls less that
of N, so that neither start nor end is in it. `decision` is the servicer's handler from the bytes of a request to those
of the answer, with limits, budget, ten policies, metrics, and the record written to the decision log. The other parts
are contained in it.
"""

import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import compiled
from benchmarks.compiled import NOW
from benchmarks.peers import rule
from pdp.core.decide import decide
from pdp.core.usage import Usage
from pdp.decision_log.log import DecisionLog
from pdp.decision_log.spool import Spool
from pdp.endpoints.connect import Context
from pdp.serving.requests import Peer
from pdp.v1 import decision_pb2 as pb
from tests.deciding import Bench

DECISION_ID = "01a1f8d3-ea00-7018-8710-6c2b98b088f1"
CALLS = 300
WARM_UP_CALLS = 100
LOG_BYTES = 1 << 30
MISSING = "valgrind is not installed; the count of instructions needs: apt-get install --yes valgrind"

Work = Callable[[int], Coroutine[Any, Any, None]]
"""Does a part of a decision so many times."""


def counted(calls: int = CALLS) -> dict[str, float]:
    """Instructions of one call of each part; `FileNotFoundError` without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError(MISSING)
    with TemporaryDirectory() as folder:
        tool = [valgrind, "--quiet", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={folder}/%p"]
        # Hashes of texts decide how often entries of a dictionary collide.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        command = [*tool, sys.executable, "-m", "benchmarks.inside.instructions", "children", str(calls)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"valgrind ended with exit code {done.returncode}:\n{done.stderr}")
        pids: dict[str, tuple[int, int]] = json.loads(done.stdout)
        outputs = {pid: Path(folder, str(pid)).read_text() for both in pids.values() for pid in both}
    return counts(pids, outputs, calls)


def counts(pids: Mapping[str, tuple[int, int]], outputs: Mapping[int, str], calls: int) -> dict[str, float]:
    """Instructions of one call of each part: its processes made `calls` and twice `calls`, and left these outputs."""
    totals = {pid: _total(output) for pid, output in outputs.items()}
    return {name: (totals[twice] - totals[once]) / calls for name, (once, twice) in pids.items()}


def _total(output: str) -> int:
    """All instructions of a process."""
    found = re.search(r"^summary: (\d+)$", output, re.MULTILINE)
    if found is None:
        raise ValueError("the output of cachegrind has no summary")
    return int(found[1])


async def decision(calls: int) -> None:
    """From the bytes of requests to those of the answers, with their records in the log."""
    with TemporaryDirectory() as folder:
        spool = Spool(DecisionLog(Path(folder), LOG_BYTES, lambda: NOW.wall))
        bench = Bench(spool)
        handler = compiled.evaluating(bench)
        context: Any = Context(Peer())
        for case in rule.CASES:
            answered = pb.EvaluateResponse.FromString(await handler(rule.request(case), context))
            if (answered.outcome == pb.OUTCOME_ALLOW) != case.allowed:
                raise AssertionError(f"{case} was answered by {answered}")
        writing = asyncio.create_task(spool.run())
        raw = rule.request(rule.ALLOWED)
        for _ in range(calls):
            await handler(raw, context)
        spool.close()
        await writing
        spool.end()
        if spool.logged != len(rule.CASES) + calls:
            raise AssertionError(f"{spool.logged} records were written")


async def parse(calls: int) -> None:
    """From the bytes of a request to the values that are decided on."""
    raw = rule.request(rule.ALLOWED)
    for _ in range(calls):
        compiled.parsed(raw)


async def judge(calls: int) -> None:
    """`decide`, on values."""
    state = compiled.state(rule.policies())
    agent, action, usage = state.agents[rule.AGENT_ID], compiled.action(rule.ALLOWED), Usage()
    for _ in range(calls):
        decide(agent, state.servers, action, usage, NOW)


async def answer(calls: int) -> None:
    """From a decision to the bytes of its answer."""
    state = compiled.state(rule.policies())
    agent, action, usage = state.agents[rule.AGENT_ID], compiled.action(rule.ALLOWED), Usage()
    decided = decide(agent, state.servers, action, usage, NOW)
    for _ in range(calls):
        compiled.answer(decided, state, usage, DECISION_ID)


PARTS: Mapping[str, Work] = {"decision": decision, "parse": parse, "decide": judge, "answer": answer}


def _children(calls: int) -> dict[str, tuple[int, int]]:
    """Does each part `calls` and twice `calls` times in two processes: their ids."""
    for work in PARTS.values():
        asyncio.run(work(WARM_UP_CALLS))
    gc.collect()
    gc.freeze()
    return {name: _both(work, calls) for name, work in PARTS.items()}


def _both(work: Work, calls: int) -> tuple[int, int]:
    once, twice = _forked(work, calls), _forked(work, 2 * calls)
    for pid in (once, twice):
        _, status = os.waitpid(pid, 0)
        if status:
            raise ChildProcessError(f"a count failed with status {status}")
    return once, twice


def _forked(work: Work, calls: int) -> int:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            asyncio.run(work(calls))
            code = 0
        finally:
            os._exit(code)
    return pid


def main(arguments: list[str]) -> None:
    """Print the counts; with `children`, do what is counted."""
    if arguments:
        print(json.dumps(_children(int(arguments[1]))))
        return
    for name, count in counted().items():
        print(f"{name:10}{count:12,.0f} instructions")


if __name__ == "__main__":
    main(sys.argv[1:])
