"""Building a large state in a thread."""

import gc
import json
import threading
import weakref
from typing import Any

import pytest

from pdp.core.model import RecordKind
from pdp.metrics import Metrics
from pdp.state import Holder, RawRecord, apply
from pdp.sync import replica
from pdp.sync.replica import Records, Replica
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


def records(*documents: dict[str, Any], kind: RecordKind = RecordKind.AGENT) -> Records:
    found = Records()
    for one in documents:
        found.add(kind.value, one.get("agent_id") or one["policy_id"], json.dumps(one).encode())
    return found


async def test_what_is_replaced_is_freed_in_pieces() -> None:
    """Neither the state that was in force nor the records of a snapshot are freed at once, by the event loop."""
    holder = Holder()
    sync = Replica(holder, Metrics(), lambda _state, _complete: None)
    snapshot = records(agent("agent-a", blocked_resources=["vault"]), agent("agent-b"))
    await sync.replace(snapshot, "epoch", 1)
    assert snapshot.known == []
    assert holder.current is not None
    threads: list[int] = []
    blocked = holder.current.agents["agent-a"].blocked_resources
    weakref.finalize(blocked, lambda: threads.append(threading.get_ident()))
    del blocked
    await sync.replace(records(agent("agent-a", description="new")), "epoch", 2)
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    assert set(holder.current.agents) == {"agent-a"}


async def test_the_collector_does_not_run_while_all_agents_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of the organisation can make every agent anew; a change of one agent cannot."""
    monkeypatch.setattr(replica, "MANY_RECORDS", 2)
    holder = Holder()
    sync = Replica(holder, Metrics(), lambda _state, _complete: None)
    await sync.replace(records(agent("agent-a"), agent("agent-b")), "epoch", 1)
    enabled = []
    monkeypatch.setattr(replica, "apply", lambda *given: enabled.append(gc.isenabled()) or apply(*given))
    policy = {"policy_id": "pol", "policy_name": "Stop", "created_at": "2026", "policy_action": "block"}
    await sync.advance(1, 2, records(policy, kind=RecordKind.ORGANISATION_POLICY))
    await sync.advance(2, 3, records(agent("agent-a", description="new")))
    assert enabled == [False, True]
    assert gc.isenabled()
    gc.unfreeze()
