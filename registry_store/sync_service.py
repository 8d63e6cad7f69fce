"""`registry_store.v1.RegistrySync`: the feed → each subscriber."""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import grpc

from pdp.core.errors import InvalidRecord
from registry_store import changes, keys, subscriptions
from registry_store.changes import Kind
from registry_store.database import is_unavailable
from registry_store.errors import NotAuthenticated, TooManyFailures
from registry_store.feed import Step, step_from
from registry_store.keys import Caller, Role
from registry_store.sidecars import Sidecar
from registry_store.store import Store
from registry_store.sync_messages import check_hello, chunks, record_message, refusals, subscription
from registry_store.v1 import sync_pb2 as pb

logger = logging.getLogger(__name__)

SNAPSHOTS_AT_ONCE = 4
SNAPSHOTS_PER_SECOND = 50
KEY_CHECK_SECONDS = 0.5
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a stream, in seconds."""

    heartbeat: float = 1.0
    silence: float = 5.0
    """Without a heartbeat for so long a stream is dead; the store keeps silent when its database does."""
    send: float = 1.0
    """A subscriber that takes nothing for so long is dropped."""
    lifetime: tuple[float, float] = (300.0, 600.0)
    """Between these a stream ends by itself, so that sidecars spread over stores."""


PACE = Pace()
Context = grpc.aio.ServicerContext[pb.SidecarMessage, pb.StoreMessage]


class _Ended(Exception):  # noqa: N818 - an end, not always an error
    """Why a stream ends before its time, as its status."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class RegistrySync:
    """The service; `watch_keys` runs beside it."""

    def __init__(self, store: Store, pace: Pace) -> None:
        self.store = store
        self.pace = pace
        self._streams: set[_Stream] = set()
        self.gate = _SnapshotGate()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What to add to a `grpc.aio` server."""
        sync = grpc.stream_stream_rpc_method_handler(
            self._sync,
            request_deserializer=pb.SidecarMessage.FromString,
            response_serializer=pb.StoreMessage.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("registry_store.v1.RegistrySync", {"Sync": sync})

    async def watch_keys(self) -> None:
        """End the streams of keys that are revoked or expire, until cancelled."""
        revoked = self.store.authentication.revoked
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEY_CHECK_SECONDS):
                    await revoked.wait()
            revoked.clear()
            if not self._streams:
                continue
            try:
                await self._check_keys()
            except Exception:
                logger.exception("the keys of open streams cannot be checked")

    async def _check_keys(self) -> None:
        async with self.store.database.reading() as session:
            used = {stream.caller.key_id for stream in self._streams}
            invalid = await keys.invalid_among(session, used, datetime.now(UTC))
        for stream in self._streams:
            if stream.caller.key_id in invalid:
                stream.end(_Ended(grpc.StatusCode.UNAUTHENTICATED, "the key is revoked or has expired"))

    async def _sync(self, _requests: AsyncIterator[pb.SidecarMessage], context: Context) -> None:
        code = grpc.StatusCode.CANCELLED
        try:
            ended = await self._serve(context)
            code = ended.code
        finally:
            self.store.metrics.streams_ended.labels(code.name.lower()).inc()
        if code is not grpc.StatusCode.OK:
            await _close(context, ended)

    async def _serve(self, context: Context) -> _Ended:
        try:
            caller = await self._authenticate(context)
            stream = _Stream(self, context, caller, await _hello(context, self.pace.silence))
            self._streams.add(stream)
            try:
                await stream.run(random.uniform(*self.pace.lifetime))  # noqa: S311 - spreads load, guards nothing
            finally:
                self._streams.discard(stream)
        except _Ended as ended:
            return ended
        except InvalidRecord as error:
            return _Ended(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exception as error:
            return _fault(error)
        return _Ended(grpc.StatusCode.OK, "")

    async def _authenticate(self, context: Context) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        scheme, _, text = str(metadata.get("authorization", "")).partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise NotAuthenticated("the metadata `authorization: Bearer owkai_…` is missing")
            caller = await self.store.authentication.caller(text.strip(), _source(context), datetime.now(UTC))
        except NotAuthenticated as error:
            self.store.metrics.refused_keys.inc()
            raise _Ended(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
        except TooManyFailures as error:
            self.store.metrics.refused_keys.inc()
            raise _Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None
        if caller.role not in (Role.SIDECAR, Role.ADMIN):
            raise _Ended(grpc.StatusCode.PERMISSION_DENIED, f"a key of role {caller.role.value} cannot sync")
        return caller


class _Stream:
    """One subscriber: whatever of its tasks ends first ends the stream."""

    def __init__(self, service: RegistrySync, context: Context, caller: Caller, hello: pb.Hello) -> None:
        self.caller = caller
        self._store = store = service.store
        self._pace = service.pace
        self._gate = service.gate
        self._context = context
        self._hello = hello
        self._subscription = subscription(hello.subscription)
        self._sending = asyncio.Lock()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._history = store.feed.history
        self._revision = 0
        now = datetime.now(UTC)
        self._sidecar = Sidecar(
            node_id=hello.node_id,
            key_id=caller.key_id,
            key_name=caller.name,
            software_version=hello.version,
            subscription=self._subscription,
            connected_at=now,
            last_heard_at=now,
        )

    def end(self, why: _Ended) -> None:
        """Close the stream from outside."""
        if not self._end.done():
            self._end.set_exception(why)

    async def run(self, seconds: float) -> None:
        """Serve the subscriber for at most so long; returns at a clean end, else raises `_Ended`."""
        self._store.sidecars.connected(self._sidecar)
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._beat(), self._follow())]
        try:
            done, _ = await asyncio.wait([*tasks, self._end], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
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
                return
            self._sidecar.last_heard_at = datetime.now(UTC)
            match message.WhichOneof("message"):
                case "acknowledgement":
                    self._acknowledged(message.acknowledgement)
                case "hello":
                    raise _Ended(grpc.StatusCode.INVALID_ARGUMENT, "hello stands first and once")

    async def _beat(self) -> None:
        while True:
            silence = time.monotonic() - self._store.feed.confirmed_at
            if silence > self._pace.silence:
                raise _Ended(grpc.StatusCode.UNAVAILABLE, "the store's database is out of reach")
            if silence < self._pace.silence / 2:
                await self._send(pb.StoreMessage(heartbeat=pb.Heartbeat(revision=self._store.feed.revision)))
            await asyncio.sleep(self._pace.heartbeat)

    async def _follow(self) -> None:
        feed = self._store.feed
        await self._begin()
        while not feed.closed and feed.history == self._history:
            if self._revision >= feed.revision:
                await feed.news()
                continue
            step = feed.after(self._revision) or await self._step_from(self._revision)
            if step is None:
                return  # too far behind for changes: the sidecar comes back, and gets a snapshot
            await self._send_step(step)

    async def _begin(self) -> None:
        epoch, hello = self._store.feed.epoch, self._hello
        step = await self._step_from(hello.revision) if hello.revision and hello.epoch == epoch else None
        if step is None:
            async with self._gate.turn():
                await self._send_snapshot()
            return
        await self._send(pb.StoreMessage(welcome=pb.Welcome(epoch=epoch, revision=step.upto, resumed=True)))
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
        named = frozenset((Kind(record.kind), record.id) for record in records)
        self._sidecar.sent(step.upto, step.committed_at if records else 0.0, named)
        await self._send(pb.StoreMessage(change=change))
        self._revision = step.upto

    async def _send_snapshot(self) -> None:
        async with self._store.database.reading() as session:
            meta = await changes.meta(session)
            welcome = pb.Welcome(epoch=meta.epoch, revision=meta.revision, resumed=False)
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
            try:
                async with asyncio.timeout(self._pace.send):
                    await self._context.write(message)
            except TimeoutError:
                raise _Ended(grpc.StatusCode.RESOURCE_EXHAUSTED, "nothing was read in time") from None

    def _acknowledged(self, message: pb.Acknowledgement) -> None:
        refused = refusals(message)
        for refusal in refused:
            logger.warning("sidecar `%s` refuses `%s`: %s", self._sidecar.node_id, refusal.id, refusal.problems)
        self._store.metrics.refusals.inc(len(refused))
        now = time.time()
        for committed_at in self._sidecar.acknowledged(message.revision, refused):
            self._store.metrics.propagation_seconds.observe(max(0.0, now - committed_at))


class _SnapshotGate:
    """Bounds how many snapshots are under way, and how many begin in a second."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(SNAPSHOTS_AT_ONCE)
        self._next = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn."""
        async with self._places:
            start = max(self._next, time.monotonic())
            self._next = start + 1 / SNAPSHOTS_PER_SECOND
            await asyncio.sleep(start - time.monotonic())
            yield


async def _hello(context: Context, seconds: float) -> pb.Hello:
    message = await _read(context, seconds)
    if message is None or message.WhichOneof("message") != "hello":
        raise _Ended(grpc.StatusCode.INVALID_ARGUMENT, "the first message is not hello")
    check_hello(message.hello)
    return message.hello


async def _read(context: Context, seconds: float) -> pb.SidecarMessage | None:
    """The next message; None once the sidecar has said its last."""
    try:
        async with asyncio.timeout(seconds):
            message = await context.read()
    except TimeoutError:
        why = f"nothing was heard for {seconds:g} s"
        raise _Ended(grpc.StatusCode.DEADLINE_EXCEEDED, why) from None
    return message if isinstance(message, pb.SidecarMessage) else None


def _source(context: Context) -> str:
    """The peer's address, out of `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    _, _, address = unquote(context.peer()).partition(":")
    return urlsplit(f"//{address}").hostname or ""


def _fault(error: Exception) -> _Ended:
    if is_unavailable(error):
        return _Ended(grpc.StatusCode.UNAVAILABLE, "the store's database is out of reach")
    logger.error("a sync stream failed", exc_info=error)
    return _Ended(grpc.StatusCode.INTERNAL, "internal error")


async def _close(context: Context, ended: _Ended) -> None:
    """Send the status, also where the subscriber is gone or does not take even that."""
    with suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await context.abort(ended.code, ended.why)
