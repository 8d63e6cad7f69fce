"""`make demo`, as a process."""

import asyncio
import re
import sys
from pathlib import Path

DEMO_SECONDS = 300.0
"""It starts six programs one after the other, each of which may take its time."""
DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


async def demo() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, DEMO, stdout=asyncio.subprocess.PIPE)


def children(pid: int) -> set[int]:
    """The running children of a process."""
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


async def test_the_demo_shows_what_it_promises() -> None:
    """All four outcomes, an approval, a change and how long it took, the limit, and decisions without the store."""
    process = await demo()
    async with asyncio.timeout(DEMO_SECONDS):
        out = (await process.communicate())[0].decode()
    assert process.returncode == 0, out
    for outcome in ("allow", "require_approval", "escalate", "block"):
        assert f"│ {outcome} " in out
    assert "the same again: allow APPROVED; and once more: require_approval" in out
    assert re.search(r"require_approval → allow,\s+[0-9.]+ ms after the registry's answer", out)
    assert "block RATE_LIMIT_EXCEEDED" in out
    assert "the store has ended with code 0\napi.read on banking_api: allow" in out


async def test_a_demo_that_is_interrupted_leaves_nothing_running() -> None:
    """Its store and its sidecar end with it."""
    process = await demo()
    try:
        async with asyncio.timeout(DEMO_SECONDS):
            while len(programs := children(process.pid)) != 2:  # noqa: ASYNC110 - they are of another program
                await asyncio.sleep(0.005)
            process.terminate()
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 143
    assert not [pid for pid in programs if is_running(pid)]
