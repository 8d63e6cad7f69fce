"""Many who decide and use one approval at once, through two stores: each transition happens once."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.approvals.test_approvals import APPROVALS, approve, entries, read
from tests.registry_store.approvals.test_deciding import escalated, key_of
from tests.registry_store.approving import opened, sidecar, verdict
from tests.registry_store.serving import Rest, Served

SIDECARS, USES = 5, 50


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def ready(two: tuple[Served, Served]) -> list[Rest]:
    """An admin's interface of each store, of which every route was called: FastAPI prepares one on its first call."""
    rests = [store.rest() for store in two]
    for rest in rests:
        for verb in ("approve", "deny"):
            assert rest.post(f"{APPROVALS}/{uuid4()}/{verb}", {"comment": "x"}).status == 404
    return rests


def test_of_twenty_who_decide_one_wins(two: tuple[Served, Served], pool: ThreadPoolExecutor) -> None:
    """Ten approve and ten deny: one is told 200, and the approval is what that one said; the others get 409."""
    rests, approval_id = ready(two), opened(two[0])
    paths = [f"{APPROVALS}/{approval_id}/{verb}" for verb in ("approve", "deny")] * 10
    answers = list(pool.map(lambda at: rests[at[0] // 2 % 2].post(at[1], {"comment": "x"}), enumerate(paths)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 19
    (won,) = [answer.body["status"] for answer in answers if answer.status == 200]
    assert read(rests[0], approval_id)["status"] == won
    kinds = [entry["activity_type"] for entry in entries(rests[1], approval_id)]
    assert kinds == ["approval_requested", f"approval_{won}"]


def test_the_same_person_ten_times_is_one(two: tuple[Served, Served], pool: ThreadPoolExecutor) -> None:
    """Of two that are needed, whatever comes at once; the second person then decides."""
    rests, approval_id = ready(two), escalated(two[0], "team", params={"min_approvers": 2})
    ann = key_of(rests[0], "approver", "ann", "team")
    keys = [Rest(rest.address, ann.key) for rest in rests]
    path = f"{APPROVALS}/{approval_id}/approve"
    answers = list(pool.map(lambda number: keys[number % 2].post(path, {"comment": "x"}), range(10)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 9
    shown = read(rests[0], approval_id)
    assert (shown["status"], [one["name"] for one in shown["approved_by"]]) == ("pending", ["ann"])
    assert approve(key_of(rests[1], "admin", "bob", "team"), approval_id, comment="y")["status"] == "approved"


def test_fifty_uses_by_five_sidecars_are_one(two: tuple[Served, Served]) -> None:
    """Whichever store they ask: one is granted."""
    approval_id = opened(two[0])
    approve(two[1].rest(), approval_id)
    keys = [store.key("sidecar") for store in two]

    async def use_all() -> list[pb.UseApprovalResponse]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(sidecar(two[number % 2], keys[number % 2]))
                for number in range(SIDECARS)
            ]
            return await asyncio.gather(*(nodes[number % SIDECARS].use(approval_id) for number in range(USES)))

    granted = [answer for answer in asyncio.run(use_all()) if verdict(answer) == "granted"]
    assert len(granted) == 1
    assert [entry["activity_type"] for entry in entries(two[0].rest(), approval_id)][2:] == ["approval_used"]
