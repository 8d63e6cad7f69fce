"""`registry_store.v1.RegistrySync/Sync`: sends the feed to each subscriber."""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from pdp.core.model import RecordKind
from registry_store.access import scopes
from registry_store.access.keys import Caller
from registry_store.journal import revisions
from registry_store.rpc.calls import (
    SERVICE,
    CallEndedError,
    Context,
    Handler,
    OpenStreams,
    authenticated,
    close,
    ended_by,
    parsed,
)
from registry_store.store import Store
from registry_store.sync import nodes, subscriptions
from registry_store.sync.feed import Step, step_from
from registry_store.sync.messages import check_hello, chunks, record_message, refusals, subscription
from registry_store.sync.sidecars import Sidecar
from registry_store.sync.subscriptions import Subscription
from registry_store.v1 import sync_pb2 as pb

logger = logging.getLogger(__name__)

MAX_SNAPSHOTS = 4
MAX_SNAPSHOTS_PER_SECOND = 50
READ_TIMEOUT = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the sidecar does not read")


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a stream, in seconds."""

    heartbeat: float = 1.0
    silence: float = 5.0
    """A stream without a heartbeat for this long is dead; the store sends none while its database is unreachable."""
    send: float = 1.0
    """A subscriber that reads nothing for this long is disconnected."""
    lifetime: tuple[float, float] = (300.0, 600.0)
    """The store closes each stream at a random time in this range, so that sidecars spread over the stores."""


PACE = Pace()


class RegistrySync:
    """The method `Sync`."""

    def __init__(self, store: Store, streams: OpenStreams, pace: Pace) -> None:
        self.store = store
        self.streams = streams
        self.pace = pace
        self.gate = _SnapshotGate()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The handlers to add to a `grpc.aio` server."""
        sync: Handler = grpc.stream_stream_rpc_method_handler(
            self._sync,
            response_serializer=pb.StoreMessage.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Sync": sync})

    async def _sync(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        code = grpc.StatusCode.CANCELLED
        try:
            ended = await self._serve(context)
            code = ended.code
        finally:
            self.store.metrics.streams_ended.labels(code.name.lower()).inc()
        if code is not grpc.StatusCode.OK:
            await close(context, ended)

    async def _serve(self, context: Context) -> CallEndedError:
        try:
            caller = await authenticated(self.store, context)
            hello = await _hello(context, self.pace.silence)
            stream = _Stream(self, context, caller, hello, await self._accept(caller, hello))
            async with self.streams.opened(context, caller, stream.end):
                await stream.run(random.uniform(*self.pace.lifetime))  # noqa: S311 - spreads load, guards nothing
        except Exception as error:
            return ended_by(error)
        return CallEndedError(grpc.StatusCode.OK, "")

    async def _accept(self, caller: Caller, hello: pb.Hello) -> Subscription:
        """The subscription within the scope of the key; also claims the node id for keys of this name."""
        wanted = subscription(hello.subscription)
        followed = scopes.narrowed(caller, wanted)
        await nodes.claim(self.store.database, hello.node_id, caller.name, datetime.now(UTC))
        if followed != wanted:
            await self._log_left_out(caller, hello.node_id, wanted)
        return followed

    async def _log_left_out(self, caller: Caller, node_id: str, wanted: Subscription) -> None:
        async with self.store.database.reading() as session:
            left_out = sorted(await scopes.outside(session, caller, wanted.agent_ids or frozenset()))
        if left_out:
            logger.warning(
                "sidecar `%s` does not get %d agents, because they have none of the tags of its key; the first is `%s`",
                node_id,
                len(left_out),
                left_out[0],
            )


class _Stream:
    """One subscriber; the first of its tasks that ends also ends the stream."""

    def __init__(
        self, service: RegistrySync, context: Context, caller: Caller, hello: pb.Hello, followed: Subscription
    ) -> None:
        self.caller = caller
        self._store = store = service.store
        self._pace = service.pace
        self._gate = service.gate
        self._context = context
        self._hello = hello
        self._subscription = followed
        self._sending = asyncio.Lock()
        self._stuck = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._history = store.feed.history
        self._revision = 0
        now = datetime.now(UTC)
        self._sidecar = Sidecar(
            node_id=hello.node_id,
            key_id=caller.key_id,
            key_name=caller.name,
            node_name=hello.node_name,
            software_version=hello.version,
            subscription=self._subscription,
            connected_at=now,
            last_heard_at=now,
        )

    def end(self, why: CallEndedError) -> None:
        """Close the stream from outside."""
        if not self._end.done():
            self._end.set_exception(why)

    async def run(self, seconds: float) -> None:
        """Serve the subscriber for at most `seconds`; raises `CallEndedError` unless the stream ends normally."""
        with _logged(self._sidecar, self._store.sidecars.connected(self._sidecar)):
            await self._run(seconds)

    async def _run(self, seconds: float) -> None:
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._beat(), self._follow())]
        try:
            done, _ = await asyncio.wait([*tasks, self._end], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            self._sidecar.rotated = not done
        finally:
            self._sidecar.connected = False
            self._end.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, self._end, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            message = await _read(self._context, self._pace.silence)
            if message is None:
                self._sidecar.left = True
                return
            self._sidecar.last_heard_at = datetime.now(UTC)
            match message.WhichOneof("message"):
                case "acknowledgement":
                    self._acknowledged(message.acknowledgement)
                case "hello":
                    raise CallEndedError(
                        grpc.StatusCode.INVALID_ARGUMENT, "`hello` is only allowed as the first message"
                    )

    async def _beat(self) -> None:
        while True:
            silence = time.monotonic() - self._store.feed.confirmed_at
            if silence > self._pace.silence:
                raise CallEndedError(grpc.StatusCode.UNAVAILABLE, "the store's database is out of reach")
            if silence < self._pace.silence / 2:
                heartbeat = pb.Heartbeat(revision=self._store.feed.revision, **_clocks())
                await self._send(pb.StoreMessage(heartbeat=heartbeat))
            await asyncio.sleep(self._pace.heartbeat)

    async def _follow(self) -> None:
        feed = self._store.feed
        await self._begin()
        while not feed.closed and feed.history == self._history:
            if self._revision >= feed.revision:
                await feed.wait_for_news()
                continue
            step = feed.after(self._revision) or await self._step_from(self._revision)
            if step is None:
                return  # too far behind for changes: the sidecar reconnects and gets a snapshot
            await self._send_step(step)

    async def _begin(self) -> None:
        epoch, hello = self._store.feed.epoch, self._hello
        # The scope of a narrowed subscription may have shrunk since the last connection, and no change reports that.
        may_resume = hello.revision and hello.epoch == epoch and not self._subscription.is_narrowed
        step = await self._step_from(hello.revision) if may_resume else None
        if step is None:
            async with self._gate.turn():
                await self._send_snapshot()
            return
        welcome = pb.Welcome(epoch=epoch, revision=step.upto, resumed=True, **_clocks())
        await self._send(pb.StoreMessage(welcome=welcome))
        self._revision = self._sidecar.acknowledged_revision = hello.revision
        if step.upto > step.after:
            await self._send_step(step)

    async def _step_from(self, revision: int) -> Step | None:
        async with self._store.database.reading() as session:
            return await step_from(session, revision, self._subscription)

    async def _send_step(self, step: Step) -> None:
        records = [
            record_message(record, document)
            for record in step.records
            if (document := self._subscription.view(record)) is not None
        ]
        change = pb.Change(
            from_revision=self._revision,
            to_revision=step.upto,
            records=records,
            committed_at=step.committed_at,
        )
        named = frozenset((RecordKind(record.kind), record.id) for record in records)
        self._sidecar.sent(step.upto, step.committed_at if records else 0.0, named)
        await self._send(pb.StoreMessage(change=change))
        self._revision = step.upto

    async def _send_snapshot(self) -> None:
        async with self._store.database.reading() as session:
            meta = await revisions.meta(session)
            welcome = pb.Welcome(epoch=meta.epoch, revision=meta.revision, resumed=False, **_clocks())
            await self._send(pb.StoreMessage(welcome=welcome))
            total = await subscriptions.count(session, self._subscription)
            begin = pb.SnapshotBegin(revision=meta.revision, records=total)
            await self._send(pb.StoreMessage(snapshot_begin=begin))
            self._sidecar.sent(meta.revision, 0.0, None)
            sha256 = hashlib.sha256()
            async with aclosing(chunks(subscriptions.snapshot(session, self._subscription))) as pieces:
                async for chunk in pieces:
                    for record in chunk.records:
                        sha256.update(record.document)
                    await self._send(pb.StoreMessage(snapshot_chunk=chunk))
        end = pb.SnapshotEnd(revision=meta.revision, sha256=sha256.digest())
        await self._send(pb.StoreMessage(snapshot_end=end))
        self._revision = meta.revision
        self._store.metrics.snapshots.inc()

    async def _send(self, message: pb.StoreMessage) -> None:
        async with self._sending:
            if self._stuck:  # a timed-out write is still in progress, and gRPC allows only one at a time
                raise CallEndedError(*READ_TIMEOUT)
            writing = asyncio.create_task(self._context.write(message))
            writing.add_done_callback(_retrieve_exception)  # also if the stream has ended and nothing awaits it
            try:
                # Unlike `timeout`, `wait` checks the write once more: the store itself may have been blocked.
                await asyncio.wait([writing], timeout=self._pace.send)
                self._stuck = not writing.done()
            finally:
                writing.cancel()
            if self._stuck:
                raise CallEndedError(*READ_TIMEOUT)
            await writing

    def _acknowledged(self, message: pb.Acknowledgement) -> None:
        refused = refusals(message)
        for refusal in refused:
            logger.warning("sidecar `%s` refuses `%s`: %s", self._sidecar.node_id, refusal.id, refusal.problems)
        self._store.metrics.refusals.inc(len(refused))
        now = time.time()
        for committed_at in self._sidecar.acknowledged(message.revision, refused):
            self._store.metrics.propagation_seconds.observe(max(0.0, now - committed_at))


@contextmanager
def _logged(sidecar: Sidecar, before: Sidecar | None) -> Iterator[None]:
    """Logs that the sidecar connects and disconnects; a scheduled rotation only at level debug."""
    extra = {"node_id": sidecar.node_id, "key_id": sidecar.key_id, "key_name": sidecar.key_name}
    level = logging.DEBUG if before is not None and before.rotated else logging.INFO
    template = "sidecar `%s` connected: node name `%s`, key `%s`, version `%s`, %s"
    scope = _scope(sidecar.subscription)
    values = (sidecar.node_id, sidecar.node_name, sidecar.key_name, sidecar.software_version, scope)
    logger.log(level, template, *values, extra=extra)
    why = "the sidecar closed the stream, or the store is stopping"
    try:
        yield
    except BaseException as error:
        why = str(error) or "connection lost"
        raise
    finally:
        if sidecar.rotated:
            logger.debug("sidecar `%s` disconnected: scheduled rotation", sidecar.node_id, extra=extra)
        else:
            logger.info("sidecar `%s` disconnected: %s", sidecar.node_id, why, extra=extra)


def _scope(subscription: Subscription) -> str:
    if subscription.agent_ids is not None:
        return f"{len(subscription.agent_ids)} agents"
    return "all agents" if subscription.tags is None else f"agents of {len(subscription.tags)} tags"


class _SnapshotGate:
    """Limits the concurrent snapshots, and how many start in a second."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_SNAPSHOTS)
        self._next = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a free slot, and holds it while the block runs."""
        async with self._slots:
            start = max(self._next, time.monotonic())
            self._next = start + 1 / MAX_SNAPSHOTS_PER_SECOND
            await asyncio.sleep(start - time.monotonic())
            yield


def _clocks() -> dict[str, float]:
    """The fields of a message that hold the time at which it is sent."""
    return {"sent_at": time.time(), "uptime": time.monotonic()}


async def _hello(context: Context, seconds: float) -> pb.Hello:
    message = await _read(context, seconds)
    if message is None or message.WhichOneof("message") != "hello":
        raise CallEndedError(grpc.StatusCode.INVALID_ARGUMENT, "the first message is not `hello`")
    check_hello(message.hello)
    return message.hello


async def _read(context: Context, seconds: float) -> pb.SidecarMessage | None:
    """The next message; None at the end of the stream."""
    try:
        async with asyncio.timeout(seconds):
            raw = await context.read()
    except TimeoutError:
        why = f"no message for {seconds:g} s"
        raise CallEndedError(grpc.StatusCode.DEADLINE_EXCEEDED, why) from None
    return parsed(pb.SidecarMessage, raw) if isinstance(raw, bytes) else None


def _retrieve_exception(task: asyncio.Task[None]) -> None:
    """Retrieve the exception, so that asyncio does not log it as never retrieved."""
    if not task.cancelled():
        task.exception()
