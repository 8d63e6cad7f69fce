"""Memory that was freed, as the C library keeps it, and code that is not needed any more."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.pdp.serving import freeing, releasing
from tests.programs import serve_arguments, started
from tests.waiting import eventually
from tests.whole import FINANCIAL, Http, store


@pytest.mark.parametrize(("arguments", "heaps", "is_mapped"), [(["fixed"], 1, True), ([], 1 + freeing.THREADS, False)])
def test_freed_memory_is_not_kept_for_each_thread(arguments: list[str], heaps: int, is_mapped: bool) -> None:
    """Threads share one heap, and a large block is mapped apart though a larger one was freed; by default neither."""
    command = [sys.executable, "-m", freeing.__name__, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found_heaps, mapped_bytes = map(int, ended.stdout.split())
    assert (found_heaps, mapped_bytes >= freeing.KEPT_BYTES) == (heaps, is_mapped)


@pytest.mark.parametrize(("arguments", "is_less"), [([], True), (["kept"], False)])
def test_released_code_leaves_memory_and_runs_again(arguments: list[str], is_less: bool) -> None:
    """While another thread runs, most of the code leaves memory; what is called afterwards answers as before."""
    command = [sys.executable, "-m", releasing.__name__, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, digest = ended.stdout.split()
    assert (int(after) < int(before) / 2) == is_less
    assert digest == sha256(b"code").hexdigest()


async def test_a_sidecar_releases_the_code_of_its_start(tmp_path: Path) -> None:
    """After its first registry data it comes to have half of the code that it began to listen with, and serves on."""
    async with store(tmp_path) as central:
        assert (await central.rest.call("POST", "/api/agents/registry", FINANCIAL)).status == 201
        async with started("pdp", *serve_arguments(tmp_path, central.grpc_address)) as sidecar:
            http = Http((await sidecar.logged("listening"))["http"])
            process = str(sidecar.process.pid)
            before = releasing.code_kib(process)
            await eventually(lambda: releasing.code_kib(process) < before / 2)
            await http.until_probed(200)
            http.close()
            assert await sidecar.stopped() == 0
