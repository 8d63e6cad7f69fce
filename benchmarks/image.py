"""Start and memory of the programs in the container image, on a read-only root, with and without its bytecode.

python -m benchmarks.image [ROUNDS]

As root, with buildah. IMAGE names an image in the storage of this machine; without it one is built. CPU is what a
program takes until it is ready. Memory is resident then: its own, and that of files, which programs share.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import trustme

from tests.hostile.installation import Api
from tests.image.images import Image, opened
from tests.ports import reserved
from tests.programs import Running
from tests.waiting import eventually_gives

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
UNCOMPILED = "PYTHONPYCACHEPREFIX=/nonexistent"
"""Python looks for bytecode there alone, finds none, and cannot write any."""


class Cost(NamedTuple):
    """CPU seconds until a program was ready, and its memory in bytes."""

    cpu: float
    private: int
    shared: int


async def measure(image: Image, rounds: int) -> None:
    """Print the medians of several starts of each program."""
    print(f"files of the image {image.size_bytes() / MIB:.0f} MiB")
    print(f"{rounds} starts, medians{'':14} CPU s until ready   without bytecode   private MiB   shared MiB")
    compiled = [await _started(image) for _ in range(rounds)]
    image.config["Env"].append(UNCOMPILED)
    uncompiled = [await _started(image) for _ in range(rounds)]
    for number, name in enumerate(("registry-store serve", "pdp serve", "pdp injector")):
        costs = [costs[number] for costs in compiled]
        cpu, private, shared = (statistics.median(values) for values in zip(*costs, strict=True))
        slow = statistics.median(costs[number].cpu for costs in uncompiled)
        print(f"{name:30} {cpu:19.2f} {slow:18.2f} {private / MIB:13.1f} {shared / MIB:12.1f}")


async def _started(image: Image) -> tuple[Cost, Cost, Cost]:
    """Store, sidecar and injector, one after the other."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        store_volume, sidecar_volume, injector_volume = _volumes(Path(folder))
        rest, grpc, http, https, probes = (stack.enter_context(reserved()) for _ in range(5))
        create = ("registry-store", "keys", "create", "--role", "sidecar", "--name", "sidecar")
        key = (await image.ended(store_volume, *create)).out
        image.write_secret(sidecar_volume / "key", key)
        async with _ready(
            image, store_volume, rest, "registry-store", "serve", "--http", rest, "--grpc", grpc
        ) as store:
            serve = ("pdp", "serve", "--store", grpc, "--key-file", "key", "--all-agents", "--data-dir", "state")
            listen = ("--listen", "unix:pdp.sock", "--http", http)
            async with _ready(image, sidecar_volume, http, *serve, *listen) as sidecar:
                costs = _cost(store), _cost(sidecar)
        certificate = trustme.CA().issue_cert("localhost")
        image.write_secret(injector_volume / "tls.crt", certificate.cert_chain_pems[0].bytes().decode())
        image.write_secret(injector_volume / "tls.key", certificate.private_key_pem.bytes().decode())
        inject = ("pdp", "injector", "--image", "pdp:1", "--store", grpc, "--key-secret", "key", "--listen", https)
        tls = ("--tls-cert", "tls.crt", "--tls-key", "tls.key", "--plaintext", "--metrics", probes)
        async with _ready(image, injector_volume, probes, *inject, *tls) as injector:
            return *costs, _cost(injector)


def _volumes(folder: Path) -> tuple[Path, Path, Path]:
    folder.chmod(0o755)
    volumes = folder / "store", folder / "sidecar", folder / "injector"
    for volume in volumes:
        volume.mkdir()
    return volumes


@asynccontextmanager
async def _ready(image: Image, volume: Path, address: str, *command: str) -> AsyncIterator[Running]:
    async with image.started(volume, *command) as running:
        api = Api(address, "")
        await eventually_gives(lambda: api.answer("GET", "/readyz"), lambda answer: answer[0] == 200)
        yield running


def _cost(running: Running) -> Cost:
    outer = running.process.pid
    (process,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{process}/status").read_text()
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    private, *shared = (int(sizes[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "RssShmem"))
    return Cost((int(fields[11]) + int(fields[12])) / TICKS, private, sum(shared))


def main() -> None:
    """Measure."""
    with opened() as image:
        asyncio.run(measure(image, int(sys.argv[1]) if len(sys.argv) > 1 else 5))


if __name__ == "__main__":
    main()
