"""A webhook that runs, and callers of it as an API server is one: HTTP/1.1 on TLS 1.3, on connections that stay."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import trustme

from pdp.injector.app import Injector, running
from pdp.injector.cluster import Cluster
from pdp.injector.settings import Settings
from tests.pdp.injector.cases import SETTINGS
from tests.tls.certificates import write_pair

BOUND_SECONDS = 60.0
PATH = "/mutate?timeout=10s"
"""As the API server asks: it adds its time limit."""


class Answer(NamedTuple):
    """The answer to a request; `body` is its JSON, or its text where it is none."""

    status: int
    body: Any


class Caller:
    """One connection, kept until it is closed or breaks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: str, context: ssl.SSLContext) -> Self:
        """A new connection, with a handshake of its own."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost"))

    @property
    def tls_version(self) -> str:
        """Such as TLSv1.3."""
        found: str = self._writer.get_extra_info("ssl_object").version()
        return found

    @property
    def certificate(self) -> dict[str, Any]:
        """The server's, as `ssl` describes it."""
        found: dict[str, Any] = self._writer.get_extra_info("peercert")
        return found

    async def call(self, method: str, path: str, body: bytes = b"", media_type: str = "application/json") -> Answer:
        """Sends a request and reads its answer."""
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        await self.send(f"{head}content-type: {media_type}\r\n\r\n".encode() + body)
        return await self.read()

    async def review(self, document: Any) -> Answer:
        """Sends a review, and reads the answer to it."""
        return await self.call("POST", PATH, json.dumps(document).encode())

    async def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self) -> Answer:
        """Reads one answer."""
        async with asyncio.timeout(BOUND_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
            body = (await self._reader.readexactly(int(length.partition(":")[2]))).decode()
        is_json = "json" in head.lower()
        return Answer(int(head.split(" ", 2)[1]), json.loads(body) if is_json else body)

    async def ended(self) -> bool:
        """Whether the server closes the connection within the bound, without an answer."""
        async with asyncio.timeout(BOUND_SECONDS):
            return await self._reader.read(1) == b""

    def close(self) -> None:
        """Closes it."""
        self._writer.close()


class Webhook(NamedTuple):
    """A webhook that runs, the folder of its certificate and the authority of that."""

    injector: Injector
    folder: Path
    authority: trustme.CA

    def context(self) -> ssl.SSLContext:
        """What a caller trusts."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        """A connection to it."""
        caller = await Caller.connect(self.injector.address, self.context())
        try:
            yield caller
        finally:
            caller.close()

    async def review(self, document: Any) -> Answer:
        """The answer to a review on a connection of its own."""
        async with self.caller() as caller:
            return await caller.review(document)

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as they are written."""
        lines = self.injector.metrics.text().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


@asynccontextmanager
async def webhook(folder: Path, cluster: Cluster | None = None, **settings: Any) -> AsyncIterator[Webhook]:
    """A webhook on a free port, with the settings of the golden files or others."""
    authority = trustme.CA()
    pair = write_pair(folder / "tls", authority)
    chosen = Settings.from_text(**SETTINGS | {"tls_cert": pair.cert, "tls_key": pair.key} | settings)
    async with running(chosen, cluster) as injector:
        yield Webhook(injector, folder / "tls", authority)
