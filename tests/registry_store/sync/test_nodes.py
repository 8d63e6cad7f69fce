"""Owners of node ids, and the agents that a sidecar key may report."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from registry_store.decisions import deletion
from registry_store.v1 import sync_pb2 as pb
from tests.registry_store.decisions.test_decisions import counted, kept, log_of
from tests.registry_store.reporting import Log, decision, gap, new_id, reporter
from tests.registry_store.serving import ALL, Rest, Served, Subscriber, in_thread, named, subscriber, tagged

DENIED = grpc.StatusCode.PERMISSION_DENIED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
REGISTRY = "/api/agents/registry"
PAYROLL, LEDGER = "payroll-agent-prod", "ledger-agent-prod"


def key(admin: Rest, name: str, **bound: list[str]) -> str:
    """A new sidecar's key of this name."""
    made = admin.post("/api/keys", {"role": "sidecar", "name": name, **bound})
    assert made.status == 201, made.body
    text: str = made.body["key"]
    return text


@asynccontextmanager
async def connected(
    store: Served, text: str, subscription: pb.Subscription = ALL, **hello: Any
) -> AsyncIterator[Subscriber]:
    """A sidecar that sent hello with this key."""
    async with subscriber(store.running.grpc_address, text) as sidecar:
        await sidecar.hello(subscription, **hello)
        yield sidecar


async def refused(store: Served, text: str, subscription: pb.Subscription = ALL, **hello: Any) -> tuple[Any, str]:
    """The status of the stream when a sidecar sends hello with this key."""
    async with connected(store, text, subscription, **hello) as sidecar:
        return await sidecar.ended()


def stranger(agent_id: str, reason: str = "AGENT_NOT_REGISTERED", **fields: Any) -> dict[str, Any]:
    """A block of an agent that the sidecar does not know."""
    said = decision("block", agent_id=agent_id, **fields)
    said["answer"] = said["answer"] | {"reason": reason}
    return said


async def test_a_report_under_anothers_node_id_is_denied_and_changes_nothing(
    fresh: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sequence and decisions are refused, and the owner of the id continues."""
    admin = fresh.rest()
    log, forged = Log(), Log(sequence=2**48 - 1)
    async with reporter(fresh, key(admin, "victim")) as victim, reporter(fresh, key(admin, "thief")) as thief:
        assert await victim.send(log.report(decision())) == 1
        code, details = await thief.refused(forged.report(decision(cost_micros=10**9)))
        assert (code, "node id `node-1` belongs to keys of another name" in details) == (DENIED, True)
        assert "victim" not in details
        assert (await thief.refused(log.copy().report(decision())))[0] is DENIED
        assert await victim.send(log.report(decision())) == 2
    assert log_of(fresh) == (2, log.hash.hex(), 0, 0)
    assert counted(fresh) == {"allow": (2, 0)}
    assert "a key named `thief` used node id `node-1`, which belongs to keys named `victim`" in caplog.text


async def test_a_node_id_belongs_to_the_key_that_said_hello_with_it_first(fresh: Served) -> None:
    """A connection claims the id: later keys of another name can neither connect nor report with it."""
    admin = fresh.rest()
    first, second = key(admin, "first"), key(admin, "second")
    async with connected(fresh, first) as sidecar:
        await sidecar.snapshot()
        assert (await refused(fresh, second))[0] is DENIED
        async with reporter(fresh, second) as thief:
            assert (await thief.refused(Log().report(decision())))[0] is DENIED
        async with reporter(fresh, first) as own:
            assert await own.send(Log().report(decision())) == 1


async def test_keys_of_the_same_name_are_one(fresh: Served) -> None:
    """To rotate a key, it is enough to create another key of the same name."""
    admin, log = fresh.rest(), Log()
    old, new = key(admin, "payments cluster"), key(admin, "payments cluster")
    async with reporter(fresh, old) as sidecar:
        await sidecar.send(log.report(decision()))
    async with connected(fresh, new) as stream, reporter(fresh, new) as sidecar:
        await stream.snapshot()
        assert await sidecar.send(log.report(decision())) == 2


async def test_of_two_keys_that_use_a_node_id_at_once_one_gets_it(fresh: Served) -> None:
    """The others are denied, permanently."""
    admin = fresh.rest()
    texts = [key(admin, f"racer {number}") for number in range(4)]

    async def outcome(text: str) -> bool:
        async with reporter(fresh, text) as sidecar:
            try:
                return await sidecar.send(Log().report(decision())) == 1
            except grpc.aio.AioRpcError as error:
                assert error.code() is DENIED
                return False

    first = await asyncio.gather(*map(outcome, texts))
    assert first.count(True) == 1
    assert len(kept(fresh)) == 1


async def test_a_node_id_from_before_belongs_to_the_key_that_uses_it_next(fresh: Served) -> None:
    """The owner of a log that an older store kept is unknown."""
    admin, log = fresh.rest(), Log()
    owner = key(admin, "owner")
    async with reporter(fresh, owner) as sidecar, reporter(fresh, key(admin, "other")) as other:
        await sidecar.send(log.report(decision()))
        fresh.sql("UPDATE decision_logs SET owner = NULL, seen_at = NULL")
        assert await sidecar.send(log.report(decision())) == 2
        assert (await other.refused(log.report(decision())))[0] is DENIED


async def test_an_admin_hands_a_node_id_over(fresh: Served) -> None:
    """To a key name, or to the next user; the activity log records it once, even if repeated."""
    admin, log = fresh.rest(), Log()
    async with reporter(fresh, key(admin, "old")) as old, reporter(fresh, key(admin, "new")) as new:
        await old.send(log.report(decision()))
        handed = {"reason": "OPS-1: moved", "key_name": "new"}
        for _ in range(2):
            answer = await in_thread(admin.post, "/api/sidecars/node-1/release", handed)
            assert (answer.status, answer.body) == (200, {"node_id": "node-1", "key_name": "new"})
        assert (await old.refused(log.copy().report(decision())))[0] is DENIED
        assert await new.send(log.report(decision())) == 2
        answer = await in_thread(admin.call, "POST", "/api/sidecars/node-1/release")
        assert (answer.status, answer.body["key_name"]) == (200, None)
        assert await old.send(log.report(decision())) == 3
        assert (await new.refused(log.report(decision())))[0] is DENIED
    listed = (await in_thread(admin.get, "/api/activity?type=sidecar_released")).body["activities"]
    entries = [(one["subject_id"], one["previous_state"], one["new_state"], one["performed_by"]) for one in listed]
    assert entries == [
        ("node-1", {"key_name": "new"}, {"key_name": None}, "tester"),
        ("node-1", {"key_name": "old"}, {"key_name": "new"}, "tester"),
    ]
    assert listed[1]["activity_description"] == "node id `node-1` handed over to keys named `new`: OPS-1: moved"


def test_only_a_node_id_that_was_used_can_be_released(admin: Rest) -> None:
    """404 if the node is unknown, 422 for an invalid name; only an admin may do it."""
    assert admin.post("/api/sidecars/nowhere/release", {"reason": "x"}).status == 404
    assert admin.post("/api/sidecars/nowhere/release", {"key": "x"}).body["errors"][0]["path"] == "key"
    assert admin.post("/api/sidecars/nowhere/release", {"key_name": ""}).status == 422


def test_a_sidecar_that_still_connects_is_not_forgotten(fresh: Served) -> None:
    """It keeps its node id, no matter how long it decides nothing."""
    now = datetime.now(UTC)
    text = key(fresh.rest(), "quiet")

    async def connect() -> None:
        async with connected(fresh, text) as sidecar:
            await sidecar.snapshot()

    async def forget(moment: datetime) -> None:
        async with fresh.running._store.database.beside() as session:
            await deletion.forget_logs(session, moment)

    asyncio.run(connect())
    fresh.sql("UPDATE decision_logs SET updated_at = '2020-01-01 00:00:00.000000'")
    fresh.run(forget(now - timedelta(days=1)))
    assert fresh.sql("SELECT owner FROM decision_logs") == [("quiet",)]
    fresh.sql("UPDATE decision_logs SET seen_at = '2020-01-01 00:00:00.000000'")
    asyncio.run(connect())
    fresh.run(forget(now - timedelta(days=1)))
    assert fresh.sql("SELECT owner FROM decision_logs") == [("quiet",)]
    fresh.run(forget(now + timedelta(days=1)))
    assert fresh.sql("SELECT owner FROM decision_logs") == []


@pytest.mark.parametrize("node_id", ["", "a\nb", "a\rb", "a b", "-a", "../a", "ä", "a`b", "x" * 129])
async def test_what_is_no_node_id_is_refused(store: Served, node_id: str) -> None:
    """No line break, no mark and no space reaches the log or a path."""
    code, details = await refused(store, store.key("sidecar"), node_id=node_id)
    assert (code, details.startswith("hello.node_id: ")) == (INVALID, True)
    async with reporter(store) as sidecar:
        code, details = await sidecar.refused(Log(node_id).report(decision()))
    assert (code, details.startswith("node_id: ")) == (INVALID, True)


@pytest.mark.parametrize("node_id", ["7c9a9363-5a9d-4d4c-969a-b7e0beae93f4", "payments.eu-1:pod_7", "x" * 128])
async def test_a_node_id_may_be_a_name(store: Served, node_id: str) -> None:
    """Generated ids are valid, and so are names of letters, digits and - _ . :."""
    async with connected(store, store.key("sidecar"), node_id=node_id) as sidecar:
        assert (await sidecar.snapshot()).welcome.epoch


@pytest.mark.parametrize("version", ["1.0\n", "1\x1b[2J", "ä", "x" * 129])
async def test_a_version_is_printable(store: Served, version: str) -> None:
    """It is shown to people and logged."""
    code, details = await refused(store, store.key("sidecar"), version=version)
    assert (code, details.startswith("hello.version: ")) == (INVALID, True)


@pytest.mark.parametrize("ahead", [2**20 + 2**27, 2**40, 2**48, 2**53 - 2])
async def test_sequences_far_ahead_are_refused(fresh: Served, ahead: int) -> None:
    """Also with a gap record for them; the records before them in the report are not stored either."""
    log = Log()
    async with reporter(fresh) as sidecar:
        await sidecar.send(log.report(decision()))
        far = Log(sequence=ahead)
        for said in (decision(), gap(2, ahead)):
            request = far.copy().report(said)
            code, details = await sidecar.refused(request)
            assert (code, details) == (
                INVALID,
                f"batches[0].content: `{ahead + 1}` is too far ahead of `1`, the newest stored sequence",
            )
        both = pb.ReportDecisionsRequest(
            node_id="node-1", batches=[log.copy().batch(decision()), far.copy().batch(decision())]
        )
        assert (await sidecar.refused(both))[1].startswith("batches[1].content: ")
        both = pb.ReportDecisionsRequest(
            node_id="node-1", records=[*log.copy().records(decision()), *far.records(decision())]
        )
        assert (await sidecar.refused(both))[1].startswith("records[1].sequence: ")
        assert await sidecar.send(log.report(decision())) == 2
    assert log_of(fresh) == (2, log.hash.hex(), 0, 0)


async def test_a_hole_of_what_can_have_been_decided_meanwhile_is_taken(fresh: Served) -> None:
    """A sidecar that was cut off for a day, with a log that was full, goes on; its first report may begin anywhere."""
    late = Log(sequence=2**39)
    async with reporter(fresh) as sidecar:
        assert await sidecar.send(late.report(decision())) == 2**39 + 1
        late.sequence += 2**20 - 1
        assert await sidecar.send(late.report(decision())) == late.sequence
        day_ago = datetime.now(UTC) - timedelta(days=1)
        fresh.sql(f"UPDATE decision_logs SET updated_at = '{day_ago:%Y-%m-%d %H:%M:%S.%f}'")
        late.sequence += 10_000 * 86_400
        assert await sidecar.send(late.report(decision())) == late.sequence


async def test_no_first_report_begins_beyond_all_reason(fresh: Served) -> None:
    """A sidecar would have had to decide a thousand times a second for 35 years."""
    async with reporter(fresh) as sidecar:
        assert (await sidecar.refused(Log(sequence=2**40).report(decision())))[0] is INVALID


async def test_a_log_that_was_sent_far_ahead_before_goes_on(fresh: Served) -> None:
    """An older store accepted any sequence up to 2^48, so its sidecars continue after it."""
    log = Log()
    async with reporter(fresh) as sidecar:
        await sidecar.send(log.report(decision()))
        fresh.sql(f"UPDATE decision_logs SET sequence = {2**48}")
        assert await sidecar.send(log.report(decision())) == 2**48
        log.sequence = 2**48
        assert await sidecar.send(log.report(decision())) == 2**48 + 1
    assert len(kept(fresh)) == 3


@pytest.mark.parametrize("bound", [{"agents": [PAYROLL]}, {"tags": ["finance"]}])
async def test_a_bound_key_reports_of_its_own_agents_alone(fresh: Served, bound: dict[str, list[str]]) -> None:
    """Records of other agents are refused singly, and are not stored, counted or sent for approval.

    For a sidecar from before there were batches they are malformed: nothing of its report is stored.
    """
    admin, log = fresh.rest(), Log()
    admin.register(PAYROLL, tags=["finance"])
    admin.register(LEDGER, tags=["books"])
    async with reporter(fresh, key(admin, "pod", **bound)) as sidecar:
        assert await sidecar.send(log.report(decision(agent_id=PAYROLL), gap(1, 0, records=3))) == 2
        forged = [
            decision(agent_id=LEDGER, cost_micros=5),
            decision("block", agent_id=LEDGER),
            decision("require_approval", agent_id=LEDGER, opens=new_id()),
            stranger(LEDGER, cost_micros=5),
            stranger(LEDGER, "BUDGET_EXCEEDED"),
            decision(agent_id="nowhere-agent-prod"),
        ]
        for said in forged:
            code, details = await sidecar.refused(log.copy().old_report(decision(agent_id=PAYROLL), said))
            agent_id = said["action"]["agent_id"]
            path = "records[1].document.action.agent_id"
            assert (code, details) == (INVALID, f"{path}: `{agent_id}` is outside the scope of the key")
            answer = await sidecar.answer(log.report(decision(agent_id=PAYROLL), said))
            refused = [(one.sequence, one.problem) for one in answer.refused]
            assert refused == [(log.sequence, f"agent `{agent_id}` is outside the scope of the key")]
        assert await sidecar.send(log.report(stranger(LEDGER), stranger("nowhere-agent-prod"))) == log.sequence
    assert counted(fresh) == {"allow": (7, 0), "block": (2, 0)}
    assert fresh.sql("SELECT count(*) FROM approvals") == [(0,)]


async def test_what_was_decided_before_an_agent_lost_its_tag_still_comes_in(fresh: Served) -> None:
    """As long as the store keeps the change that removed the tag: a record may wait on disk for days."""
    admin, log = fresh.rest(), Log()
    admin.register(PAYROLL, tags=["finance"])
    async with reporter(fresh, key(admin, "pod", tags=["finance"])) as sidecar:
        await in_thread(admin.put, f"{REGISTRY}/{PAYROLL}", {"tags": ["books"]})
        assert await sidecar.send(log.report(decision(agent_id=PAYROLL))) == 1
        fresh.sql("DELETE FROM changes")
        answer = await sidecar.answer(log.report(decision(agent_id=PAYROLL)))
        assert [one.sequence for one in answer.refused] == [2]


@pytest.mark.parametrize(
    ("bound", "subscription"),
    [
        ({"agents": [PAYROLL]}, ALL),
        ({"agents": [PAYROLL]}, tagged("finance")),
        ({"agents": [PAYROLL]}, named(PAYROLL, LEDGER)),
        ({"tags": ["finance"]}, ALL),
        ({"tags": ["finance"]}, tagged("finance", "books")),
    ],
)
async def test_a_bound_key_syncs_nothing_beyond_its_bounds(
    store: Served, admin: Rest, bound: dict[str, list[str]], subscription: pb.Subscription
) -> None:
    """The stream is denied before anything of the registry is sent, and the node id is not taken."""
    code, _ = await refused(store, key(admin, "pod", **bound), subscription, node_id="bounded-node")
    assert code is DENIED
    assert store.sql("SELECT node_id FROM decision_logs WHERE node_id = 'bounded-node'") == []


@pytest.mark.parametrize(
    ("bound", "subscription", "ids"),
    [
        ({"agents": [PAYROLL, LEDGER]}, named(PAYROLL), [PAYROLL]),
        ({"agents": [PAYROLL]}, named(PAYROLL), [PAYROLL]),
        ({"tags": ["finance", "eu"]}, tagged("finance"), [PAYROLL]),
        ({"tags": ["finance"]}, named(PAYROLL, LEDGER), [PAYROLL]),
    ],
)
async def test_a_bound_key_syncs_what_is_within_its_bounds(
    fresh: Served, bound: dict[str, list[str]], subscription: pb.Subscription, ids: list[str]
) -> None:
    """With the organisation's policies and the MCP servers, which are part of every scope."""
    admin = fresh.rest()
    admin.register(PAYROLL, tags=["finance"])
    admin.register(LEDGER, tags=["books"])
    admin.post("/api/agents/mcp/servers", {"server_name": "files"})
    async with connected(fresh, key(admin, "pod", **bound), subscription) as sidecar:
        snapshot = await sidecar.snapshot()
    assert snapshot.ids == ["files", *ids]
    assert snapshot.begin.records == len(snapshot.ids)


async def test_an_agent_that_loses_the_tag_of_a_key_is_gone(fresh: Served) -> None:
    """A key bound to tags follows those of the named agents that have a tag, while they have it."""
    admin = fresh.rest()
    revision = admin.register(PAYROLL, tags=["finance"])["revision"]
    path, text = f"{REGISTRY}/{PAYROLL}", key(admin, "pod", tags=["finance"])
    async with connected(fresh, text, named(PAYROLL)) as sidecar:
        epoch = (await sidecar.snapshot()).welcome.epoch
        for tags, is_there in ((["books"], False), (["books", "finance"], True), ([], False)):
            revision = (await in_thread(admin.put, path, {"tags": tags})).body["revision"]
            (record,) = (await sidecar.changes_to(revision))[-1].records
            assert (record.id, bool(record.document)) == (PAYROLL, is_there)
    async with connected(fresh, text, named(PAYROLL), epoch=epoch, revision=revision) as sidecar:
        snapshot = await sidecar.snapshot()
    assert (snapshot.welcome.resumed, snapshot.ids) == (False, [])


async def test_what_a_sidecar_refuses_is_kept_within_bounds(fresh: Served) -> None:
    """The kept refusals are limited in number and in length."""
    async with connected(fresh, fresh.key("sidecar")) as sidecar:
        await sidecar.snapshot()
        for batch in range(3):
            names = (f"{batch}-{number}-" + "x" * 1_000 for number in range(400))
            refusals = [pb.Refusal(kind=pb.RECORD_KIND_AGENT, id=name, problems=["y" * 5_000]) for name in names]
            await sidecar.acknowledge(0, *refusals)
        await sidecar.acknowledge(0, pb.Refusal(kind=pb.RECORD_KIND_AGENT, id="last"))
        while True:
            (shown,) = (await in_thread(fresh.rest("viewer").get, "/api/sidecars")).body["sidecars"]
            if shown["refusals"] and shown["refusals"][-1]["id"] == "last":
                break
            await sidecar.read()
    assert len(shown["refusals"]) == 1_000
    assert max(len(refusal["id"]) for refusal in shown["refusals"]) == 256
    assert max(len(problem) for refusal in shown["refusals"] for problem in refusal["problems"]) == 1_000
