"""A sidecar whose disk is full, on a file system of a few megabytes."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from pdp.v1 import decision_pb2 as pb
from pdp.v1.decision_pb2_grpc import PolicyDecisionPointStub
from tests.hostile.installation import HONEST, Installation, installed
from tests.waiting import eventually_gives

SIZE = "4m"
LARGE = {f"text-{number}": "x" * 1000 for number in range(40)}


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 4 MiB at `path`, which only root can mount."""
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def evaluate(installation: Installation, **fields: object) -> pb.EvaluateResponse | grpc.StatusCode:
    address, _ = installation.sidecar_addresses[0]
    async with grpc.aio.insecure_channel(address) as channel:
        action = pb.Action(agent_id=HONEST, action_type="api.read", risk_score=1, **fields)
        try:
            return await PolicyDecisionPointStub(channel).Evaluate(pb.EvaluateRequest(action=action), timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_on_a_full_disk_decisions_are_refused_and_go_on_once_there_is_room(tmp_path: Path) -> None:
    """With `--log-full block` nothing is allowed that has no record, and what was allowed reaches the store."""
    with small_disk(tmp_path / "sidecar-0"):
        async with installed(tmp_path, 1, ("--log-full", "block", "--log-bytes", str(1 << 20))) as installation:
            filler = tmp_path / "sidecar-0" / "filler"
            await installation.store.stop()
            with suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(4096))
            allowed = []
            while not isinstance(answer := await evaluate(installation, attributes=LARGE), grpc.StatusCode):
                allowed.append(answer.decision_id)
            assert answer is grpc.StatusCode.UNAVAILABLE
            filler.unlink()
            installation.store.start()
            await eventually_gives(lambda: evaluate(installation), lambda one: not isinstance(one, grpc.StatusCode))
            await eventually_gives(lambda: _recorded(installation), lambda ids: set(allowed) <= ids)
            faults = [fault for program in installation.programs() for fault in program.log_faults()]
    assert allowed
    assert faults == []


async def _recorded(installation: Installation) -> set[str]:
    return installation.recorded()
