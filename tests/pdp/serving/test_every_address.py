"""`[::]:PORT`: every address of the machine, of IPv6 and IPv4, and of IPv4 alone where there is no IPv6."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pdp.endpoints.listeners import bound, http_listener
from pdp.serving.accepting import listening
from pdp.serving.addresses import Address, bound_address
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from pdp.settings import host_and_port
from tests import whole
from tests.pdp.injector.calling import webhook
from tests.waiting import eventually
from tests.whole import Answer, Http

EVERY = Address("::", 0)
LOCALHOSTS = ("127.0.0.1", "[::1]")


class WithoutIPv6(socket.socket):
    """Sockets of a machine whose kernel has no IPv6."""

    def __init__(self, family: int = socket.AF_INET, *more: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *more, **named)


class OneFamily(socket.socket):
    """Sockets of a machine with `net.ipv6.bindv6only`."""

    def __init__(self, family: int = socket.AF_INET, *more: Any, **named: Any) -> None:
        super().__init__(family, *more, **named)
        if family == socket.AF_INET6:
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


@pytest.fixture
def ipv6() -> None:
    try:
        listening(socket.AF_INET6, ("::1", 0)).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error.strerror}")


async def peer(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.client.host if request.client else "")


async def call(host: str, address: str, path: str) -> Answer:
    """What an address of this machine answers on the port of a listener."""
    http = Http(f"{host}:{address.rpartition(':')[2]}")
    try:
        return await http.call("GET", path)
    finally:
        http.close()


@asynccontextmanager
async def served(listener: socket.socket) -> AsyncIterator[str]:
    """An application that answers with the host of its caller; its address."""
    address = bound_address(listener)
    async with serving(Starlette(routes=[Route("/", peer)]), listener, Limits()):
        yield address


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("kind", [socket.socket, OneFamily])
async def test_it_answers_callers_of_both_families(kind: type[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the system's default is; an application sees a caller of IPv4 under the address that it has."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", kind)
        listener = http_listener("--http", EVERY)
    async with served(listener) as address:
        assert address.startswith("[::]:")
        assert [(await call(host, address, "/")).body for host in LOCALHOSTS] == ["127.0.0.1", "::1"]


@pytest.mark.usefixtures("ipv6")
async def test_a_refused_caller_of_ipv4_is_logged_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So that one search of the log finds it, whichever family the socket has."""
    async with webhook(tmp_path, listen="[::]:0") as hook:
        with pytest.raises(urllib3.exceptions.HTTPError):
            await call("127.0.0.1", hook.injector.address, "/healthz")
        await eventually(lambda: "refused a TLS connection from `127.0.0.1`: it speaks HTTP" in caplog.text)


async def test_without_ipv6_it_answers_callers_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the address that is logged says so."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", WithoutIPv6)
        listener = http_listener("--http", EVERY)
    async with served(listener) as address:
        assert address.startswith("0.0.0.0:")
        assert (await call("127.0.0.1", address, "/")).body == "127.0.0.1"


def test_without_ipv6_no_other_address_of_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """To listen elsewhere than asked for would be a surprise."""
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(OSError, match=os.strerror(errno.EAFNOSUPPORT)):
        listening(socket.AF_INET6, ("::1", 0))


async def test_without_ipv6_the_port_of_grpc_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC itself then takes IPv4 alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with bound("--listen", Address("::", port), grpc.aio.server()) as address:
        assert address == f"[::]:{port}"


@pytest.mark.usefixtures("ipv6")
async def test_the_probes_of_a_sidecar_answer_on_both(tmp_path: Path) -> None:
    """On the port of `--metrics`, which the injector sets so."""
    settings = whole.settings(tmp_path, "127.0.0.1:1", metrics=host_and_port("--metrics", "[::]:0"))
    async with whole.sidecar(settings) as beside:
        assert beside.sidecar.metrics_address is not None
        for host in LOCALHOSTS:
            assert (await call(host, beside.sidecar.metrics_address, "/healthz")).status == 200


@pytest.mark.usefixtures("ipv6")
async def test_a_store_answers_on_both(tmp_path: Path) -> None:
    """REST, gRPC and the probes."""
    every = {"http": "[::]:0", "grpc": "[::]:0", "metrics": "[::]:0"}
    async with whole.store(tmp_path, plaintext=True, **every) as central:
        for host in LOCALHOSTS:
            for address in (central.rest.address, central.metrics_address):
                assert (await call(host, str(address), "/healthz")).status == 200
            port = central.grpc_address.rpartition(":")[2]
            async with grpc.aio.insecure_channel(f"{host}:{port}") as channel, asyncio.timeout(60):
                await channel.channel_ready()
