"""A store and a sidecar over TLS in this process, and a wire between them that keeps what is sent over it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import registry_store.app
from pdp.serving.tls.certificates import ClientFiles
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import PATIENT
from tests.tls.certificates import Pair


class Central(NamedTuple):
    """A running store, with the keys of an admin and of a sidecar."""

    running: registry_store.app.RunningStore
    admin: str
    key_file: Path

    @property
    def port(self) -> str:
        return self.running.grpc_address.rpartition(":")[2]


def client_files(pair: Pair) -> ClientFiles:
    return ClientFiles(pair.ca, pair.cert, pair.key)


@asynccontextmanager
async def central(folder: Path, pair: Pair | None, **changes: Any) -> AsyncIterator[Central]:
    """A store in this folder; with a pair, over TLS, for callers with certificates of the pair's authority."""
    tls = {} if pair is None else {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": pair.ca}
    settings = settings_in(made(folder), auto_activate=True, **(tls | changes))
    async with registry_store.app.running(settings, PATIENT) as running:
        key_file = folder / "sidecar.key"
        key_file.touch(0o600)
        key_file.write_text(await running.create_key("sidecar", "test"))
        yield Central(running, await running.create_key("admin", "test"), key_file)


def made(folder: Path) -> Path:
    """The folder, which is there afterwards."""
    folder.mkdir(exist_ok=True)
    return folder


class Wire:
    """What was sent between the two ends, in both directions."""

    def __init__(self) -> None:
        self.sent = bytearray()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, and keep it."""
        with suppress(OSError):
            while data := await reader.read(65536):
                self.sent += data
                writer.write(data)
        writer.close()


@asynccontextmanager
async def wiretapped(port: str) -> AsyncIterator[tuple[str, Wire]]:
    """The port of a proxy before this one of loopback, and what it sees."""
    wire = Wire()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(wire.pass_on(reader, behind_writer), wire.pass_on(behind_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield str(server.sockets[0].getsockname()[1]), wire
    finally:
        server.close()
