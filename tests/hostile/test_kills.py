"""A sidecar that is killed again and again under load keeps its limits, its budget and its records."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from pdp.v1 import decision_pb2 as pb
from tests.hostile.installation import LIMITED, SPENDER, installed
from tests.hostile.witness import LOST_SECONDS, Witness
from tests.waiting import eventually


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=pytest.mark.soak)])
async def test_no_kill_gives_a_window_or_a_day_more_than_its_limit(tmp_path: Path, kills: int) -> None:
    """Beside what was admitted within the last second before a kill, no minute and no day admits more."""
    chances = random.Random(kills)
    async with installed(tmp_path, sidecars=1) as installation:
        (grpc_address, http_address), sidecar = installation.sidecar_addresses[0], installation.sidecars[0]
        witness = Witness(grpc_address)
        calling = asyncio.create_task(witness.run())
        for agent_id in (LIMITED, SPENDER):
            await eventually(lambda agent_id=agent_id: _is_refused(witness, agent_id))
        await asyncio.sleep(LOST_SECONDS)
        for _ in range(kills):
            await asyncio.sleep(chances.uniform(0, 2.5))
            await sidecar.kill()
            witness.kills.append(time.monotonic())
            sidecar.start()
            await installation.until_ready(http_address)
            before = len(witness.given)
            await eventually(lambda before=before: len(witness.given) > before + 20)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await installation.stop()
        faults = [fault for program in installation.programs() for fault in program.log_faults()]
    assert witness.findings + witness.overruns() + faults == []


async def test_a_clean_stop_keeps_every_count(tmp_path: Path) -> None:
    """A sidecar that is stopped and started has the same counts and the same spend."""
    async with installed(tmp_path, sidecars=1) as installation:
        (grpc_address, http_address), sidecar = installation.sidecar_addresses[0], installation.sidecars[0]
        witness = Witness(grpc_address)
        calling = asyncio.create_task(witness.run())
        await eventually(lambda: _is_refused(witness, LIMITED) and _is_refused(witness, SPENDER))
        await sidecar.stop()
        sidecar.start()
        await installation.until_ready(http_address)
        before = len(witness.given)
        await eventually(lambda: len(witness.given) > before + 20)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    assert witness.findings + witness.overruns() == []


def _is_refused(witness: Witness, agent_id: str) -> bool:
    return any(one.case.agent_id == agent_id and one.outcome == pb.OUTCOME_BLOCK for one in witness.given)
