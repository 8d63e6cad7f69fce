"""A store in a thread of its own, and the clients that tests put to it: real HTTP, real gRPC."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import urllib3

from registry_store import app
from registry_store.rpc.sync import PACE, Pace
from registry_store.settings import Settings
from registry_store.v1 import sync_pb2 as pb

WAIT_SECONDS = 60
PATIENT = Pace(silence=60.0, send=60.0)
"""No stream ends for that a test, or its store, has stood still for some seconds."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: urllib3.HTTPHeaderDict


@dataclass
class Rest:
    """Calls a store's REST interface with one key."""

    address: str
    key: str | None
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key is not None:
            sent.setdefault("authorization", f"Bearer {self.key}")
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        got = self.pool.request(method, f"http://{self.address}{path}", body=raw, headers=sent, timeout=WAIT_SECONDS)
        kind = got.headers.get("content-type", "").partition(";")[0]
        content = json.loads(got.data) if kind.endswith(("/json", "+json")) else got.data.decode()
        return Answer(got.status, content, got.headers)

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, body, **headers)

    def put(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("PUT", path, body, **headers)

    def delete(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("DELETE", path, body, **headers)

    def is_ready(self) -> bool:
        """Whether the program answers, and says that it is ready."""
        try:
            return self.get("/readyz").status == 200
        except (OSError, urllib3.exceptions.HTTPError):
            return False

    def register(self, agent_id: str, **fields: Any) -> Any:
        answer = self.post("/api/agents/registry", {"agent_id": agent_id, "display_name": agent_id, **fields})
        assert answer.status == 201, answer.body
        return answer.body


@dataclass
class Served:
    """A running store."""

    running: app.RunningStore
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def key(self, role: str, name: str = "tester") -> str:
        return self.run(self.running.create_key(role, name))

    def sql(self, statement: str) -> list[Any]:
        """Run one statement beside the store's own, and return the rows that it gives."""

        async def execute() -> list[Any]:
            async with self.running._store.database.engine.begin() as connection:
                result = await connection.exec_driver_sql(statement)
                return [tuple(row) for row in result] if result.returns_rows else []

        return self.run(execute())

    def rest(self, role: str | None = "admin") -> Rest:
        return Rest(self.running.http_address, role and self.key(role))


def in_own_loop(work: Coroutine[Any, Any, Result], seconds: float = WAIT_SECONDS) -> Result:
    """What `work` gives, run to its end in a thread, beside whatever loop the test has."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result(seconds)


@contextmanager
def served(
    settings: Settings, pace: Pace = PACE, after_change: Callable[[int], Awaitable[None]] | None = None
) -> Iterator[Served]:
    """The store, until the block is left."""
    started: asyncio.Future[Served] | Any = threading.Event()
    got: list[Served | BaseException] = []
    stop: list[asyncio.Event] = []

    async def serve() -> None:
        stop.append(asyncio.Event())
        async with app.running(settings, pace, after_change) as running:
            got.append(Served(running, asyncio.get_running_loop()))
            started.set()
            await stop[0].wait()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            got.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(WAIT_SECONDS)
    try:
        if isinstance(got[0], BaseException):
            raise got[0]
        yield got[0]
    finally:
        if isinstance(got[0], Served):
            with suppress(RuntimeError):  # the loop is closed: the store has ended by itself
                got[0].loop.call_soon_threadsafe(stop[0].set)
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
    if len(got) > 1 and isinstance(got[1], BaseException):
        raise got[1]


ALL = pb.Subscription(all=pb.Subscription.All())


def named(*agent_ids: str) -> pb.Subscription:
    return pb.Subscription(agents=pb.Subscription.Agents(agent_ids=agent_ids))


def tagged(*tags: str) -> pb.Subscription:
    return pb.Subscription(tags=pb.Subscription.Tags(tags=tags))


class Subscriber:
    """A sidecar's end of the stream, message by message."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, **message: Any) -> None:
        await self.call.write(pb.SidecarMessage(**message))

    async def hello(self, subscription: pb.Subscription = ALL, **fields: Any) -> None:
        await self.send(hello=pb.Hello(**{"node_id": "node-1", "subscription": subscription, **fields}))

    async def read(self) -> pb.StoreMessage:
        """The next message, heartbeats included."""
        async with asyncio.timeout(WAIT_SECONDS):
            message = await self.call.read()
        assert isinstance(message, pb.StoreMessage), "the stream has ended"
        return message

    async def next(self) -> pb.StoreMessage:
        """The next message that is no heartbeat, answering heartbeats meanwhile."""
        while True:
            message = await self.read()
            if message.WhichOneof("message") != "heartbeat":
                return message
            await self.send(heartbeat=pb.Heartbeat())

    async def snapshot(self) -> "Snapshot":
        welcome = (await self.next()).welcome
        begin = (await self.next()).snapshot_begin
        chunks = []
        while (message := await self.next()).WhichOneof("message") == "snapshot_chunk":
            chunks.append(message.snapshot_chunk)
        assert message.WhichOneof("message") == "snapshot_end"
        return Snapshot(welcome, begin, chunks, message.snapshot_end)

    async def changes_to(self, revision: int) -> list[pb.Change]:
        """Every change until one reaches `revision`."""
        found: list[pb.Change] = []
        while not found or found[-1].to_revision < revision:
            message = await self.next()
            assert message.WhichOneof("message") == "change", message
            found.append(message.change)
        return found

    async def acknowledge(self, revision: int, *refusals: pb.Refusal) -> None:
        await self.send(acknowledgement=pb.Acknowledgement(revision=revision, refusals=refusals))

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """The status with which the store ends the stream."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    if await self.call.read() is grpc.aio.EOF:
                        return await self.call.code(), await self.call.details()
                except grpc.aio.AioRpcError as error:
                    return error.code(), error.details() or ""


@dataclass(frozen=True)
class Snapshot:
    welcome: pb.Welcome
    begin: pb.SnapshotBegin
    chunks: list[pb.SnapshotChunk]
    end: pb.SnapshotEnd

    @property
    def records(self) -> list[pb.Record]:
        return [record for chunk in self.chunks for record in chunk.records]

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]


@asynccontextmanager
async def subscriber(address: str, key: str | None) -> AsyncIterator[Subscriber]:
    """A stream to the store at `address`."""
    options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        sync = channel.stream_stream(
            "/registry_store.v1.RegistrySync/Sync",
            request_serializer=pb.SidecarMessage.SerializeToString,
            response_deserializer=pb.StoreMessage.FromString,
        )
        call = sync(metadata=[("authorization", f"Bearer {key}")] if key else [])
        try:
            yield Subscriber(call)
        finally:
            call.cancel()


def document(record: pb.Record) -> Any:
    """What a record says; None when it is gone."""
    return json.loads(record.document) if record.document else None


async def never(*_: object) -> None:
    """In place of what a store does by the clock: it does it not."""
    await asyncio.Event().wait()


async def in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A blocking call, without blocking the subscriber."""
    return await asyncio.to_thread(function, *args, **kwargs)
