"""The subscription against a store that keeps its promises, and against one that breaks them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from pdp.core.model import Now, Source
from pdp.metrics import Metrics
from pdp.settings import SettingsError, Subscription, host_and_port, read_key
from pdp.state import Holder, State
from pdp.sync.replica import Replica
from pdp.sync.store_clock import StoreClock
from pdp.sync.subscriber import Access, Node, Subscriber, Timing
from pdp.sync.uplink import Uplink
from registry_store.v1 import sync_pb2 as pb
from tests.pdp.scripted_store import Line, Script, ScriptedStore, gone, record, scripted
from tests.waiting import eventually

QUICK = Timing(
    heartbeat=0.02, dead_after=3600, snapshot_timeout=3600, settled_after=0.0, backoff_first=0.01, backoff_max=0.02
)
"""A stream ends only where its script says so, however long this machine pauses."""
IMPATIENT = replace(QUICK, dead_after=0.2)
"""Here it may end earlier on a slow machine, so a script follows the sidecar's acknowledgements."""
NOW = Now(1_800_000_000.0, 5000.0)
ALL = Subscription()


class Sidecar:
    """What the subscription keeps up to date."""

    def __init__(self, store: ScriptedStore) -> None:
        self.store = store
        self.holder = Holder()
        self.now = NOW
        self.store_clock = StoreClock(lambda: self.now)
        self.metrics = Metrics()
        self.states: list[tuple[State, bool]] = []
        self.replica = Replica(self.holder, self.metrics, self._on_state)

    def _on_state(self, state: State, complete: bool) -> None:
        self.states.append((state, complete))

    @property
    def revision(self) -> int:
        """The revision in force; 0: none."""
        return self.holder.current.revision if self.holder.current else 0

    def agents(self) -> set[str]:
        """The ids of the agents in force."""
        return set(self.holder.current.agents) if self.holder.current else set()


@asynccontextmanager
async def following(
    *scripts: Script, timing: Timing = QUICK, subscription: Subscription = ALL
) -> AsyncIterator[Sidecar]:
    """A subscriber that follows a store which plays these scripts, one a stream."""
    async with scripted(*scripts) as (store, address):
        sidecar = Sidecar(store)
        node = Node("node-1", subscription, host_and_port("store", address))
        access, clock = Access(lambda: "owkai_test"), (lambda: sidecar.now)
        subscriber = Subscriber(node, access, sidecar.replica, sidecar.metrics, Uplink(), clock=clock, timing=timing)
        sidecar.store_clock = subscriber.store_clock
        task = asyncio.create_task(subscriber.run())
        try:
            yield sidecar
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def steady(line: Line) -> None:
    """A snapshot of agent-a at revision 5, and nothing more."""
    await line.snapshot(5, record("agent-a"))
    await line.beat(5)


async def ending(line: Line) -> None:
    """The same, and then the end: once it was read, for gRPC may drop what was not read before the end."""
    await line.snapshot(5, record("agent-a"))
    await eventually(line.acknowledgements)


async def resuming(line: Line) -> None:
    """What the sidecar has is the newest; then heartbeats."""
    await line.send(welcome=pb.Welcome(epoch="e1", revision=5, resumed=True))
    await line.beat(5)


async def test_a_snapshot_then_each_change_from_one_revision_to_the_next() -> None:
    """Records come, change and go in order, and every revision is acknowledged."""

    async def script(line: Line) -> None:
        await line.snapshot(3, record("agent-a"), record("agent-b"))
        await line.change(3, 4, record("agent-c"))
        await line.change(4, 7, gone("agent-a"))
        await line.change(7, 8)
        await line.beat(8)

    async with following(script) as sidecar:
        await eventually(lambda: sidecar.revision == 8)
        line = sidecar.store.lines[0]
        await eventually(lambda: len(line.acknowledgements()) == 4)
        assert (sidecar.holder.source, sidecar.holder.confirmed_at) == (Source.LIVE, NOW.boot)
    assert sidecar.agents() == {"agent-b", "agent-c"}
    assert [state.revision for state, _ in sidecar.states] == [3, 4, 7, 8]
    assert [one.revision for one in line.acknowledgements()] == [3, 4, 7, 8]
    assert len(sidecar.store.lines) == 1


async def test_hello_has_the_node_the_subscription_and_the_key() -> None:
    """The first has no epoch and no revision; the key is in the metadata."""
    async with following(steady, subscription=Subscription(agents=("agent-a", "agent-b"))) as sidecar:
        await eventually(lambda: sidecar.revision == 5)
        hello = sidecar.store.lines[0].hello
    assert (hello.node_id, hello.epoch, hello.revision) == ("node-1", "", 0)
    assert list(hello.subscription.agents.agent_ids) == ["agent-a", "agent-b"]
    assert hello.version
    assert sidecar.store.keys == ["Bearer owkai_test"]


@pytest.mark.parametrize(
    ("before", "after"), [(6, 7), (4, 5), (4, 6), (5, 5), (5, 4)], ids=["gap", "repeat", "overlap", "still", "reversal"]
)
async def test_a_change_out_of_order_is_never_applied(before: int, after: int) -> None:
    """A gap, a repeat or a reversal leads to a stream that begins with a snapshot."""

    async def broken(line: Line) -> None:
        await line.snapshot(5, record("agent-a"))
        await line.change(before, after, record("agent-wrong"))
        await line.beat(5)

    async def mended(line: Line) -> None:
        await line.snapshot(9, record("agent-a"), record("agent-right"))
        await line.beat(9)

    async with following(broken, mended) as sidecar:
        await eventually(lambda: sidecar.revision == 9)
        second = sidecar.store.lines[1].hello
    assert (second.epoch, second.revision) == ("", 0)
    assert all("agent-wrong" not in state.agents for state, _ in sidecar.states)
    assert sidecar.agents() == {"agent-a", "agent-right"}


async def test_after_a_break_it_resumes_from_its_revision() -> None:
    """The second hello names epoch and revision, and the changes since are applied to what is in force."""

    async def breaking(line: Line) -> None:
        await ending(line)
        await line.context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    async def changing(line: Line) -> None:
        await line.send(welcome=pb.Welcome(epoch="e1", revision=6, resumed=True))
        await line.change(5, 6, record("agent-b"))
        await line.beat(6)

    async with following(breaking, changing) as sidecar:
        await eventually(lambda: sidecar.revision == 6)
        hello = sidecar.store.lines[1].hello
    assert (hello.epoch, hello.revision) == ("e1", 5)
    assert sidecar.agents() == {"agent-a", "agent-b"}


async def test_a_resumed_stream_without_changes_confirms_what_is_in_force() -> None:
    """Data from disk is live as soon as the store confirms that nothing has changed."""
    async with following(ending, resuming) as sidecar:
        await eventually(lambda: sidecar.revision == 5)
        current = sidecar.holder.current
        assert current is not None
        sidecar.holder.swap(current, Source.CACHED)
        await eventually(lambda: sidecar.holder.source is Source.LIVE)
        assert sidecar.holder.current is current


async def test_a_new_epoch_replaces_everything() -> None:
    """After a restore from backup the snapshot counts, also with a lower revision; what it lacks is gone."""

    async def before(line: Line) -> None:
        await line.snapshot(50, record("agent-a"), record("agent-lost"))

    async def restored(line: Line) -> None:
        await line.snapshot(20, record("agent-a"), epoch="e2")
        await line.beat(20)

    async with following(before, restored) as sidecar:
        await eventually(lambda: sidecar.revision == 20)
        current = sidecar.holder.current
    assert current is not None
    assert (current.epoch, set(current.agents)) == ("e2", {"agent-a"})


@pytest.mark.parametrize(
    "welcome",
    [
        pb.Welcome(epoch="e2", revision=6, resumed=True),
        pb.Welcome(epoch="e1", revision=4, resumed=True),
    ],
    ids=["other epoch", "earlier revision"],
)
async def test_an_impossible_resume_is_refused(welcome: pb.Welcome) -> None:
    """A store that resumes in another epoch, or before the sidecar's revision, is asked for a snapshot."""

    async def wrong(line: Line) -> None:
        await line.send(welcome=welcome)
        await line.change(5, 6, record("agent-wrong"))
        await line.beat(6)

    async with following(ending, wrong, steady) as sidecar:
        await eventually(lambda: len(sidecar.store.lines) == 3 and len(sidecar.states) == 2)
        third = sidecar.store.lines[2].hello
    assert (third.epoch, third.revision) == ("", 0)
    assert sidecar.agents() == {"agent-a"}


async def test_a_snapshot_whose_checksum_is_wrong_is_not_put_in_force() -> None:
    """Nor one that lacks a record, has one too many, or ends at another revision."""

    async def begin(line: Line, records: int) -> None:
        await line.send(welcome=pb.Welcome(epoch="e1", revision=5))
        await line.send(snapshot_begin=pb.SnapshotBegin(revision=5, records=records))
        await line.send(snapshot_chunk=pb.SnapshotChunk(records=[record("agent-wrong")]))

    async def altered(line: Line) -> None:
        await begin(line, 1)
        await line.send(snapshot_end=pb.SnapshotEnd(revision=5, sha256=bytes(32)))
        await line.beat(5)

    async def lacking(line: Line) -> None:
        await begin(line, 2)
        await line.send(snapshot_end=pb.SnapshotEnd(revision=5, sha256=bytes(32)))
        await line.beat(5)

    async def too_many(line: Line) -> None:
        await begin(line, 0)
        await line.beat(5)

    async def cut_off(line: Line) -> None:
        await begin(line, 1)

    async with following(altered, lacking, too_many, cut_off, steady) as sidecar:
        await eventually(lambda: sidecar.revision == 5)
    assert len(sidecar.store.lines) == 5
    assert [set(state.agents) for state, _ in sidecar.states] == [{"agent-a"}]


async def test_a_record_that_does_not_compile_keeps_its_last_good_state_and_is_reported() -> None:
    """The others of the same change take effect; the refusal names the field; a later good one heals it."""

    async def script(line: Line) -> None:
        await line.snapshot(5, record("agent-a", version="1.0.0"))
        await line.change(5, 6, record("agent-a", version="1.1.0", surprise=1), record("agent-b"))
        await eventually(lambda: len(line.acknowledgements()) == 2)
        await line.change(6, 7, record("agent-a", version="1.2.0"))
        await line.beat(7)

    async with following(script) as sidecar:
        await eventually(lambda: sidecar.revision == 7)
        line = sidecar.store.lines[0]
        await eventually(lambda: len(line.acknowledgements()) == 3)
    refusal = line.acknowledgements()[1].refusals[0]
    assert (refusal.kind, refusal.id) == (pb.RECORD_KIND_AGENT, "agent-a")
    assert list(refusal.problems) == ["surprise: unknown field"]
    versions = [(state.agents["agent-a"].version, complete) for state, complete in sidecar.states]
    assert versions == [("1.0.0", True), ("1.0.0", False), ("1.2.0", True)]
    assert "agent-b" in sidecar.states[1][0].agents
    assert b'pdp_refused_records_total{kind="agent"} 1.0' in sidecar.metrics.text()


async def test_a_record_of_an_unknown_kind_is_reported() -> None:
    """A newer store learns that its records have no effect here."""

    async def script(line: Line) -> None:
        await line.snapshot(5, record("agent-a"))
        strange = pb.Record(id="x", document=b"{}")
        strange.kind = 9  # type: ignore[assignment]  # of a protocol to come
        await line.change(5, 6, strange)
        await line.beat(6)

    async with following(script) as sidecar:
        line_of = sidecar.store.lines
        await eventually(lambda: line_of and len(line_of[0].acknowledgements()) == 2)
        refusal = line_of[0].acknowledgements()[1].refusals[0]
    assert (refusal.kind, refusal.id, list(refusal.problems)) == (9, "x", ["this sidecar knows no records of kind 9"])
    assert sidecar.states[-1][1] is False


async def test_a_silent_stream_is_closed() -> None:
    """Without a heartbeat the stream counts as dead, even if it is open; the state in force stays."""

    async def silent(line: Line) -> None:
        if line.hello.revision:
            await resuming(line)
        await line.snapshot(5, record("agent-a"))
        await asyncio.Event().wait()

    async with following(silent, timing=IMPATIENT) as sidecar:
        await eventually(lambda: sidecar.store.lines and sidecar.store.lines[-1].hello.revision == 5)
        assert sidecar.agents() == {"agent-a"}


async def test_a_store_that_reports_a_revision_without_sending_it_is_asked_for_a_snapshot() -> None:
    """The heartbeats reveal a change that the store lost."""

    async def losing(line: Line) -> None:
        if line.hello.revision:
            await line.send(welcome=pb.Welcome(epoch="e1", revision=5, resumed=True))
        elif not sidecar.states:
            await line.snapshot(5, record("agent-a"))
        else:
            await line.snapshot(6, record("agent-b"))
        await line.beat(6)

    async with following(losing, timing=IMPATIENT) as sidecar:
        await eventually(lambda: sidecar.revision == 6)
    taken = [(state.revision, set(state.agents)) for state, _ in sidecar.states]
    assert taken[:2] == [(5, {"agent-a"}), (6, {"agent-b"})]


async def test_heartbeats_go_up_with_the_revision_in_force() -> None:
    """Also while nothing changes, so that the store knows the sidecar alive."""
    async with following(steady) as sidecar:
        await eventually(lambda: sidecar.revision == 5)
        line = sidecar.store.lines[0]
        await eventually(lambda: sum(one.heartbeat.revision == 5 for one in line.heard) >= 3)


async def test_after_a_clean_end_the_next_stream_opens_at_once() -> None:
    """A clean end is not a failure, so there is no back-off, which would be longer than the test."""
    patient = replace(QUICK, backoff_first=1e6, backoff_max=1e6)
    async with following(ending, resuming, timing=patient) as sidecar:
        await eventually(lambda: len(sidecar.store.lines) == 2)


async def test_a_refused_key_is_logged_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    """A key that is allowed later lets the sidecar in."""

    async def refusing(line: Line) -> None:
        await line.context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key is revoked")

    async with following(refusing, refusing, steady) as sidecar:
        await eventually(lambda: sidecar.revision == 5)
    assert "it refuses the key in `--key-file` (the key is revoked)" in caplog.text


async def test_data_is_live_only_while_a_stream_confirms_it() -> None:
    """When the stream ends the same data is cached, as old as it is; while the next one catches up it stays so."""
    ends, changes = asyncio.Event(), asyncio.Event()

    async def breaking(line: Line) -> None:
        await line.snapshot(5, record("agent-a"))
        await ends.wait()
        await line.context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    async def catching_up(line: Line) -> None:
        await line.send(welcome=pb.Welcome(epoch="e1", revision=6, resumed=True))
        await line.send(heartbeat=pb.Heartbeat(revision=6))
        await changes.wait()
        await line.change(5, 6, record("agent-b"))
        await line.beat(6)

    async with following(breaking, catching_up) as sidecar:
        await eventually(lambda: sidecar.holder.source is Source.LIVE)
        state = sidecar.holder.current
        ends.set()
        await eventually(lambda: sidecar.holder.source is Source.CACHED)
        await eventually(lambda: len(sidecar.store.lines) == 2 and sidecar.store.lines[1].heard)
        sidecar.now = Now(NOW.wall + 60, NOW.boot + 60)
        assert (sidecar.holder.source, sidecar.holder.current) == (Source.CACHED, state)
        assert sidecar.holder.staleness(sidecar.now.boot) == 60
        changes.set()
        await eventually(lambda: sidecar.holder.source is Source.LIVE)
        await eventually(lambda: sidecar.holder.staleness(sidecar.now.boot) == 0)
        assert sidecar.agents() == {"agent-a", "agent-b"}


async def test_a_stream_that_is_silent_for_a_while_stays_live() -> None:
    """It is dead only after its time, even if the data is old by the clock."""

    async def silent(line: Line) -> None:
        await line.snapshot(5, record("agent-a"))
        await asyncio.Event().wait()

    async with following(silent) as sidecar:
        await eventually(lambda: sidecar.holder.source is Source.LIVE)
        sidecar.now = Now(NOW.wall + 4, NOW.boot + 4)
        await eventually(lambda: sum(one.HasField("heartbeat") for one in sidecar.store.lines[0].heard) >= 3)
        assert sidecar.holder.source is Source.LIVE
        assert sidecar.holder.staleness(sidecar.now.boot) == 4


async def test_a_heartbeat_confirms_what_the_store_held_when_it_was_sent() -> None:
    """A heartbeat that waited while this process was suspended does not make the data fresh."""

    async def script(line: Line) -> None:
        await line.send(welcome=pb.Welcome(epoch="e1", revision=5, uptime=100, sent_at=NOW.wall))
        await line.records(5, record("agent-a"))
        await eventually(line.acknowledgements)
        sidecar.now = Now(NOW.wall + 60, NOW.boot + 60)
        await line.send(heartbeat=pb.Heartbeat(revision=5, uptime=102, sent_at=NOW.wall + 2))
        await asyncio.Event().wait()

    async with following(script) as sidecar:
        await eventually(lambda: sidecar.holder.confirmed_at == NOW.boot + 2)
        assert sidecar.holder.staleness(sidecar.now.boot) == 58
        assert sidecar.store_clock.offset == 0


async def test_the_offset_of_the_stores_clock_is_measured() -> None:
    """From the first message on, and by each heartbeat."""

    async def script(line: Line) -> None:
        await line.send(welcome=pb.Welcome(epoch="e1", revision=5, uptime=100, sent_at=NOW.wall + 3))
        await line.records(5, record("agent-a"))
        await eventually(lambda: sidecar.store_clock.offset == 3)
        await line.send(heartbeat=pb.Heartbeat(revision=5, uptime=100, sent_at=NOW.wall - 7200))
        await asyncio.Event().wait()

    async with following(script) as sidecar:
        await eventually(lambda: sidecar.store_clock.offset == -7200)
        assert sidecar.holder.source is Source.LIVE


async def test_a_refused_key_is_known_until_the_store_accepts_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once for any number of tries, and an outage of the store does not change it."""
    caplog.set_level("INFO")
    again = asyncio.Event()

    async def revoking(line: Line) -> None:
        await ending(line)
        await line.context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key is revoked")

    async def refusing(line: Line) -> None:
        await line.context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key is revoked")

    async def away(line: Line) -> None:
        if not again.is_set():
            await line.context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        await resuming(line)

    async with following(revoking, refusing, away) as sidecar:
        await eventually(lambda: sidecar.holder.key_revoked)
        await eventually(lambda: len(sidecar.store.lines) >= 5)
        assert sidecar.holder.key_revoked
        assert (sidecar.holder.source, sidecar.agents()) == (Source.CACHED, {"agent-a"})
        again.set()
        await eventually(lambda: sidecar.holder.source is Source.LIVE)
        assert not sidecar.holder.key_revoked
    said = [record.message for record in caplog.records if record.message.startswith("the store ")]
    assert said == [
        "the store refuses the key in `--key-file` (the key is revoked): until there is a new key, no change and no "
        "emergency stop arrives, and revision 5 stays in force",
        "the store accepts the key in `--key-file` again",
    ]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_an_unreachable_or_busy_store_is_not_a_refused_key(code: grpc.StatusCode) -> None:
    """Only UNAUTHENTICATED means a refused key."""

    async def failing(line: Line) -> None:
        await line.context.abort(code, "not now")

    async with following(failing) as sidecar:
        await eventually(lambda: len(sidecar.store.lines) >= 3)
        assert not sidecar.holder.key_revoked


async def test_an_internal_error_does_not_end_the_subscription(caplog: pytest.LogCaptureFixture) -> None:
    """A state that cannot be handed on is logged, and the store is asked again."""
    async with scripted(steady) as (store, address):
        metrics, faults = Metrics(), iter([OSError("once")])

        def failing(_state: State, _complete: bool) -> None:
            for fault in faults:
                raise fault

        holder = Holder()
        replica = Replica(holder, metrics, failing)
        node = Node("node-1", Subscription(), host_and_port("store", address))
        task = asyncio.create_task(
            Subscriber(
                node, Access(lambda: "owkai_test"), replica, metrics, Uplink(), clock=lambda: NOW, timing=QUICK
            ).run()
        )
        await eventually(lambda: len(store.lines) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert "internal error while applying the store's records" in caplog.text


async def test_the_key_is_read_anew_for_each_stream(tmp_path: Path) -> None:
    """A rotated key is used without a restart; a missing file is retried."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text("owkai_first\n")

    async def ending(line: Line) -> None:
        await line.snapshot(5, record("agent-a"))
        path.write_text("owkai_second\n")

    async with scripted(ending, steady) as (store, address):
        replica = Replica(Holder(), Metrics(), lambda _state, _complete: None)
        node = Node("node-1", Subscription(tags=("x",)), host_and_port("store", address))
        task = asyncio.create_task(
            Subscriber(
                node, Access(lambda: read_key(path)), replica, Metrics(), Uplink(), clock=lambda: NOW, timing=QUICK
            ).run()
        )
        await eventually(lambda: len(store.keys) >= 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert store.keys[:2] == ["Bearer owkai_first", "Bearer owkai_second"]
        assert list(store.lines[0].hello.subscription.tags.tags) == ["x"]
    path.unlink()
    with pytest.raises(SettingsError, match="`--key-file`: cannot read"):
        read_key(path)


async def test_a_subscriber_that_is_cancelled_at_any_moment_ends() -> None:
    """Also while its call to a missing store is being set up, when gRPC loses the cancellation."""
    replica = Replica(Holder(), Metrics(), lambda *_: None)
    node = Node("node", Subscription(), host_and_port("--store", "127.0.0.1:1"))
    timing = Timing(backoff_first=0.001, backoff_max=0.002)
    subscriber = Subscriber(node, Access(lambda: "key"), replica, Metrics(), Uplink(), clock=lambda: NOW, timing=timing)
    for number in range(200):
        task = asyncio.create_task(subscriber.run())
        await asyncio.sleep(number % 100 * 50e-6)  # the moment is between two answers of the network, not two turns
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([task])
        assert task.cancelled()
