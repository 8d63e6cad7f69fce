"""Certificates of a running server: what cannot be used is refused or left, what can is taken without a failed call."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import trustme
from starlette.responses import PlainTextResponse

from pdp.serving.accepting import listening
from pdp.serving.connections import Limits
from pdp.serving.http1.server import serving
from pdp.serving.tls.certificates import CertificateError, ClientFiles, Files, channel_credentials, client_context
from pdp.serving.tls.reloading import ServerCertificates
from tests.tls.certificates import EXPIRED, Pair, write_pair
from tests.waiting import eventually

CLIENTS = 3
METHOD = "/test.Test/Echo"
LIMITS = Limits()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_files(pair: Pair, *, client_ca: bool = False) -> Files:
    return Files(pair.cert, pair.key, pair.ca if client_ca else None)


@asynccontextmanager
async def https(certificates: ServerCertificates, limits: Limits = LIMITS) -> AsyncIterator[int]:
    """The port of a server that says `here`."""
    with listening(2, ("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        async with serving(PlainTextResponse("here"), listener, limits, tls=certificates.context):
            yield port


@asynccontextmanager
async def grpc_echo(certificates: ServerCertificates) -> AsyncIterator[str]:
    """The address of a server that answers with what it was sent."""

    async def echo(raw: bytes, _context: object) -> bytes:
        return raw

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_secure_port("127.0.0.1:0", certificates.grpc_credentials())
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def get(port: int, context: ssl.SSLContext | None, name: str = "localhost") -> bytes:
    """The answer to one request on a connection of its own."""
    named = None if context is None else name
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=named)
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()


async def call(address: str, files: ClientFiles) -> bytes:
    """The answer to one call on a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, channel_credentials(files), options) as channel:
        answer: bytes = await channel.unary_unary(METHOD)(b"echo", timeout=30)
        return answer


def without_key(pair: Pair) -> ClientFiles:
    return ClientFiles(pair.ca)


@pytest.mark.parametrize("replacements", [20, pytest.param(2000, marks=pytest.mark.soak)])
async def test_certificates_are_replaced_while_handshakes_go_on(
    authority: trustme.CA, tmp_path: Path, replacements: int
) -> None:
    """No handshake fails, over HTTP or gRPC, also if the new pair is of another authority that both sides trust."""
    other = trustme.CA()
    both = tmp_path / "both.crt"
    both.write_bytes(authority.cert_pem.bytes() + other.cert_pem.bytes())
    pair = write_pair(tmp_path / "server", authority)
    client = write_pair(tmp_path / "client", authority)
    files = ClientFiles(both, client.cert, client.key)
    certificates = ServerCertificates(Files(pair.cert, pair.key, both))
    done, calls = asyncio.Event(), 0

    async def ask(port: int, address: str) -> None:
        nonlocal calls
        context = client_context(files)
        while not done.is_set():
            assert (await get(port, context)).endswith(b"here")
            assert await call(address, files) == b"echo"
            calls += 1

    async with https(certificates) as port, grpc_echo(certificates) as address, asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(ask(port, address))
        for number in range(replacements):
            newest = write_pair(tmp_path / "server", (authority, other)[number % 2])
            certificates.reload()
            trusting = ClientFiles(newest.ca, client.cert, client.key)
            assert (await get(port, client_context(trusting))).endswith(b"here"), "it shows the newest certificate"
            assert await call(address, trusting) == b"echo"
        await eventually(lambda: calls > CLIENTS)
        done.set()


async def test_a_pair_that_does_not_match_is_left_and_logged_once(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The pair before it stays in force; the one after it, which is complete, is taken."""
    pair = write_pair(tmp_path / "server", authority)
    certificates = ServerCertificates(server_files(pair))
    kept = certificates.not_after
    other = write_pair(tmp_path / "other", authority)
    pair.key.resolve().write_bytes(other.key.read_bytes())
    certificates.reload()
    assert caplog.messages == [], "it may be half written"
    for _ in range(3):
        certificates.reload()
    assert caplog.messages == [
        f"`--tls-key`: `{pair.key}` is not the key of the certificate in `{pair.cert}`; "
        "the certificate before it stays in force"
    ]
    async with https(certificates) as port, grpc_echo(certificates) as address:
        assert (await get(port, client_context(without_key(pair)))).endswith(b"here")
        assert await call(address, without_key(pair)) == b"echo"
        assert certificates.not_after == kept
        with caplog.at_level(logging.INFO):
            write_pair(tmp_path / "server", authority, expires=datetime(2040, 1, 2, tzinfo=UTC))
            certificates.reload()
        assert certificates.not_after == datetime(2040, 1, 2, tzinfo=UTC).timestamp()
        assert caplog.messages[1:] == [f"new certificate in `{pair.cert}`, valid until 2040-01-02T00:00:00Z"]
        assert (await get(port, client_context(without_key(pair)))).endswith(b"here")


async def test_new_files_are_found(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a key that is gone for a while ends nothing."""
    monkeypatch.setattr("pdp.serving.tls.reloaded.POLL_SECONDS", 0.001)
    pair = write_pair(tmp_path / "server", authority)
    certificates = ServerCertificates(server_files(pair))
    watching = asyncio.create_task(certificates.watch())
    pair.key.unlink()
    write_pair(tmp_path / "server", authority, expires=datetime(2041, 1, 2, tzinfo=UTC))
    await eventually(lambda: certificates.not_after == datetime(2041, 1, 2, tzinfo=UTC).timestamp())
    watching.cancel()


@pytest.mark.parametrize("expires", [datetime(2049, 12, 31, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)])
def test_the_end_of_a_certificate_is_read(authority: trustme.CA, tmp_path: Path, expires: datetime) -> None:
    """In both forms: with two digits for the year, and with four from 2050 on."""
    pair = write_pair(tmp_path / "server", authority, expires=expires)
    assert ServerCertificates(server_files(pair)).not_after == expires.timestamp()


def unreadable(pair: Pair) -> str:
    pair.cert.unlink()
    return f"cert: cannot read `{pair.cert}`: No such file or directory"


def no_certificate(pair: Pair) -> str:
    pair.cert.write_text("hello")
    return f"cert: `{pair.cert}` holds no certificate in PEM"


def damaged(pair: Pair) -> str:
    lines = pair.cert.read_text().splitlines()
    pair.cert.write_text("\n".join([*lines[:3], lines[-1]]))
    return f"cert: `{pair.cert}` holds a malformed certificate"


def too_large(pair: Pair) -> str:
    pair.cert.write_bytes(b" " * (1 << 20) + b" ")
    return f"cert: `{pair.cert}` is larger than 1048576 bytes"


def public_key_file(pair: Pair) -> str:
    pair.key.chmod(0o644)
    return f"key: other users can read `{pair.key}` (mode 0644): run `chmod 600 {pair.key}`"


def no_key(pair: Pair) -> str:
    pair.key.write_text("hello")
    return f"cert: `{pair.cert}` and `{pair.key}` are not a certificate and its key in PEM"


def encrypted(pair: Pair) -> str:
    pair.key.write_text(ENCRYPTED)
    return f"key: `{pair.key}` is encrypted; it must hold the key without a passphrase"


def no_authority(pair: Pair) -> str:
    pair.ca.write_text("hello")
    return f"client-ca: `{pair.ca}` holds no certificates of authorities in PEM"


FAULTS = [unreadable, no_certificate, damaged, too_large, public_key_file, no_key, encrypted, no_authority]
ENCRYPTED = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAijsvBeC3i/eAICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEHFwr2/8K4IGGowZzLt/SQMEQLHL
UyqI1/MKlq734UfdpaqfHoQcPrRei2GerZ/w0Q7hyy9gwwgySaKAv+ZMM2EIP3iV
BxOyYTHOw5HIBLe9XAE=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_files_that_cannot_be_used_are_refused(
    fault: Callable[[Pair], str], authority: trustme.CA, tmp_path: Path
) -> None:
    """With the file and what is wrong with it."""
    pair = write_pair(tmp_path / "server", authority)
    expected = fault(pair)
    with pytest.raises(CertificateError) as refused:
        ServerCertificates(server_files(pair, client_ca=True))
    assert f"{refused.value.file}: {refused.value}".startswith(expected)


def test_an_expired_certificate_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    """Of a server, and of a client, which would only be told so by the other side."""
    pair = write_pair(tmp_path / "server", authority, expires=EXPIRED)
    expected = rf"`{pair.cert}` expired at {EXPIRED:%Y-%m-%dT%H:%M:%SZ}"
    with pytest.raises(CertificateError, match=expected):
        ServerCertificates(server_files(pair))
    with pytest.raises(CertificateError, match=expected):
        client_context(ClientFiles(pair.ca, pair.cert, pair.key))
    with pytest.raises(CertificateError, match=expected):
        channel_credentials(ClientFiles(pair.ca, pair.cert, pair.key))


async def test_clients_without_a_good_certificate_are_refused_with_a_line(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """None, one of another authority, an expired one, and no TLS at all; honest clients are served before and after."""
    pair = write_pair(tmp_path / "server", authority)
    good = write_pair(tmp_path / "good", authority)
    foreign = write_pair(tmp_path / "foreign", trustme.CA(), trusts=authority)
    expired = write_pair(tmp_path / "expired", authority, expires=EXPIRED)
    unchecked = ssl.create_default_context(cafile=str(pair.ca))
    unchecked.load_cert_chain(expired.cert, expired.key)
    refused = "refused a TLS connection from `127.0.0.1`:"
    contexts = {
        "it has no client certificate": client_context(without_key(pair)),
        "its certificate is not accepted (unable to get local issuer certificate)": client_context(
            ClientFiles(foreign.ca, foreign.cert, foreign.key)
        ),
        "its certificate is not accepted (certificate has expired)": unchecked,
        "it speaks HTTP without TLS": None,
    }
    async with https(ServerCertificates(server_files(pair, client_ca=True))) as port:
        for reason, context in contexts.items():
            answer = b""
            with suppress(OSError):
                answer = await get(port, context)
            assert answer == b""
            assert await get(port, client_context(ClientFiles(good.ca, good.cert, good.key)))
            assert caplog.messages.pop() == f"{refused} {reason}"
            caplog.clear()


async def test_silent_clients_hold_up_nobody(authority: trustme.CA, tmp_path: Path) -> None:
    """A handshake that does not come to its end is one of the connections that give way to new ones."""
    pair = write_pair(tmp_path / "server", authority)
    certificates = ServerCertificates(server_files(pair))
    async with https(certificates, Limits(connections=16, stop_seconds=0.1)) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        assert (await get(port, client_context(without_key(pair)))).endswith(b"here")
        assert await silent[0][0].read() == b"", "the first had to give way"
        for _, writer in silent:
            writer.close()
