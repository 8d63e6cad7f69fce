"""The subscription: follows the store, revision by revision.

A change is applied only if it follows the revision in force. Any inconsistency ends the stream, and the next stream
asks for a new snapshot.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from pdp.core.fields import quote
from pdp.core.model import Now
from pdp.metrics import Metrics
from pdp.serving.addresses import Address
from pdp.serving.backoff import Backoff
from pdp.serving.version import VERSION
from pdp.settings import SettingsError, Subscription
from pdp.sync.replica import BrokenStreamError, OutOfOrderError, Records, Refusal, Replica
from pdp.sync.store_clock import StoreClock, StreamClock
from pdp.sync.uplink import Metadata, Uplink, raise_if_cancelled
from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncStub

MAX_MESSAGE_BYTES = 64 << 20
MAX_SNAPSHOT_BYTES = 1 << 30
MAX_SNAPSHOT_RECORDS = 1_000_000
MAX_QUEUED = 256
MAX_REFUSALS = 100
MAX_PROBLEMS = 20

# A separate pool, so that a new channel connects at once instead of waiting for gRPC's own back-off.
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)

logger = logging.getLogger(__name__)

Call = grpc.aio.StreamStreamCall[pb.SidecarMessage, pb.StoreMessage]
Down = AsyncGenerator[pb.StoreMessage, None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Every wait of the subscription, in seconds; a stream that lived `settled_after` ends a run of failures."""

    heartbeat: float = 1.0
    dead_after: float = 5.0
    snapshot_timeout: float = 300.0
    settled_after: float = 5.0
    backoff_first: float = 0.5
    backoff_max: float = 30.0


class Node(NamedTuple):
    """The subscriber: its id, its subscription, its store, and the name that people call it by."""

    node_id: str
    subscription: Subscription
    store: Address
    name: str = ""


class Access(NamedTuple):
    """How the store lets this sidecar in; both are read anew for each stream, so that new ones are picked up.

    Without a `key` the certificate in the `credentials` stands in for it; without `credentials` there is no TLS.
    """

    key: Callable[[], str] | None
    credentials: Callable[[], grpc.ChannelCredentials] | None = None
    failure: Callable[[], str | None] = lambda: None
    """What is wrong with TLS to the store, as another connection shows; it blocks."""

    def metadata(self) -> Metadata:
        """What each call carries; `SettingsError` if the key cannot be read."""
        return () if self.key is None else (("authorization", f"Bearer {self.key()}"),)

    def channel(self, store: Address) -> grpc.aio.Channel:
        """A new channel to the store; `SettingsError` if the files of TLS cannot be used."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(str(store), options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(str(store), self.credentials(), options=CHANNEL_OPTIONS)

    @property
    def shown(self) -> str:
        """The setting of what the store may refuse."""
        return "the certificate in `--store-cert`" if self.key is None else "the key in `--key-file`"


class Subscriber:
    """Keeps a replica at the store's newest revision while `run` runs."""

    def __init__(
        self,
        node: Node,
        access: Access,
        replica: Replica,
        metrics: Metrics,
        uplink: Uplink,
        *,
        clock: Callable[[], Now],
        timing: Timing = Timing(),
    ) -> None:
        self.store_clock = StoreClock(clock)
        self._node = node
        self._access = access
        self._replica = replica
        self._metrics = metrics
        self._uplink = uplink
        self._timing = timing
        self._backoff = Backoff(timing.backoff_first, timing.backoff_max)
        self._stream: _Stream | None = None
        self._leaving = False

    def leave(self) -> bool:
        """Ends the stream as one that stops does, so that the store expects nothing more; `run` then returns.

        False if there is no stream: `run` must be cancelled.
        """
        self._leaving = True
        return self._stream is not None and self._stream.leave()

    async def run(self) -> None:
        """Follows the store from stream to stream, until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            began = clock()
            broken = await self._one_stream()
            self._stream = None
            raise_if_cancelled()
            self._metrics.sync_state("disconnected")
            if self._leaving:
                return
            settled = clock() - began >= self._timing.settled_after
            if broken is None and settled:
                failures = 0
                logger.info("the store closed the stream (scheduled rotation)")
            else:
                failures = 1 if settled else failures + 1
                await self._back_off(failures, broken or "the store closed the stream at once")
            self._metrics.reconnect()

    async def _back_off(self, failures: int, reason: str) -> None:
        delay = self._backoff.seconds(failures)
        logger.warning("no sync with the store at %s: %s; again in %.1f s", self._node.store, reason, delay)
        await asyncio.sleep(delay)

    async def _one_stream(self) -> str | None:
        """Runs one stream from hello to its end; None if the store closed it, else the error."""
        try:
            metadata = self._access.metadata()
            async with self._access.channel(self._node.store) as channel:
                clock = self.store_clock.stream()
                self._stream = _Stream(self._node, self._replica, self._metrics, self._timing, clock)
                await self._stream.converse(channel, metadata, self._uplink)
        except OutOfOrderError as error:
            self._replica.needs_snapshot = True
            return f"{error}; the next stream begins with a snapshot"
        except (BrokenStreamError, SettingsError) as error:
            return str(error)
        except TimeoutError:
            return f"no usable message for {self._timing.dead_after:g} s"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                self._replica.key_revoked(error.details() or "")
            if error.code() is grpc.StatusCode.UNAVAILABLE and (why := await asyncio.to_thread(self._access.failure)):
                return why
            return _error_text(error, self._access.shown)
        except Exception:
            logger.exception("internal error while applying the store's records")
            return "an internal error of this sidecar"
        return None


class _Stream:
    """One stream, from hello to its end."""

    def __init__(self, node: Node, replica: Replica, metrics: Metrics, timing: Timing, clock: StreamClock) -> None:
        self._node = node
        self._replica = replica
        self._metrics = metrics
        self._timing = timing
        self._clock = clock
        self._outbox: asyncio.Queue[pb.SidecarMessage | None] = asyncio.Queue(MAX_QUEUED)
        """Messages to the store; None ends the stream."""
        self._newest = 0
        self._newest_at = 0.0
        """When the store sent `_newest`, by the boot clock."""
        self._behind_since: float | None = None

    def leave(self) -> bool:
        """Says no more; the store then closes the stream. False if that cannot be said."""
        with suppress(asyncio.QueueFull):
            self._outbox.put_nowait(None)
            return True
        return False

    async def converse(self, channel: grpc.aio.Channel, metadata: Metadata, uplink: Uplink) -> None:
        """Says hello, catches up and follows, until the store closes the stream or the stream fails.

        Meanwhile uploads may use the same channel.
        """
        self._put(pb.SidecarMessage(hello=self._hello()))
        call = RegistrySyncStub(channel).Sync(metadata=metadata)
        tasks = [asyncio.create_task(self._up(call)), asyncio.create_task(self._beat())]
        try:
            async with aclosing(self._down(call)) as messages:
                await self._catch_up(messages)
                with uplink.connected(channel, metadata):
                    async for message in messages:
                        await self._take(message)
        finally:
            self._replica.disconnected()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()

    async def _catch_up(self, messages: Down) -> None:
        self._metrics.sync_state("catching_up")
        async with asyncio.timeout(self._timing.snapshot_timeout):
            welcome = (await _next(messages, "welcome")).welcome
            self._replica.key_accepted()
            self._note_newest(welcome)
            epoch, revision = self._replica.position
            if not welcome.resumed:
                records, revision = await _snapshot(messages)
                self._acknowledge(revision, await self._replica.replace(records, welcome.epoch, revision))
            elif not revision or epoch != welcome.epoch or welcome.revision < revision:
                raise OutOfOrderError(f"the store resumed from revision {revision}, which it cannot have")
        logger.info("in sync from revision %d of epoch %s on", revision, quote(welcome.epoch))
        self._newest = max(welcome.revision, revision)
        self._compare()

    async def _take(self, message: pb.StoreMessage) -> None:
        match message.WhichOneof("message"):
            case "change":
                await self._advance(message.change)
            case "heartbeat":
                self._note_newest(message.heartbeat)
                self._compare()
            case other:
                raise OutOfOrderError(f"`{other}` came between changes")

    async def _advance(self, change: pb.Change) -> None:
        records = Records()
        for record in change.records:
            records.add(record.kind, record.id, record.document)
        refused = await self._replica.advance(change.from_revision, change.to_revision, records)
        self._acknowledge(change.to_revision, refused)
        self._behind_since = None
        self._newest = max(self._newest, change.to_revision)
        self._compare()

    def _note_newest(self, message: pb.Welcome | pb.Heartbeat) -> None:
        """Notes the newest revision that the store reports, and when it was sent."""
        self._newest, self._newest_at = message.revision, self._clock.heard(message)

    def _compare(self) -> None:
        """Compares the revision that the store reports with the one in force, and confirms it if they are equal.

        They may differ for a moment: a change is on its way, or another store wrote the newest one.
        """
        newest, mine = self._newest, self._replica.revision
        if newest == mine:
            self._behind_since = None
            self._replica.confirm(self._newest_at)
            return
        now = asyncio.get_running_loop().time()
        self._behind_since = self._behind_since or now
        if now - self._behind_since > self._timing.dead_after:
            raise OutOfOrderError(f"the store reports revision {newest}, but sends no change from revision {mine}")

    async def _down(self, call: Call) -> Down:
        while True:
            async with asyncio.timeout(self._timing.dead_after):
                message = await call.read()
            if not isinstance(message, pb.StoreMessage):
                return  # the end of the stream
            yield message

    async def _up(self, call: Call) -> None:
        # The concurrent read ends the stream and has a better error than a failed write.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while (message := await self._outbox.get()) is not None:
                await call.write(message)
            await call.done_writing()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._timing.heartbeat)
            # A store that does not read this many messages ends the stream itself, because it gets no heartbeat.
            if not self._outbox.full():
                self._put(pb.SidecarMessage(heartbeat=pb.Heartbeat(revision=self._replica.revision)))

    def _acknowledge(self, revision: int, refused: Sequence[Refusal]) -> None:
        refusals = [_refusal_message(one) for one in refused[:MAX_REFUSALS]]
        self._put(pb.SidecarMessage(acknowledgement=pb.Acknowledgement(revision=revision, refusals=refusals)))

    def _put(self, message: pb.SidecarMessage) -> None:
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            raise BrokenStreamError("the store does not read") from None

    def _hello(self) -> pb.Hello:
        epoch, revision = self._replica.position
        return pb.Hello(
            node_id=self._node.node_id,
            epoch=epoch,
            revision=revision,
            subscription=_subscription(self._node.subscription),
            version=VERSION,
            node_name=self._node.name,
        )


async def _snapshot(messages: Down) -> tuple[Records, int]:
    """The records and revision of a snapshot, or `OutOfOrderError` if any of it is missing or changed."""
    begin = (await _next(messages, "snapshot_begin")).snapshot_begin
    if not 0 <= begin.records <= MAX_SNAPSHOT_RECORDS:
        raise BrokenStreamError(f"a snapshot of {begin.records} records is more than {MAX_SNAPSHOT_RECORDS}")
    digest, records, size = hashlib.sha256(), Records(), 0
    while (message := await _next(messages, "snapshot_chunk", "snapshot_end")).HasField("snapshot_chunk"):
        for record in message.snapshot_chunk.records:
            document = record.document
            digest.update(document)
            size += len(document)
            records.add(record.kind, record.id, document)
        if len(records) > begin.records or size > MAX_SNAPSHOT_BYTES:
            raise BrokenStreamError(f"a snapshot is larger than announced, or than {MAX_SNAPSHOT_BYTES} bytes")
    end = message.snapshot_end
    if (end.revision, end.sha256, len(records)) != (begin.revision, digest.digest(), begin.records):
        raise OutOfOrderError(f"the snapshot of revision {begin.revision} does not match its checksum")
    return records, begin.revision


async def _next(messages: Down, *expected: str) -> pb.StoreMessage:
    async for message in messages:
        name = message.WhichOneof("message")
        if name in expected:
            return message
        if name != "heartbeat":
            raise OutOfOrderError(f"`{name}` came in place of `{' or '.join(expected)}`")
    raise BrokenStreamError(f"the store closed the stream before `{' or '.join(expected)}`")


def _refusal_message(one: Refusal) -> pb.Refusal:
    kind: Any = one.kind  # the stub wants the enum's wrapper, which an unknown kind does not have
    return pb.Refusal(kind=kind, id=one.id, problems=one.problems[:MAX_PROBLEMS])


def _subscription(subscription: Subscription) -> pb.Subscription:
    if subscription.agents:
        return pb.Subscription(agents=pb.Subscription.Agents(agent_ids=subscription.agents))
    if subscription.tags:
        return pb.Subscription(tags=pb.Subscription.Tags(tags=subscription.tags))
    return pb.Subscription(all=pb.Subscription.All())


def _error_text(error: grpc.aio.AioRpcError, shown: str) -> str:
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return f"it refuses {shown} ({error.details()})"
        case grpc.StatusCode.PERMISSION_DENIED:
            return f"it does not let {shown} sync ({error.details()})"
        case code:
            return f"{code.name}: {error.details()}"
