"""The console blocks of a page: run as printed, compared with what the page shows, or written anew.

`python -m tests.console PAGE…` runs the pages against a fresh `pdp dev` and writes what was printed into them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PDP = str(Path(sys.executable).with_name("pdp"))
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)
SHOWN_ONLY = (
    "make ",
    "pip ",
    ".venv/bin/pdp dev",
    "export KEY=",
    "docker ",
    "kubectl ",
    ".venv/bin/python examples/",
    "ID=$(",
)
"""The last two are the agent of the README and the person who approves: `test_examples` runs them at the same time."""
START_SECONDS = 60
PAGE_SECONDS = 300
"""For all commands of a page in one shell."""

# What differs from run to run, and what stands for it in a comparison.
VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "<decision id>"),
    (re.compile(r"\bpol_[0-9a-f]{32}\b"), "<policy id>"),
    (re.compile(r'"staleness": ?[0-9.e-]+'), '"staleness":<seconds>'),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "<node id>"),
    (re.compile(r'"latency_seconds": [0-9.e-]+'), '"latency_seconds": <seconds>'),
    (re.compile(r"\b20\d\d-\d\d-\d\dT[0-9:.]+Z"), "<time>"),
)


class Dev(NamedTuple):
    """A running `pdp dev`: where it listens, and its admin key."""

    registry: str
    sidecar_grpc: str
    sidecar_http: str
    key: str


class Command(NamedTuple):
    """One command of a page, and what the page says that it prints."""

    text: str
    shown: str


@contextmanager
def dev() -> Iterator[Dev]:
    """A fresh registry and sidecar on free ports."""
    ports = [part for name in ("registry", "store", "listen", "http") for part in (f"--{name}", "127.0.0.1:0")]
    with TemporaryDirectory() as folder:
        program = [PDP, "dev", "--dir", folder, *ports]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                said = dict(re.split(r"  +", process.stdout.readline().rstrip(), maxsplit=2)[:2] for _ in range(5))
                yield Dev(
                    said["registry"].removeprefix("http://"),
                    said["sidecar gRPC"],
                    said["sidecar HTTP"].removeprefix("http://"),
                    said["admin key"],
                )
            finally:
                process.terminate()
                process.wait(START_SECONDS)


def commands(page: str) -> list[Command]:
    """The commands of a page's console blocks, in their order."""
    found = []
    for block in BLOCK.findall(page):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            text, shown = _divided(part)
            found.append(Command(text, shown))
    return found


def runs(command: Command) -> bool:
    """Whether a command is run; the others are there to be read."""
    return not command.text.startswith(SHOWN_ONLY)


def printed(command: Command, dev: Dev) -> str:
    """What a command prints, with the addresses that the page names."""
    real = {"127.0.0.1:8080": dev.registry, "127.0.0.1:8181": dev.sidecar_http, "127.0.0.1:50051": dev.sidecar_grpc}
    text = re.sub(r"(^|\s)(?:\.venv/bin/)?pdp ", rf"\1{PDP} ", command.text)
    for shown, address in real.items():
        text = text.replace(shown, address)
    environment = os.environ | {"KEY": dev.key, "PDP_TARGET": dev.sidecar_grpc, "COLUMNS": "80"}
    ended = subprocess.run(
        ["bash", "-c", text],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    return ended.stdout if ended.stdout.endswith("\n") or not ended.stdout else ended.stdout + "\n"


def steady(text: str) -> str:
    """A text without what differs from run to run."""
    for varying, name in VARYING:
        text = varying.sub(name, text)
    return text


def _divided(part: str) -> tuple[str, str]:
    """A command, over several lines where it is quoted or continued, and the lines after it."""
    lines = part.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        text = "".join(lines[:count])
        if text.count("'") % 2 == 0 and not text.rstrip("\n").endswith("\\"):
            return text.rstrip("\n"), "".join(lines[count:])
    return part, ""


def rewritten(page: str, dev: Dev) -> str:
    """A page with what its commands print now."""

    def block(match: re.Match[str]) -> str:
        output = [
            f"$ {command.text}\n{printed(command, dev) if runs(command) else command.shown}"
            for command in commands(f"```console\n{match[0]}```\n")
        ]
        return "".join(output)

    return BLOCK.sub(block, page)


def main(pages: list[str]) -> None:
    """Write the pages anew, each against a registry of its own."""
    for name in pages:
        path = Path(name)
        with dev() as running:
            path.write_text(rewritten(path.read_text(), running))


if __name__ == "__main__":
    main(sys.argv[1:])
