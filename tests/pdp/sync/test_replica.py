"""Building a large state in a thread."""

import asyncio
import gc
import itertools
import json
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from pdp import state
from pdp.core.model import RecordKind
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, applying
from pdp.sync import replica
from pdp.sync.replica import Records, Replica
from tests.given import agent


async def test_a_large_state_is_built_as_a_small_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector runs again afterwards, even if building fails."""
    records = [RawRecord(RecordKind.AGENT, name, json.dumps(agent(name)).encode()) for name in ("agent-a", "agent-b")]
    small, _ = await replica.built(records, "epoch", 1)
    monkeypatch.setattr(replica, "MANY_RECORDS", 2)
    large, refused = await replica.built(records, "epoch", 1)
    assert (set(large.agents), sorted(large.records()), refused) == (set(small.agents), records, ())
    assert gc.isenabled()
    with pytest.raises(AttributeError):
        await replica.built([None, None], "epoch", 1)  # type: ignore[list-item]
    assert gc.isenabled()
    gc.unfreeze()


def records(*documents: dict[str, Any], kind: RecordKind = RecordKind.AGENT) -> Records:
    found = Records()
    for one in documents:
        found.add(kind.value, one.get("agent_id") or one["policy_id"], json.dumps(one).encode())
    return found


async def test_what_is_replaced_is_freed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the state that was in force nor the records of a snapshot are freed in one turn of the event loop."""
    monkeypatch.setattr(replica, "MIN_SLICE_SECONDS", 0)
    monkeypatch.setattr(replica, "MAX_SLICE_SECONDS", 0)
    monkeypatch.setattr(replica, "MANY_RECORDS", 1)
    holder, turns, freed = Holder(), itertools.count(), set()
    sync = Replica(holder, Metrics(), lambda _state, _complete: None)
    names = [f"agent-{n}" for n in range(4)]
    snapshot = records(*(agent(name, blocked_resources=["vault"]) for name in names))
    await sync.replace(snapshot, "epoch", 1)
    assert snapshot.known == []
    assert holder.current is not None
    for name in names:
        weakref.finalize(holder.current.agents[name].blocked_resources, lambda: freed.add(next(turns)))
    turning = asyncio.create_task(_count(turns))
    await sync.replace(records(agent("agent-0")), "epoch", 2)
    turning.cancel()
    assert len(freed) == 4
    assert max(freed) - min(freed) > 4
    assert set(holder.current.agents) == {"agent-0"}


async def _count(turns: Iterator[int]) -> None:
    while True:
        next(turns)
        await asyncio.sleep(0)


async def test_decisions_come_between_the_records_of_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work of the event loop is done after each of them here; a large one is compiled in a thread."""
    monkeypatch.setattr(replica, "MIN_SLICE_SECONDS", 0)
    monkeypatch.setattr(replica, "MAX_SLICE_SECONDS", 0)
    monkeypatch.setattr(replica, "MAX_WEIGHT", 1000)
    turns = itertools.count()
    turning = asyncio.create_task(_count(turns))
    documents = [agent(f"agent-{n}") for n in range(20)]
    threads: set[int] = set()
    compiling = state._COMPILE[RecordKind.AGENT]
    seen = {RecordKind.AGENT: lambda record: threads.add(threading.get_ident()) or compiling(record)}
    monkeypatch.setattr(state, "_COMPILE", seen)
    await replica.built(records(*documents).known, "epoch", 1)
    assert next(turns) > 20
    assert threads == {threading.get_ident()}
    found, _ = await replica.built(records(agent("agent-x", description="x" * 2000)).known, "epoch", 1)
    assert set(found.agents) == {"agent-x"}
    assert len(threads) == 2
    turning.cancel()


async def test_the_collector_does_not_run_while_all_agents_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of the organisation can make every agent anew; a change of one agent cannot."""
    monkeypatch.setattr(replica, "MANY_RECORDS", 2)
    holder = Holder()
    sync = Replica(holder, Metrics(), lambda _state, _complete: None)
    await sync.replace(records(agent("agent-a"), agent("agent-b")), "epoch", 1)
    enabled = []
    monkeypatch.setattr(replica, "applying", lambda *given: enabled.append(gc.isenabled()) or applying(*given))
    policy = {"policy_id": "pol", "policy_name": "Stop", "created_at": "2026", "policy_action": "block"}
    await sync.advance(1, 2, records(policy, kind=RecordKind.ORGANISATION_POLICY))
    await sync.advance(2, 3, records(agent("agent-a", description="new")))
    assert enabled == [False, True]
    assert gc.isenabled()
    gc.unfreeze()
