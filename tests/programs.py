"""Programs of the project as processes, ended by the test that started them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

BIN = Path(sys.executable).parent
BOUND_SECONDS = 60.0
NOWHERE = "127.0.0.1:1"
"""An address on which nobody listens."""


def serve_arguments(folder: Path, store_address: str = NOWHERE) -> list[str]:
    """The arguments of `pdp serve` for every agent, with what it needs in `folder`."""
    key_file = folder / "sidecar.key"
    if not key_file.exists():
        key_file.touch(0o600)
        key_file.write_text("owkai_none")
    return [
        "serve",
        f"--store={store_address}",
        f"--key-file={key_file}",
        "--all-agents",
        "--listen=127.0.0.1:0",
        "--http=127.0.0.1:0",
        f"--data-dir={folder / 'data'}",
        "--log-format=json",
    ]


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PDP_")} | dict(changes)


async def run(program: str, *arguments: str, **environment: str) -> Ended:
    """Runs a program to its end."""
    process = await asyncio.create_subprocess_exec(
        BIN / program,
        *arguments,
        env=_environment(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(BOUND_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class Running:
    """A program that runs, and what it has logged as JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def logged(self, text: str) -> dict[str, Any]:
        """The next line whose message has `text` in it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(BOUND_SECONDS):
            while line := await self.process.stderr.readline():
                self.lines.append(json.loads(line))
                if text in self.lines[-1]["message"]:
                    return self.lines[-1]
        raise AssertionError(f"ended without saying {text!r}: {self.lines}")

    async def stopped(self) -> int:
        """Its exit code after SIGTERM, which it may have had before."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(BOUND_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def started(program: str, *arguments: str, **environment: str) -> AsyncIterator[Running]:
    """A program that runs until the block is left, when it is killed if it still does."""
    process = await asyncio.create_subprocess_exec(
        BIN / program, *arguments, env=_environment(environment), stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Running(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
