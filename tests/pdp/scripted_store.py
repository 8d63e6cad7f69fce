"""A store over real gRPC that sends the messages of a test's script."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from registry_store.v1 import sync_pb2 as pb
from registry_store.v1.sync_pb2_grpc import RegistrySyncServicer, add_RegistrySyncServicer_to_server
from tests.given import agent

Context = grpc.aio.ServicerContext[pb.SidecarMessage, pb.StoreMessage]


class Line:
    """One stream as the script sees it; `heard` fills with what the sidecar says after its hello."""

    def __init__(self, context: Context, hello: pb.Hello) -> None:
        self.hello = hello
        self.heard: list[pb.SidecarMessage] = []
        self.context = context

    async def send(self, **message: Any) -> None:
        """Sends one message, given by its kind."""
        await self.context.write(pb.StoreMessage(**message))

    async def snapshot(self, revision: int, *records: pb.Record, epoch: str = "e1") -> None:
        """Welcomes with a snapshot, in chunks of one record."""
        await self.send(welcome=pb.Welcome(epoch=epoch, revision=revision))
        await self.records(revision, *records)

    async def records(self, revision: int, *records: pb.Record) -> None:
        """The snapshot that follows a welcome."""
        await self.send(snapshot_begin=pb.SnapshotBegin(revision=revision, records=len(records)))
        for record in records:
            await self.send(snapshot_chunk=pb.SnapshotChunk(records=[record]))
        digest = hashlib.sha256(b"".join(record.document for record in records)).digest()
        await self.send(snapshot_end=pb.SnapshotEnd(revision=revision, sha256=digest))

    async def change(self, before: int, after: int, *records: pb.Record) -> None:
        """A change from one revision to another."""
        await self.send(change=pb.Change(from_revision=before, to_revision=after, records=records))

    async def beat(self, revision: int) -> None:
        """Sends heartbeats until the sidecar is gone."""
        while True:
            await self.send(heartbeat=pb.Heartbeat(revision=revision))
            await asyncio.sleep(0.02)

    def acknowledgements(self) -> list[pb.Acknowledgement]:
        """What the sidecar has acknowledged so far."""
        return [one.acknowledgement for one in self.heard if one.HasField("acknowledgement")]


Script = Callable[[Line], Awaitable[None]]


class ScriptedStore(RegistrySyncServicer):  # type: ignore[misc]  # the generated class has no annotations
    """Plays one script a stream, the last one again for every stream after it."""

    def __init__(self, scripts: Iterable[Script]) -> None:
        self._scripts = list(scripts)
        self.lines: list[Line] = []
        self.keys: list[str] = []

    async def Sync(self, _requests: object, context: Context) -> None:  # noqa: N802 - gRPC's name
        self.keys.append(str(dict(context.invocation_metadata() or ()).get("authorization")))
        first = await context.read()
        assert isinstance(first, pb.SidecarMessage)
        assert first.HasField("hello")
        line = Line(context, first.hello)
        script = self._scripts[min(len(self.lines), len(self._scripts) - 1)]
        self.lines.append(line)
        listening = asyncio.create_task(_listen(context, line))
        try:
            await script(line)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, grpc.RpcError):
                await listening


async def _listen(context: Context, line: Line) -> None:
    while isinstance(message := await context.read(), pb.SidecarMessage):
        line.heard.append(message)


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[tuple[ScriptedStore, str]]:
    """A store on a free port that plays `scripts`, and its address."""
    server = grpc.aio.server()
    store = ScriptedStore(scripts)
    add_RegistrySyncServicer_to_server(store, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield store, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def record(agent_id: str, **fields: Any) -> pb.Record:
    """An agent as the store sends it."""
    document = json.dumps(agent(agent_id, **fields)).encode()
    return pb.Record(kind=pb.RECORD_KIND_AGENT, id=agent_id, document=document)


def gone(agent_id: str) -> pb.Record:
    """The deletion of an agent."""
    return pb.Record(kind=pb.RECORD_KIND_AGENT, id=agent_id)
