"""The same action of the same agent, asked of the same people, is one approval while it is pending."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from pdp.core.errors import Problems
from registry_store.approvals import requests
from registry_store.database.tables import Approval
from tests.registry_store.approvals.test_approvals import APPROVALS, approve, deny, entries, read, tick
from tests.registry_store.approving import open_all, record, sha256, sidecar, state, verdict
from tests.registry_store.reporting import Log, reporter
from tests.registry_store.serving import Rest, Served, in_thread


def id_of(asked: dict[str, Any]) -> str:
    approval_id: str = asked["opens"]["approval_id"]
    return approval_id


def pending(rest: Rest) -> list[str]:
    return [one["approval_id"] for one in rest.get(f"{APPROVALS}?status=pending&limit=500").body["approvals"]]


def merged(store: Served, *records: dict[str, Any], **fields: Any) -> list[str]:
    return open_all(store, *records, merging=True, **fields)


def test_what_is_pending_is_not_asked_again(fresh: Served) -> None:
    """One approval, one activity entry; under the id of the second request people find the first."""
    admin, first, second = fresh.rest(), record(), record()
    assert merged(fresh, first) == [id_of(first)]
    assert merged(fresh, second, node_id="node-2") == []
    assert merged(fresh, second, first) == []
    assert pending(admin) == [id_of(first)]
    assert read(admin, id_of(second)) == read(admin, id_of(first))
    assert len(entries(admin, id_of(first))) == 1
    approve(admin, id_of(second), comment="once")
    assert read(admin, id_of(first))["status"] == "approved"


def test_the_same_twice_in_a_report_is_one(fresh: Served) -> None:
    """Beside others."""
    asked = [record(amount=1), record(amount=2), record(amount=1), record(amount=2)]
    assert merged(fresh, *asked) == [id_of(one) for one in asked[:2]]
    assert read(fresh.rest(), id_of(asked[3]))["action"]["amount"] == 2


DIFFERENT: dict[str, dict[str, Any]] = {
    "action": {"amount": 7},
    "agent": {"agent_id": "another-agent-prod"},
    "outcome": {"outcome": "escalate"},
    "approvers": {"params": {"approvers": ["a", "b"]}},
    "team": {"params": {"team": "a"}},
    "next team": {"params": {"next_team": "a"}},
    "number of people": {"params": {"min_approvers": 2}},
    "mfa": {"mfa_required": True},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_anything_that_differs_is_another_approval(fresh: Served, what: str) -> None:
    """A rule that was tightened meanwhile never hands its action over to those whom it asked before."""
    first, other = record(), record(**DIFFERENT[what])
    assert merged(fresh, first, other) == [id_of(first), id_of(other)]
    assert len(pending(fresh.rest())) == 2


def test_what_makes_no_difference_to_who_decides_is_the_same(fresh: Served) -> None:
    """The order of the approvers, the time that they have, and keys of the policy's own."""
    first = record(params={"approvers": ["a", "b"], "note": 1}, timeout=60)
    again = record(params={"approvers": ["b", "a"], "min_approvers": 1.0, "timeout_seconds": 90}, timeout=90)
    assert merged(fresh, first, again) == [id_of(first)]


@pytest.mark.parametrize("settle", [approve, deny])
def test_what_is_decided_is_asked_again(fresh: Served, settle: Any) -> None:
    """The next request opens another approval."""
    admin, first, second = fresh.rest(), record(), record()
    merged(fresh, first)
    settle(admin, id_of(first))
    assert merged(fresh, second) == [id_of(second)]


def test_what_is_overdue_and_not_marked_yet_is_asked_again(fresh: Served) -> None:
    """It expires first, with its entry in the log."""
    admin, start = fresh.rest(), datetime.now(UTC)
    first, second = record(timeout=60), record()
    merged(fresh, first, at=start - timedelta(seconds=60))
    assert merged(fresh, second, at=start) == [id_of(second)]
    assert [entry["activity_type"] for entry in entries(admin, id_of(first))][1:] == ["approval_expired"]
    assert pending(admin) == [id_of(second)]


def test_what_was_handed_over_is_still_the_same(fresh: Served) -> None:
    """Before the store has marked it, and after."""
    admin, start = fresh.rest(), datetime.now(UTC)
    asked = [record(outcome="escalate", params={"team": "a", "next_team": "b"}, timeout=60) for _ in range(3)]
    merged(fresh, asked[0], at=start - timedelta(seconds=60))
    assert merged(fresh, asked[1], at=start) == []
    assert read(admin, id_of(asked[0]))["team"] == "b"
    tick(fresh, start)
    assert merged(fresh, asked[2], at=start) == []


def test_the_database_holds_one_pending_approval_of_a_question(fresh: Served) -> None:
    """An index refuses a second one. Of those that an older store opened there may be several."""
    first, second = record(amount=1), record(amount=2)
    merged(fresh, first, second)

    async def change(**values: Any) -> None:
        async with fresh.running._store.database.writing() as session:
            await session.execute(update(Approval).values(**values))

    with pytest.raises(IntegrityError):
        fresh.run(change(action_sha256="0" * 64))
    fresh.run(change(action_sha256="0" * 64, demand_sha256=None))
    assert merged(fresh, record(amount=1)) != []


def demand_of(asked: dict[str, Any]) -> bytes:
    request = requests.read(asked, "", Problems())
    assert request is not None
    return bytes.fromhex(request.demand_sha256)


def question(asked: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What a sidecar asks about the action of this record."""
    action = asked["action"]
    return {"agent_id": action["agent_id"], "action_sha256": sha256(action), "demand_sha256": demand_of(asked)} | fields


async def test_a_sidecar_finds_what_is_pending(fresh: Served) -> None:
    """Until it is decided; and it learns whether what it has opened has arrived, under that id or another."""
    asked, again, other = record(), record(), record(amount=3)
    admin = await in_thread(fresh.rest)
    async with sidecar(fresh) as node:
        nothing = await node.find(**question(asked, opened_approval_id=id_of(asked)))
        assert (nothing.HasField("approval"), nothing.opened_is_known) == (False, False)
        await in_thread(merged, fresh, asked, again)
        for opened_id in (id_of(asked), id_of(again)):
            found = await node.find(**question(asked, opened_approval_id=opened_id))
            assert (found.approval.approval_id, state(found.approval)) == (id_of(asked), "pending")
            assert found.opened_is_known
        assert not (await node.find(**question(other))).HasField("approval")
        await in_thread(deny, admin, id_of(again))
        decided = await node.find(**question(asked, opened_approval_id=id_of(again)))
        assert (decided.HasField("approval"), decided.opened_is_known) == (False, True)


async def test_a_bound_key_finds_only_what_is_its_own(store: Served, admin: Rest) -> None:
    """Of another agent it finds nothing, as if nothing were pending."""
    asked = record(agent_id="other-worker-prod")
    await in_thread(merged, store, asked)
    body = {"role": "sidecar", "name": "bound", "agents": ["own-worker-prod"]}
    made = await in_thread(admin.post, "/api/keys", body)
    async with sidecar(store) as free, sidecar(store, made.body["key"]) as bound:
        assert (await free.find(**question(asked))).HasField("approval")
        assert not (await bound.find(**question(asked))).HasField("approval")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"agent_id": "no blanks please"}, "agent_id"),
        ({"action_sha256": b"short"}, "action_sha256: must have 32 bytes"),
        ({"demand_sha256": b""}, "demand_sha256: must have 32 bytes"),
        ({"opened_approval_id": "x"}, "opened_approval_id"),
    ],
)
async def test_a_malformed_question_is_refused(store: Served, fields: dict[str, Any], why: str) -> None:
    """INVALID_ARGUMENT names the field."""
    async with sidecar(store) as node:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.find(**question(record()) | fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert why in str(refused.value.details())


async def test_the_other_id_is_watched_and_used_like_the_first(fresh: Served) -> None:
    """Only once, whichever id it is used under; the answers name the approval itself."""
    asked, again = record(), record()
    await in_thread(merged, fresh, asked, again)
    admin = await in_thread(fresh.rest)
    async with sidecar(fresh) as node:
        watching = node.watch(id_of(again))
        assert state(await watching.next()) == "pending"
        await in_thread(approve, admin, id_of(asked))
        approved = await watching.next()
        assert (state(approved), approved.approval_id) == ("approved", id_of(asked))
        answers = [await node.use(one, asked["action"]) for one in (id_of(again), id_of(asked))]
        assert [verdict(answer) for answer in answers] == ["granted", "not_approved"]
        unknown = await node.watch(str(uuid4())).ended()
        assert unknown[0] is grpc.StatusCode.NOT_FOUND


def test_of_many_reports_at_once_one_opens(two: tuple[Served, Served]) -> None:
    """From five sidecars through two stores: one approval is pending, and every id that they gave leads to it."""
    asked = [record() for _ in range(20)]
    keys = [store.key("sidecar", "pods") for store in two]

    async def report(number: int) -> None:
        async with reporter(two[number % 2], keys[number % 2]) as node:
            log = Log(f"merging-node-{number}")
            for one in asked[number::5]:
                await node.send(log.report(one))

    async def all_report() -> None:
        await asyncio.gather(*(report(number) for number in range(5)))

    asyncio.run(all_report())
    admin = two[1].rest()
    (opened,) = pending(admin)
    assert {read(admin, id_of(one))["approval_id"] for one in asked} == {opened}
    assert len(entries(admin, opened)) == 1
