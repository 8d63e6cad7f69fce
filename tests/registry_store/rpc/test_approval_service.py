"""The gRPC methods by which sidecars use and watch approvals."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import uuid4

import grpc
import pytest

from registry_store.approvals import expiry
from registry_store.approvals.watching import ApprovalFeed, ClosedError
from registry_store.audit.chain import Chain
from registry_store.audit.verify import verify_database
from registry_store.database.transactions import Database
from registry_store.rpc.sync import Pace
from registry_store.settings import Settings, database_url
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.approvals.test_approvals import APPROVALS, approve, deny, entries, read, tick
from tests.registry_store.approving import Sidecar, opened, record, sidecar, state, verdict
from tests.registry_store.reporting import AGENT
from tests.registry_store.rest.test_lists import statements
from tests.registry_store.serving import Rest, Served, in_thread, served
from tests.waiting import eventually_gives

PAST = "UPDATE approvals SET expires_at = '2020-01-01 00:00:00.000000+00:00' WHERE approval_id = '{}'"


def approved(store: Served, admin: Rest, **fields: Any) -> str:
    approval_id = opened(store, **fields)
    approve(admin, approval_id)
    return approval_id


async def metric(rest: Rest, sample: str) -> float:
    """The value of one sample of /metrics, 0 if there is none."""
    text = (await in_thread(rest.get, "/metrics")).body
    return float(dict(line.rsplit(" ", 1) for line in text.splitlines()).get(sample, 0))


async def until_metric(rest: Rest, sample: str, value: float) -> None:
    await eventually_gives(lambda: metric(rest, sample), lambda found: found == value)


async def test_an_approval_is_used_once(store: Served, admin: Rest) -> None:
    """By the first caller; a retry after a lost answer gets the same answer."""
    approval_id = await in_thread(approved, store, admin)
    before = await metric(admin, 'registry_store_approvals_total{state="used"}')
    async with sidecar(store) as one, sidecar(store) as other:
        first = await one.use(approval_id, use_id="first")
        assert (verdict(first), state(first.approval)) == ("granted", "used")
        again = await other.use(approval_id, use_id="first")
        assert (verdict(again), state(again.approval)) == ("granted", "used")
        second = await other.use(approval_id, use_id="second")
        assert (verdict(second), state(second.approval)) == ("not_approved", "used")
    assert await metric(admin, 'registry_store_approvals_total{state="used"}') == before + 1
    shown = await in_thread(read, admin, approval_id)
    assert shown["status"] == "used"
    requested, _, used = await in_thread(entries, admin, approval_id)
    assert requested["activity_type"] == "approval_requested"
    assert (used["activity_type"], used["performed_by"], used["performed_via"]) == ("approval_used", "tester", "system")
    assert used["previous_state"] == {"status": "approved", "used_at": None}
    assert used["new_state"] == {"status": "used", "used_at": shown["used_at"]}


async def test_an_approval_is_for_one_action_of_one_agent(store: Served, admin: Rest) -> None:
    """Any other action is a mismatch and does not use the approval, before and after its use."""
    approval_id = await in_thread(approved, store, admin, amount=100)
    action = record(amount=100)["action"]
    async with sidecar(store) as node:
        for _ in range(2):
            assert verdict(await node.use(approval_id, action | {"amount": 101}, use_id="u")) == "mismatch"
            assert verdict(await node.use(approval_id, action, agent_id="other-worker-prod", use_id="u")) == "mismatch"
            answer = await node.use(approval_id, action, use_id="u")
            assert (verdict(answer), state(answer.approval)) == ("granted", "used")


async def test_what_is_not_approved_is_not_granted(store: Served, admin: Rest) -> None:
    """The state says why, with who decided and what was said."""
    pending, denied, late = [await in_thread(opened, store) for _ in range(3)]
    await in_thread(deny, admin, denied, "FIN-3")
    await in_thread(approve, admin, late)
    await in_thread(store.sql, PAST.format(late))
    async with sidecar(store) as node:
        for approval_id, expected in ((pending, "pending"), (denied, "denied"), (late, "expired")):
            answer = await node.use(approval_id)
            assert (verdict(answer), state(answer.approval)) == ("not_approved", expected)
            assert answer.approval.approval_id == approval_id
        answer = await node.use(denied)
        assert (answer.approval.decided_by, answer.approval.comment) == ("tester", "FIN-3")
        assert answer.approval.agent_id == AGENT
        until = (await in_thread(read, admin, denied))["expires_at"]
        assert datetime.fromtimestamp(answer.approval.expires_at, UTC) == datetime.fromisoformat(until)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"agent_id": "no blanks please"}, "agent_id"),
        ({"action_sha256": b"short"}, "action_sha256: must have 32 bytes"),
        ({"use_id": ""}, "use_id: is empty"),
        ({"use_id": "x" * 129}, "use_id: is longer than 128 characters"),
    ],
)
async def test_a_malformed_use_is_refused(store: Served, fields: dict[str, Any], why: str) -> None:
    """INVALID_ARGUMENT names the field."""
    async with sidecar(store) as node:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.use(str(uuid4()), **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert why in str(refused.value.details())


@pytest.mark.parametrize("approval_id", ["01a1f8f3-33e7-7000-846e-bc85f8577904", "", "x", "\0", "y" * 100_000])
async def test_what_nobody_asked_for_is_not_found(store: Served, approval_id: str) -> None:
    """Also for a malformed approval id."""
    async with sidecar(store) as node:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.use(approval_id)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        code, details = await node.watch(approval_id).ended()
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith("no approval `")


@pytest.mark.parametrize(
    ("role", "code"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED),
        ("viewer", grpc.StatusCode.PERMISSION_DENIED),
        ("approver", grpc.StatusCode.PERMISSION_DENIED),
        ("agent", grpc.StatusCode.PERMISSION_DENIED),
        ("admin", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_only_a_sidecars_or_admins_key_asks(store: Served, role: str | None, code: grpc.StatusCode) -> None:
    """A missing key is UNAUTHENTICATED, a wrong role PERMISSION_DENIED."""
    async with grpc.aio.insecure_channel(store.running.grpc_address) as channel:
        node = Sidecar(channel, role and await in_thread(store.key, role))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.use(str(uuid4()))
        assert refused.value.code() is code
        assert (await node.watch(str(uuid4())).ended())[0] is code


@pytest.mark.parametrize("scope", [{"agents": [AGENT]}, {"tags": ["ours"]}])
async def test_a_bound_key_sees_only_its_agents_approvals(
    store: Served, admin: Rest, scope: dict[str, list[str]]
) -> None:
    """Any other approval is NOT_FOUND for use and watch, like one that does not exist."""
    if "tags" in scope and (await in_thread(admin.get, f"/api/agents/registry/{AGENT}")).status == 404:
        await in_thread(admin.register, AGENT, tags=["ours"])
    made = await in_thread(admin.post, "/api/keys", {"role": "sidecar", "name": "bound", **scope})
    own, other = await in_thread(opened, store), await in_thread(opened, store, agent_id="other-worker-prod")
    async with sidecar(store, made.body["key"]) as node:
        assert state(await node.watch(own).next()) == "pending"
        assert verdict(await node.use(own)) == "not_approved"
        for agent_id in (AGENT, "other-worker-prod"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await node.use(other, agent_id=agent_id)
            assert (refused.value.code(), refused.value.details()) == (
                grpc.StatusCode.NOT_FOUND,
                f"no approval `{other}`",
            )
        assert await node.watch(other).ended() == (grpc.StatusCode.NOT_FOUND, f"no approval `{other}`")


async def test_whoever_waits_hears_of_each_change(store: Served, admin: Rest) -> None:
    """The current state, then approved with its expiry time, then used, which ends the stream."""
    approval_id = await in_thread(opened, store)
    async with sidecar(store) as node:
        watching, late = node.watch(approval_id), node.watch(approval_id)
        first = await watching.next()
        assert (state(first), first.agent_id) == ("pending", AGENT)
        shown = await in_thread(approve, admin, approval_id, comment="FIN-4")
        status = await watching.next()
        assert (state(status), status.decided_by, status.comment) == ("approved", "tester", "FIN-4")
        assert datetime.fromtimestamp(status.expires_at, UTC) == datetime.fromisoformat(shown["expires_at"])
        await node.use(approval_id)
        assert await watching.states() == ["used"]
        assert (await watching.ended())[0] is grpc.StatusCode.OK
        assert (await late.states())[-1] == "used"
        assert await node.watch(approval_id).states() == ["used"]


async def test_a_denial_ends_the_wait(store: Served, admin: Rest) -> None:
    """With the reason."""
    approval_id = await in_thread(opened, store)
    async with sidecar(store) as node:
        watching = node.watch(approval_id)
        await watching.next()
        await in_thread(deny, admin, approval_id, "FIN-5")
        status = await watching.next()
        assert (state(status), status.comment) == ("denied", "FIN-5")
        assert await watching.states() == []


async def test_whoever_waits_hears_that_the_time_is_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, even if not marked yet: when read, listed, decided and used."""
    monkeypatch.setattr("registry_store.approvals.expiry.PERIOD_SECONDS", 3600)
    with served(settings) as store:
        admin = await in_thread(store.rest)
        approval_id = await in_thread(opened, store, timeout=1, at=datetime.now(UTC) - timedelta(seconds=0.3))
        async with sidecar(store) as node:
            assert (await node.watch(approval_id).states())[-1] == "expired"
            answer = await node.use(approval_id)
        assert (verdict(answer), state(answer.approval)) == ("not_approved", "expired")
        assert (await in_thread(read, admin, approval_id))["status"] == "expired"
        for status, total in (("expired", 1), ("pending", 0)):
            body = (await in_thread(admin.get, f"{APPROVALS}?status={status}")).body
            assert (body["total"], [one["status"] for one in body["approvals"]]) == (total, [status] * total)
        refused = await in_thread(admin.post, f"{APPROVALS}/{approval_id}/approve")
        assert (refused.status, refused.body["detail"]) == (409, f"approval `{approval_id}` is expired")
        assert await in_thread(store.sql, "SELECT status FROM approvals") == [("pending",)]
        await in_thread(tick, store, datetime.now(UTC))
        assert await in_thread(store.sql, "SELECT status FROM approvals") == [("expired",)]


async def test_the_clock_marks_by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each second; the metrics count them and show the pending ones."""
    monkeypatch.setattr("registry_store.approvals.expiry.PERIOD_SECONDS", 0.05)
    with served(settings) as store:
        admin = await in_thread(store.rest)
        await in_thread(opened, store, timeout=1, at=datetime.now(UTC) - timedelta(seconds=0.3))
        await in_thread(opened, store)
        await until_metric(admin, 'registry_store_approvals_total{state="expired"}', 1)
        await until_metric(admin, "registry_store_approvals_pending", 1)
        assert await metric(admin, "registry_store_approvals_oldest_pending_seconds") > 0
        await until_metric(admin, 'registry_store_approval_wait_seconds_count{state="expired"}', 1)


async def test_the_wait_of_an_approval_ends_when_people_decide(fresh: Served) -> None:
    """One that expires unused afterwards counts as expired, and not as a wait for people."""
    admin, asked = await in_thread(fresh.rest), datetime.now(UTC) - timedelta(seconds=100)
    approval_id = await in_thread(opened, fresh, timeout=3600, at=asked)
    assert (await in_thread(admin.post, f"{APPROVALS}/{approval_id}/approve")).status == 200
    await in_thread(tick, fresh, datetime.now(UTC) + timedelta(seconds=3601))
    assert (await in_thread(read, admin, approval_id))["status"] == "expired"
    assert await metric(admin, 'registry_store_approvals_total{state="expired"}') == 1
    assert await metric(admin, 'registry_store_approval_wait_seconds_count{state="approved"}') == 1
    assert await metric(admin, 'registry_store_approval_wait_seconds_sum{state="approved"}') >= 100
    assert await metric(admin, 'registry_store_approval_wait_seconds_count{state="expired"}') == 0


def test_the_clock_marks_a_little_at_a_time(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction marks more than a batch, and all batches together mark everything."""
    monkeypatch.setattr(expiry, "BATCH", 2)
    for _ in range(5):
        opened(fresh)
    late = datetime.now(UTC) + timedelta(hours=1)
    with statements(fresh, of="tick") as seen:
        tick(fresh, late)
    assert fresh.sql("SELECT count(*) FROM approvals WHERE status = 'expired'") == [(5,)]
    assert len([one for one in seen if "meta" in one and one.startswith("UPDATE")]) == 3
    with statements(fresh, of="tick") as seen:
        tick(fresh, late)
    assert len(seen) == 2, "nothing to mark takes no lock"


async def test_many_who_wait_are_told_by_one_reading(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a commit does not grow with the watchers: only changed approvals are read."""
    monkeypatch.setattr("registry_store.approvals.watching.POLL_SECONDS", 3600)
    admin = await in_thread(fresh.rest)
    ids = [await in_thread(opened, fresh) for _ in range(30)]
    async with sidecar(fresh) as node:
        waiting = [node.watch(approval_id) for approval_id in ids * 2]
        for one in waiting:
            await one.next()
        # The last watcher may have come during the reading that told it; the next reading reads its approval once more.
        await in_thread(approve, admin, ids[1])
        assert state(await waiting[1].next()) == state(await waiting[31].next()) == "approved"
        with statements(fresh, of="ApprovalFeed.run") as seen:
            await in_thread(approve, admin, ids[0])
            assert state(await waiting[0].next()) == state(await waiting[30].next()) == "approved"
        reading = [statement for statement in seen if "FROM approvals" in statement]
        assert len(reading) == 1
        assert len(seen) <= 3 * 3, "three for a reading, of which notifications may add some"
        assert await metric(admin, "registry_store_approval_watchers") == 60
    await until_metric(admin, "registry_store_approval_watchers", 0)


async def test_what_is_watched_has_a_bound(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """RESOURCE_EXHAUSTED above the limit; a watcher that leaves frees a place."""
    monkeypatch.setattr("registry_store.approvals.watching.MAX_WATCHES", 1)
    admin = await in_thread(fresh.rest)
    approval_id = await in_thread(opened, fresh)
    async with sidecar(fresh) as node:
        first = node.watch(approval_id)
        await first.next()
        assert (await node.watch(approval_id).ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.call.cancel()
        await until_metric(admin, "registry_store_approval_watchers", 0)
        assert state(await node.watch(approval_id).next()) == "pending"


async def test_revoking_a_key_ends_its_wait(store: Served, admin: Rest) -> None:
    """Within a second."""
    key = await in_thread(store.key, "sidecar")
    approval_id = await in_thread(opened, store)
    async with sidecar(store, key) as node:
        watching = node.watch(approval_id)
        await watching.next()
        assert (await in_thread(admin.delete, f"/api/keys/{key.split('_')[1]}")).status == 200
        assert (await watching.ended())[0] is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await node.use(approval_id)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_store_that_stops_sends_those_who_wait_elsewhere(settings: Settings) -> None:
    """UNAVAILABLE, at once; the approvals are still there after the restart."""
    with served(settings) as store:
        approval_id = await in_thread(opened, store)
        async with sidecar(store) as node:
            watching = node.watch(approval_id)
            await watching.next()
            store.loop.call_soon_threadsafe(store.running._store.approval_feed.close)
            assert await watching.ended() == (grpc.StatusCode.UNAVAILABLE, "the store is stopping")
            assert await node.watch(approval_id).ended() == (grpc.StatusCode.UNAVAILABLE, "the store is stopping")
    with served(settings) as store:
        async with sidecar(store) as node:
            assert state(await node.watch(approval_id).next()) == "pending"


async def test_a_wait_ends_after_its_time(settings: Settings) -> None:
    """So that sidecars spread over stores, and streams of vanished sidecars end."""
    with served(settings, Pace(lifetime=(0.05, 0.1))) as store:
        approval_id = await in_thread(opened, store)
        async with sidecar(store) as node:
            code, why = await node.watch(approval_id).ended()
    assert (code, why) == (grpc.StatusCode.UNAVAILABLE, "the stream reached its maximum lifetime: watch again")


async def test_a_store_without_its_database_sends_those_who_wait_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the database has been silent for some seconds."""
    monkeypatch.setattr("registry_store.approvals.watching.MAX_UNCONFIRMED_SECONDS", 0.0)
    database = Database(database_url("postgresql://nobody@127.0.0.1:1/nowhere"))
    feed = ApprovalFeed(database)
    running = asyncio.create_task(feed.run())
    with feed.watching(str(uuid4())) as watch, pytest.raises(ClosedError, match="database is out of reach"):
        async with asyncio.timeout(10):
            await watch.next_status()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await database.close()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_decision_through_one_store_wakes_those_who_wait_at_another(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notification, and not the poll, brings it."""
    monkeypatch.setattr("registry_store.approvals.watching.POLL_SECONDS", 3600)
    with served(settings) as one, served(settings) as other:
        admin = await in_thread(other.rest)
        await until_metric(admin, "registry_store_notified", 1)
        approval_id = await in_thread(opened, one)
        async with sidecar(other) as node:
            watching = node.watch(approval_id)
            assert state(await watching.next()) == "pending"
            await in_thread(approve, await in_thread(one.rest), approval_id)
            assert state(await watching.next()) == "approved"


async def test_looking_now_and_then_finds_what_nothing_wakes(
    two: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on SQLite, which notifies no other store, or behind a pooler that drops notifications."""
    monkeypatch.setattr("registry_store.approvals.watching.POLL_SECONDS", 0.05)
    one, other = two
    for feed in (one.running._store.approval_feed, other.running._store.approval_feed):
        feed.wake = lambda: None  # type: ignore[method-assign]
    admin = await in_thread(one.rest)
    approval_id = await in_thread(opened, one)
    async with sidecar(other) as node:
        watching = node.watch(approval_id)
        assert state(await watching.next()) == "pending"
        await in_thread(approve, admin, approval_id)
        assert state(await watching.next()) == "approved"


async def test_what_is_restored_from_a_backup_is_read_anew(fresh: Served) -> None:
    """If the activity log goes back, everything is read again."""
    approval_id = await in_thread(opened, fresh)
    async with sidecar(fresh) as node:
        watching = node.watch(approval_id)
        assert state(await watching.next()) == "pending"
        await in_thread(fresh.sql, "UPDATE approvals SET status = 'denied'")
        await in_thread(fresh.sql, "UPDATE meta SET activity_sequence = activity_sequence - 1")
        assert await watching.states() == ["denied"]


def test_each_transition_happens_once_however_many_want_it(two: tuple[Served, Served], settings: Settings) -> None:
    """With two stores, one decision and one use succeed, and the hash chain of the log stays valid."""
    rests = [store.rest() for store in two]
    keys = [store.key("sidecar") for store in two]
    for rest, verb in product(
        rests, ("approve", "deny")
    ):  # FastAPI makes a route ready as it is first asked, in one thread
        assert rest.post(f"{APPROVALS}/{uuid4()}/{verb}", {"comment": "x"}).status == 404
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            approval_id = opened(two[0])
            paths = [f"{APPROVALS}/{approval_id}/{verb}" for verb in ("approve", "deny") for _ in range(4)]
            answers = list(pool.map(lambda at: rests[at[0] % 2].post(at[1], {"comment": str(at[0])}), enumerate(paths)))
            assert sorted(answer.status for answer in answers) == [200] + [409] * 7
            status = read(rests[0], approval_id)["status"]
            granted = [
                answer for answer in asyncio.run(all_use(two, keys, approval_id)) if verdict(answer) == "granted"
            ]
            assert len(granted) == (1 if status == "approved" else 0)
            kinds = [entry["activity_type"] for entry in entries(rests[1], approval_id)]
            assert kinds == ["approval_requested", f"approval_{status}"] + ["approval_used"] * len(granted)
    database = two[0].running._store.database

    async def intact() -> bool:
        async with database.reading() as session:
            return (await verify_database(session, Chain())) is None

    assert two[0].run(intact())


async def all_use(stores: tuple[Served, Served], keys: list[str], approval_id: str) -> list[pb.UseApprovalResponse]:
    """The results of eight concurrent uses through two stores."""
    async with sidecar(stores[0], keys[0]) as one, sidecar(stores[1], keys[1]) as other:
        return await asyncio.gather(*(node.use(approval_id) for _ in range(4) for node in (one, other)))


def test_an_unknown_agent_is_no_obstacle(store: Served, admin: Rest) -> None:
    """An approval belongs to the agent that the sidecar names, registered here or not."""
    assert read(admin, opened(store))["agent_id"] == AGENT
