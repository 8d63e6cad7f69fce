"""Building a large state in a thread."""

import gc
import json

import pytest

from pdp.core.model import RecordKind
from pdp.state import RawRecord
from pdp.sync import replica
from tests.given import agent


async def test_a_large_state_is_built_as_a_small_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs again afterwards, even if building fails."""
    records = [RawRecord(RecordKind.AGENT, name, json.dumps(agent(name)).encode()) for name in ("agent-a", "agent-b")]
    small, _ = await replica.build_in_thread(records, "epoch", 1)
    monkeypatch.setattr(replica, "MANY_RECORDS", 2)
    large, refused = await replica.build_in_thread(records, "epoch", 1)
    assert (set(large.agents), sorted(large.records()), refused) == (set(small.agents), records, ())
    assert gc.isenabled()
    with pytest.raises(AttributeError):
        await replica.build_in_thread([None, None], "epoch", 1)  # type: ignore[list-item]
    assert gc.isenabled()
    gc.unfreeze()
