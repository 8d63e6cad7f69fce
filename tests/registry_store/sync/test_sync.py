"""The guarantees of the sync service: ordered, unique, atomic, resumable."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from pdp.core.records import read_agent, read_organisation_policy, read_server
from registry_store import retention
from registry_store.cli import main
from registry_store.rpc import sync
from registry_store.rpc.sync import Pace
from registry_store.settings import Settings
from registry_store.sync.feed import Feed
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.serving import (
    ALL,
    PATIENT,
    WAIT_SECONDS,
    Rest,
    Served,
    document,
    in_thread,
    named,
    served,
    subscriber,
    tagged,
)
from tests.waiting import eventually_gives

REGISTRY = "/api/agents/registry"
POLICY = {"policy_name": "review", "policy_action": "block", "conditions": {"amount_above": 10}}


async def test_a_snapshot_holds_every_record_as_the_core_reads_it(fresh: Served) -> None:
    """Agents with their policies, organisation policies and servers arrive whole, with a checksum over them."""
    admin = fresh.rest()
    await in_thread(admin.register, "payments-worker-prod")
    await in_thread(admin.post, f"{REGISTRY}/payments-worker-prod/policies", POLICY)
    await in_thread(admin.post, "/api/agents/policies", {**POLICY, "applies_to": {"tags": ["pci"]}})
    await in_thread(admin.post, "/api/agents/mcp/servers", {"server_name": "files"})
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello()
        snapshot = await sidecar.snapshot()
    assert (snapshot.welcome.resumed, snapshot.welcome.revision, snapshot.begin.records) == (False, 4, 3)
    assert snapshot.begin.revision == snapshot.end.revision == 4
    sha256 = hashlib.sha256(b"".join(record.document for record in snapshot.records))
    assert snapshot.end.sha256 == sha256.digest()
    documents = {record.kind: document(record) for record in snapshot.records}
    agent = read_agent(documents[pb.RECORD_KIND_AGENT])
    assert (agent.agent_id, agent.version, agent.status.value) == ("payments-worker-prod", "1.0.0", "draft")
    assert [policy.policy_name for policy in agent.policies] == ["review"]
    assert read_organisation_policy(documents[pb.RECORD_KIND_ORGANISATION_POLICY]).applies_to.tags == ("pci",)
    assert read_server(documents[pb.RECORD_KIND_MCP_SERVER]).server_name == "files"


async def test_a_change_follows_from_the_revision_before(fresh: Served) -> None:
    """Changes come one revision after the other, each as the agent's whole new state."""
    admin = fresh.rest()
    await in_thread(admin.register, "payments-worker-prod")
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello()
        await sidecar.snapshot()
        await in_thread(admin.put, f"{REGISTRY}/payments-worker-prod", {"max_actions_per_day": 7})
        added = await in_thread(admin.post, f"{REGISTRY}/payments-worker-prod/policies", POLICY)
        await in_thread(admin.delete, f"{REGISTRY}/payments-worker-prod/policies/{added.body['policy_id']}")
        changes = await sidecar.changes_to(4)
    assert [change.from_revision for change in changes] == [1, *(change.to_revision for change in changes[:-1])]
    assert changes[-1].committed_at > 0
    last = document(changes[-1].records[0])
    assert (last["max_actions_per_day"], last["version"], last["policies"]) == (7, "1.1.0", [])


async def test_a_named_subscription_gets_its_agents_alone(fresh: Served) -> None:
    """Another agent's change advances the revision and carries no record."""
    admin = fresh.rest()
    await in_thread(admin.register, "mine-worker-prod")
    await in_thread(admin.register, "other-worker-prod")
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello(named("mine-worker-prod", "unknown-worker-prod"))
        assert (await sidecar.snapshot()).ids == ["mine-worker-prod"]
        await in_thread(admin.put, f"{REGISTRY}/other-worker-prod", {"default_risk_score": 7})
        (change,) = await sidecar.changes_to(3)
        assert (change.from_revision, len(change.records)) == (2, 0)
        await in_thread(admin.register, "unknown-worker-prod")
        (change,) = await sidecar.changes_to(4)
        assert [record.id for record in change.records] == ["unknown-worker-prod"]


async def test_an_agent_that_loses_the_tag_is_gone_for_its_subscribers(fresh: Served) -> None:
    """An empty document means that a record left the subscription; other sidecars get nothing."""
    admin = fresh.rest()
    await in_thread(admin.register, "mine-worker-prod", tags=["finance"])
    await in_thread(admin.register, "other-worker-prod", tags=["hr"])
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello(tagged("finance"))
        assert (await sidecar.snapshot()).ids == ["mine-worker-prod"]
        await in_thread(admin.put, f"{REGISTRY}/other-worker-prod", {"tags": ["hr", "eu"]})
        await in_thread(admin.put, f"{REGISTRY}/mine-worker-prod", {"tags": ["legal"]})
        await in_thread(admin.put, f"{REGISTRY}/other-worker-prod", {"tags": ["finance"]})
        changes = await sidecar.changes_to(5)
    seen = [(record.id, bool(record.document)) for change in changes for record in change.records]
    assert seen == [("mine-worker-prod", False), ("other-worker-prod", True)]


async def test_a_removed_server_and_policy_are_gone(fresh: Served) -> None:
    """Subscribers get a deleted record as an empty document; a retired agent stays, with its status."""
    admin = fresh.rest()
    await in_thread(admin.register, "payments-worker-prod")
    await in_thread(admin.post, "/api/agents/mcp/servers", {"server_name": "files"})
    policy = await in_thread(admin.post, "/api/agents/policies", POLICY)
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello()
        await sidecar.snapshot()
        await in_thread(admin.delete, "/api/agents/mcp/servers/files")
        await in_thread(admin.delete, f"/api/agents/policies/{policy.body['policy_id']}")
        await in_thread(admin.delete, f"{REGISTRY}/payments-worker-prod", {"reason": "replaced"})
        changes = await sidecar.changes_to(6)
    records = {record.kind: document(record) for change in changes for record in change.records}
    assert records[pb.RECORD_KIND_MCP_SERVER] is None
    assert records[pb.RECORD_KIND_ORGANISATION_POLICY] is None
    assert records[pb.RECORD_KIND_AGENT]["status"] == "retired"


async def test_a_removed_policy_that_is_restored_comes_back_as_it_was(fresh: Served) -> None:
    """Subscribers get the same document under the same id, with its age: the order of evaluation is the old one."""
    admin = fresh.rest()
    own = (await in_thread(admin.post, "/api/agents/policies", POLICY)).headers["location"]
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
        await sidecar.hello()
        (before,) = (await sidecar.snapshot()).records
        await in_thread(admin.delete, own)
        (gone,) = (await sidecar.changes_to(2))[-1].records
        await in_thread(admin.post, f"{own}/rollback", {"target_version": "1.0.0"})
        (back,) = (await sidecar.changes_to(3))[-1].records
    assert (gone.id, document(gone)) == (before.id, None)
    assert (back.id, document(back)) == (before.id, document(before))


async def test_a_resumed_stream_sends_just_what_is_missing(fresh: Served) -> None:
    """A sidecar that comes back with its epoch and revision gets no snapshot."""
    admin, key = fresh.rest(), fresh.key("sidecar")
    await in_thread(admin.register, "payments-worker-prod")
    await in_thread(admin.register, "ledger-worker-prod")
    async with subscriber(fresh.running.grpc_address, key) as sidecar:
        await sidecar.hello()
        epoch = (await sidecar.snapshot()).welcome.epoch
    await in_thread(admin.put, f"{REGISTRY}/payments-worker-prod", {"default_risk_score": 7})
    async with subscriber(fresh.running.grpc_address, key) as sidecar:
        await sidecar.hello(epoch=epoch, revision=2)
        welcome = (await sidecar.next()).welcome
        assert (welcome.resumed, welcome.revision, welcome.epoch) == (True, 3, epoch)
        (change,) = await sidecar.changes_to(3)
        assert [record.id for record in change.records] == ["payments-worker-prod"]


@pytest.mark.parametrize(
    "claim", [{"epoch": "another", "revision": 1}, {"revision": 99}, {"revision": 0}], ids=["epoch", "future", "none"]
)
async def test_what_cannot_be_resumed_gets_a_snapshot(store: Served, claim: dict[str, object]) -> None:
    """Another epoch, a revision that is not yet, and no data at all lead to a snapshot."""
    admin = store.rest()
    await in_thread(admin.register, f"agent-of-{abs(hash(str(claim)))}")
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.hello()
        epoch = (await sidecar.snapshot()).welcome.epoch
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.hello(**{"epoch": epoch, **claim})
        snapshot = await sidecar.snapshot()
        assert not snapshot.welcome.resumed
        assert snapshot.records


async def test_a_store_that_starts_again_goes_on_where_it_stopped(settings: Settings) -> None:
    """Epoch, revisions, records and keys survive a restart on the same database."""
    with served(settings, PATIENT) as first:
        key, rest = first.key("sidecar"), first.rest()
        await in_thread(rest.register, "payments-worker-prod")
        async with subscriber(first.running.grpc_address, key) as sidecar:
            await sidecar.hello()
            epoch = (await sidecar.snapshot()).welcome.epoch
    with served(settings, PATIENT) as second:
        rest = Rest(second.running.http_address, rest.key)
        await in_thread(rest.put, f"{REGISTRY}/payments-worker-prod", {"default_risk_score": 7})
        async with subscriber(second.running.grpc_address, key) as sidecar:
            await sidecar.hello(epoch=epoch, revision=1)
            assert (await sidecar.next()).welcome.resumed
            (change,) = await sidecar.changes_to(2)
            assert document(change.records[0])["default_risk_score"] == 7


async def test_stopping_the_store_ends_its_streams_cleanly(settings: Settings) -> None:
    """A store that drains ends the stream with OK, so the sidecar reconnects at once."""
    with served(settings, PATIENT) as running:
        key, address = running.key("sidecar"), running.running.grpc_address
        started = asyncio.get_running_loop().create_future()

        async def follow() -> tuple[grpc.StatusCode, str]:
            async with subscriber(address, key) as sidecar:
                await sidecar.hello()
                await sidecar.snapshot()
                started.set_result(None)
                return await sidecar.ended()

        task = asyncio.create_task(follow())
        await started
    assert (await task)[0] is grpc.StatusCode.OK


async def test_acknowledgements_and_refusals_are_shown(fresh: Served) -> None:
    """/api/sidecars shows what each sidecar has in force, and which records it refuses and why."""
    admin = fresh.rest()
    await in_thread(admin.register, "payments-worker-prod")
    refusal = pb.Refusal(kind=pb.RECORD_KIND_AGENT, id="payments-worker-prod", problems=["unknown field"])
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar", "pod")) as sidecar:
        await sidecar.hello(named("payments-worker-prod"), version="0.1.0")
        await sidecar.snapshot()
        await sidecar.acknowledge(1, refusal)
        shown = await eventually(admin, lambda body: body["sidecars"][0]["acknowledged_revision"] == 1)
        assert (shown["node_id"], shown["key_name"], shown["connected"]) == ("node-1", "pod", True)
        assert shown["subscription"] == {"agents": ["payments-worker-prod"]}
        assert shown["refusals"] == [{"kind": "agent", "id": "payments-worker-prod", "problems": ["unknown field"]}]
        await in_thread(admin.put, f"{REGISTRY}/payments-worker-prod", {"default_risk_score": 7})
        await sidecar.changes_to(2)
        await sidecar.acknowledge(2)
        shown = await eventually(admin, lambda body: body["sidecars"][0]["acknowledged_revision"] == 2)
        assert shown["refusals"] == []
    await eventually(admin, lambda body: not body["sidecars"][0]["connected"])


async def test_a_refusal_outlives_an_acknowledgement_of_another_record(fresh: Served) -> None:
    """Only a newer state of the refused record, accepted, ends its refusal."""
    admin = fresh.rest()
    await in_thread(admin.register, "payments-worker-prod")
    await in_thread(admin.register, "ledger-worker-prod")
    refusal = pb.Refusal(kind=pb.RECORD_KIND_AGENT, id="payments-worker-prod", problems=["unknown field"])
    async with subscriber(fresh.running.grpc_address, fresh.key("sidecar", "pod")) as sidecar:
        await sidecar.hello()
        await sidecar.snapshot()
        await sidecar.acknowledge(2, refusal)
        await in_thread(admin.put, f"{REGISTRY}/ledger-worker-prod", {"default_risk_score": 7})
        await sidecar.changes_to(3)
        await sidecar.acknowledge(3)
        shown = await eventually(admin, lambda body: body["sidecars"][0]["acknowledged_revision"] == 3)
        assert [entry["id"] for entry in shown["refusals"]] == ["payments-worker-prod"]


@pytest.mark.parametrize(
    ("role", "code"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED),
        ("viewer", grpc.StatusCode.PERMISSION_DENIED),
        ("agent", grpc.StatusCode.PERMISSION_DENIED),
        ("approver", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
async def test_only_a_sidecars_or_admins_key_syncs(store: Served, role: str | None, code: grpc.StatusCode) -> None:
    """A missing key is UNAUTHENTICATED, a wrong role PERMISSION_DENIED."""
    async with subscriber(store.running.grpc_address, role and store.key(role)) as sidecar:
        assert (await sidecar.ended())[0] is code


async def test_a_wrong_key_is_refused(store: Served) -> None:
    """A valid id with another secret is refused."""
    key = store.key("sidecar")
    wrong = key[:-4] + ("aaaa" if not key.endswith("aaaa") else "bbbb")
    async with subscriber(store.running.grpc_address, wrong) as sidecar:
        assert await sidecar.ended() == (grpc.StatusCode.UNAUTHENTICATED, "the key is unknown")


async def test_revoking_a_key_ends_its_open_stream(store: Served) -> None:
    """Revocation also ends streams that are already open."""
    admin, key = store.rest(), store.key("sidecar")
    async with subscriber(store.running.grpc_address, key) as sidecar:
        await sidecar.hello()
        await sidecar.snapshot()
        assert (await in_thread(admin.delete, f"/api/keys/{key.split('_')[1]}")).status == 200
        assert (await sidecar.ended())[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"subscription": pb.Subscription()}, "must be one of `agents`, `tags` and `all`"),
        ({"subscription": named()}, "must have 1 to 1000 entries"),
        ({"subscription": named("no blanks please")}, "is not 3 to 64 letters"),
        ({"subscription": tagged("")}, "is empty"),
        ({"subscription": ALL, "node_id": ""}, "hello.node_id"),
        ({"subscription": ALL, "node_id": "x" * 200}, "hello.node_id"),
    ],
)
async def test_a_malformed_hello_is_refused(store: Served, hello: dict[str, object], why: str) -> None:
    """INVALID_ARGUMENT says which field of hello is wrong."""
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.hello(**hello)  # type: ignore[arg-type]
        code, details = await sidecar.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert why in details


async def test_the_first_message_is_hello(store: Served) -> None:
    """A stream that begins with anything else is refused."""
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.send(heartbeat=pb.Heartbeat())
        assert (await sidecar.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_whoever_was_away_for_too_long_gets_a_snapshot(fresh: Served) -> None:
    """The store drops changes more than 100,000 revisions back, and no stream resumes from there."""
    admin = fresh.rest()
    await in_thread(admin.register, "payments-worker-prod")
    await in_thread(admin.register, "ledger-worker-prod")
    await in_thread(fresh.sql, "UPDATE meta SET revision = 100999")
    await in_thread(admin.put, f"{REGISTRY}/payments-worker-prod", {"default_risk_score": 7})
    store = fresh.running._store
    await in_thread(fresh.run, retention.tidy(store.database, store.settings.retention(), datetime.now(UTC)))
    ((epoch, revision, oldest),) = await in_thread(fresh.sql, "SELECT epoch, revision, oldest_revision FROM meta")
    assert (revision, oldest) == (101_000, 1_000)
    assert await in_thread(fresh.sql, "SELECT count(*), max(revision) FROM changes") == [(1, 101_000)]
    for claim, resumed in ((1, False), (999, False), (1_000, True), (101_000, True)):
        async with subscriber(fresh.running.grpc_address, fresh.key("sidecar")) as sidecar:
            await sidecar.hello(epoch=epoch, revision=claim)
            assert (await sidecar.next()).welcome.resumed is resumed, claim


async def test_a_restored_database_begins_a_new_epoch(fresh: Served, settings: Settings) -> None:
    """new-epoch ends the open streams, and a sidecar with the earlier epoch gets a snapshot."""
    key = fresh.key("sidecar")
    await in_thread(fresh.rest().register, "payments-worker-prod")
    async with subscriber(fresh.running.grpc_address, key) as sidecar:
        await sidecar.hello()
        before = (await sidecar.snapshot()).welcome.epoch
        ended = await in_thread(CliRunner().invoke, main, ["new-epoch", "--database", settings.database])
        assert ended.exit_code == 0, ended.output
        assert (await sidecar.ended())[0] is grpc.StatusCode.OK
    async with subscriber(fresh.running.grpc_address, key) as sidecar:
        await sidecar.hello(epoch=before, revision=1)
        welcome = (await sidecar.snapshot()).welcome
    assert (welcome.resumed, welcome.epoch) == (False, ended.output.strip())
    assert welcome.epoch != before
    assert await in_thread(
        fresh.sql, "SELECT activity_type, performed_via FROM activity WHERE activity_type LIKE 'e%'"
    ) == [("epoch_renewed", "cli")]


async def test_a_silent_sidecar_is_given_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream without a heartbeat from below ends with DEADLINE_EXCEEDED."""
    # As long as its database has just answered, the store itself is not taken to be silent.
    monkeypatch.setattr(Feed, "confirmed_at", property(lambda _: time.monotonic(), lambda *_: None), raising=False)
    paced(monkeypatch, lambda _: replace(PATIENT, silence=0.2))
    with served(settings, PATIENT) as running:
        async with subscriber(running.running.grpc_address, running.key("sidecar")) as sidecar:
            await sidecar.hello()
            assert (await sidecar.ended())[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_ends_by_itself(settings: Settings) -> None:
    """At the end of its lifetime a stream ends with OK, and sidecars spread over the stores."""
    with served(settings, replace(PATIENT, lifetime=(0.1, 0.2))) as running:
        async with subscriber(running.running.grpc_address, running.key("sidecar")) as sidecar:
            await sidecar.hello()
            assert (await sidecar.ended())[0] is grpc.StatusCode.OK


async def test_a_heartbeat_tells_the_newest_revision(store: Served) -> None:
    """Heartbeats flow while nothing changes."""
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.hello()
        revision = (await sidecar.snapshot()).end.revision
        while (message := await sidecar.read()).WhichOneof("message") != "heartbeat":
            pass
    assert message.heartbeat.revision == revision


async def test_the_store_tells_its_clocks(store: Served) -> None:
    """In each welcome, also of a stream that resumes, and in each heartbeat: when it was sent, by both clocks."""
    await in_thread(store.rest().register, "resumable-agent")
    began = time.time(), time.monotonic()
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.hello()
        snapshot = await sidecar.snapshot()
        while (message := await sidecar.read()).WhichOneof("message") != "heartbeat":
            pass
    async with subscriber(store.running.grpc_address, store.key("sidecar")) as sidecar:
        await sidecar.hello(epoch=snapshot.welcome.epoch, revision=snapshot.end.revision)
        resumed = (await sidecar.next()).welcome
    assert resumed.resumed
    messages = [snapshot.welcome, message.heartbeat, resumed]
    uptimes = [began[1], *(one.uptime for one in messages), time.monotonic()]
    assert uptimes == sorted(uptimes)
    assert all(began[0] <= one.sent_at <= time.time() for one in messages)


async def test_a_sidecar_that_does_not_read_is_dropped_and_hurts_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one subscriber does not read, another gets its snapshot and each change."""
    paced(monkeypatch, lambda node_id: replace(PATIENT, send=0.5) if node_id == "stuck" else PATIENT)
    with served(settings, PATIENT) as running:
        admin, address, key = running.rest(), running.running.grpc_address, running.key("sidecar")
        for number in range(20):
            await in_thread(admin.register, f"bulky-worker-{number}", allowed_resources=bulk(number))
        async with subscriber(address, key) as stuck, subscriber(address, key) as other:
            await stuck.hello(node_id="stuck")
            await other.hello(node_id="other")
            assert len((await other.snapshot()).records) == 20
            await in_thread(admin.put, f"{REGISTRY}/bulky-worker-0", {"allowed_resources": ["one"]})
            (change,) = await other.changes_to(21)
            assert document(change.records[0])["allowed_resources"] == ["one"]
            async with asyncio.timeout(WAIT_SECONDS):
                while {row["node_id"]: row["connected"] for row in await sidecars(admin)} != {
                    "stuck": False,
                    "other": True,
                }:
                    await other.send(heartbeat=pb.Heartbeat())
                    await asyncio.sleep(0.05)
            dropped = 'streams_ended_total{status="resource_exhausted"} 1.0'
            await eventually_gives(lambda: in_thread(admin.get, "/metrics"), lambda answer: dropped in answer.body)


def paced(monkeypatch: pytest.MonkeyPatch, pace_of: Callable[[str], Pace]) -> None:
    """From its hello on, a stream has the times that its node's id gives it."""
    opened = sync._Stream.__init__

    def at_its_pace(stream: sync._Stream, *given: Any) -> None:
        opened(stream, *given)
        stream._pace = pace_of(stream._hello.node_id)

    monkeypatch.setattr(sync._Stream, "__init__", at_its_pace)


def bulk(number: int) -> list[str]:
    """Half a megabyte of resources."""
    return [f"{number}-{index}-{'x' * 500}" for index in range(1000)]


async def sidecars(admin: Rest) -> list[dict[str, object]]:
    return (await in_thread(admin.get, "/api/sidecars")).body["sidecars"]  # type: ignore[no-any-return]


async def eventually(admin: Rest, holds: object) -> dict[str, object]:
    """The first sidecar, once /api/sidecars is as wanted."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            body = (await in_thread(admin.get, "/api/sidecars")).body
            if body["sidecars"] and holds(body):  # type: ignore[operator]
                return body["sidecars"][0]  # type: ignore[no-any-return]
            await asyncio.sleep(0.01)
