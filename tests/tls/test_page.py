"""docs/how-to/tls.md: its commands print what it shows."""

import asyncio
import os
import re
import shutil
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from tests import console
from tests.ports import reserved
from tests.waiting import BOUND_SECONDS, eventually

PAGE = Path(__file__).parents[2] / "docs/how-to/tls.md"
PORTS = ("8080", "50051", "50052", "8181")
READY = {"registry-store": "listening for HTTP", "pdp": "in sync from revision"}
KEPT = ("export ", "new() ", "issue() ")
"""Beginnings of commands that change the shell for those after them."""


class Shell:
    """Runs the commands of the page one after the other, in a folder of its own and on free ports."""

    def __init__(self, folder: Path, ports: dict[str, str], life: AsyncExitStack) -> None:
        self._folder = folder
        self._ports = ports
        self._life = life
        self._before = ""

    def _mapped(self, text: str) -> str:
        return re.sub(r"(?<=:)(" + "|".join(PORTS) + r")\b", lambda match: self._ports[match[1]], text)

    def _shown(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = text.replace(f":{real}", f":{shown}")
        return text

    async def run(self, command: str) -> str:
        """What it prints; of openssl, which tells of its progress on standard error, that is left out."""
        if command.startswith(KEPT):
            self._before += f"{command}\n"
            return ""
        if command.endswith("&"):
            await self._start(command.removesuffix("&"))
            return ""
        errors = asyncio.subprocess.DEVNULL if command.startswith(("new", "issue")) else asyncio.subprocess.STDOUT
        process = await self._process(command, errors)
        async with asyncio.timeout(BOUND_SECONDS):
            out, _ = await process.communicate()
        return self._shown(out.decode()).rstrip("\n")

    async def _start(self, command: str) -> None:
        process = await self._process(f"exec {command}", asyncio.subprocess.DEVNULL)
        self._life.push_async_callback(process.wait)
        self._life.callback(process.terminate)
        program, log = command.split(maxsplit=1)[0], self._folder / command.split("2> ")[1].strip()
        await eventually(lambda: process.returncode is not None or (log.exists() and READY[program] in log.read_text()))
        assert process.returncode is None, log.read_text()

    async def _process(self, command: str, errors: int) -> asyncio.subprocess.Process:
        http = {
            "PDP_HTTP": f"127.0.0.1:{self._ports['8181']}",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        store = {
            f"REGISTRY_STORE_{name}": f"127.0.0.1:{self._ports[port]}"
            for name, port in (("HTTP", "8080"), ("GRPC", "50052"))
        }
        return await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            self._mapped(self._before + command),
            cwd=self._folder,
            env=os.environ | http | store,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )


async def test_the_commands_of_the_page_print_what_it_shows(tmp_path: Path) -> None:
    """In its order, on free ports."""
    if missing := [tool for tool in ("openssl", "curl") if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with ExitStack() as held:
        ports = {port: held.enter_context(reserved()).rpartition(":")[2] for port in PORTS}
        async with AsyncExitStack() as life:
            shell = Shell(tmp_path, ports, life)
            for command in console.commands(PAGE.read_text()):
                printed = await shell.run(command.text)
                assert console.steady(printed) == console.steady(command.shown.rstrip("\n")), command.text
        logged = "".join((tmp_path / name).read_text() for name in ("store.log", "sidecar.log"))
        assert not re.search(r"^[IWE][0-9]{4} ", logged, re.MULTILINE), "gRPC logs nothing of handshakes that fail"
