"""Webhooks: signed, pinned to the address that was checked, and checkpoints sent over them."""

import asyncio
import hmac
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import trustme
from click.testing import CliRunner

from registry_store import webhooks
from registry_store.cli import main
from registry_store.errors import StartError
from registry_store.settings import Settings, load_secret
from registry_store.webhooks import DeliveryError, Outbound, Webhook, is_public, shared_secret, signing_key
from tests.registry_store.alerts.receivers import Receiver, answering
from tests.registry_store.audit.test_audit import Log, until
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import WAIT_SECONDS, served

SECRET = b"s" * 32


@pytest.fixture
def outbound(ca: Path, monkeypatch: pytest.MonkeyPatch) -> Outbound:
    """What trusts the authority and may call private addresses."""
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", WAIT_SECONDS)  # what comes too late is a failure, and comes twice
    monkeypatch.setattr(webhooks, "CONNECT_SECONDS", WAIT_SECONDS)
    return Outbound(private=True, ca=ca)


async def deliver(url: str, outbound: Outbound, body: bytes = b"{}", keys: tuple[bytes, ...] = (SECRET,)) -> None:
    await Webhook(url, keys, outbound).deliver("alert_1", body, datetime.now(UTC))


async def test_a_body_arrives_signed(receiver: Receiver, outbound: Outbound) -> None:
    """The library of Standard Webhooks verifies it; a receiver that has another secret does not."""
    await deliver(f"{receiver.url}/hook?a=b c\u00e4", outbound, b'{"a":1}')
    (headers,) = receiver.headers
    assert standardwebhooks.Webhook(shared_secret(SECRET)).verify(receiver.bodies[0], headers) == {"a": 1}
    assert (headers["webhook-id"], receiver.paths) == ("alert_1", ["/hook?a=b%20c%C3%A4"])
    assert headers["host"] == receiver.url.removeprefix("https://")
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(shared_secret(b"t" * 32)).verify(receiver.bodies[0], headers)


async def test_the_signature_is_the_one_of_the_specification(receiver: Receiver, outbound: Outbound) -> None:
    """HMAC-SHA-256 of id, timestamp and body with full stops between them, in base64: no library's mistake hides."""
    await Webhook(receiver.url, [SECRET], outbound).deliver("msg", b"{}", datetime(2026, 1, 31, tzinfo=UTC))
    (headers,) = receiver.headers
    assert headers["webhook-timestamp"] == "1769817600"
    expected = shared_secret(hmac.digest(SECRET, b"msg.1769817600.{}", "sha256")).removeprefix("whsec_")
    assert headers["webhook-signature"] == f"v1,{expected}"


async def test_during_a_rotation_both_secrets_verify(receiver: Receiver, outbound: Outbound) -> None:
    """Receivers may change to the new one at any time."""
    await deliver(receiver.url, outbound, keys=(SECRET, b"t" * 32))
    for key in (SECRET, b"t" * 32):
        standardwebhooks.Webhook(shared_secret(key)).verify(receiver.bodies[0], receiver.headers[0])


def test_a_secret_is_taken_as_receivers_write_it() -> None:
    """After `whsec_` comes the key in base64; any other content is the key itself."""
    assert signing_key("--flag", shared_secret(SECRET).encode()) == SECRET
    assert signing_key("--flag", b"0123" * 8) == b"0123" * 8
    for wrong in (b"whsec_?", b"whsec_YQ=="):
        with pytest.raises(StartError, match="`--flag`: the "):
            signing_key("--flag", wrong)


@pytest.mark.parametrize("status", [307, 404, 500])
async def test_an_answer_that_takes_nothing_is_a_failure(receiver: Receiver, outbound: Outbound, status: int) -> None:
    """A redirect too: it is not followed."""
    receiver.statuses.append(status)
    with pytest.raises(DeliveryError, match=f"answered {status}"):
        await deliver(receiver.url, outbound)
    assert receiver.bodies == []


async def test_a_private_address_is_not_called(receiver: Receiver, outbound: Outbound) -> None:
    """Unless it is allowed: what a name stands for counts, not the name."""
    port = receiver.url.rpartition(":")[2]
    for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0x7f.1", "2130706433"):
        with pytest.raises(DeliveryError, match="not public"):
            await deliver(f"https://{host}:{port}", replace(outbound, private=False))
    assert receiver.bodies == []


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> Iterator[int]:
    """Let each lookup of `rebinding.test` give the next of these answers; yields how many there were."""
    left, made, real = list(answers), count(), socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != "rebinding.test":
            return real(host, port, *args, **options)
        next(made)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return made


async def test_a_name_is_looked_up_once(receiver: Receiver, outbound: Outbound, monkeypatch: Any) -> None:
    """What was checked is what is called: a name that stands for another address a moment later changes nothing."""
    lookups = resolving(monkeypatch, ["127.0.0.1"], ["192.0.2.1"])
    with pytest.raises(DeliveryError, match="Hostname mismatch"):  # the certificate says that it was reached
        await deliver(receiver.url.replace("localhost", "rebinding.test"), outbound)
    assert next(lookups) == 1


async def test_one_private_address_among_others_is_enough(outbound: Outbound, monkeypatch: Any) -> None:
    """The whole name is refused, and no address of it is called."""
    resolving(monkeypatch, ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(DeliveryError, match="not public"):
        await deliver("https://rebinding.test", replace(outbound, private=False))


async def test_a_certificate_must_be_trusted(receiver: Receiver, outbound: Outbound) -> None:
    """The system's authorities do not know that of the receiver."""
    with pytest.raises(DeliveryError, match="does not answer"):
        await deliver(receiver.url, replace(outbound, ca=None))


async def test_a_certificate_must_be_of_the_name(receiver: Receiver, outbound: Outbound) -> None:
    """That of localhost is not that of 127.0.0.1."""
    with pytest.raises(DeliveryError, match="does not answer"):
        await deliver(receiver.url.replace("localhost", "127.0.0.1"), outbound)


async def test_a_host_that_is_not_there_is_a_failure(outbound: Outbound) -> None:
    """Nobody at the port, no such name, and names that are none."""
    for url in ("https://127.0.0.1:1", "https://nowhere.invalid", f"https://{'a' * 64}.invalid", "https://[::1"):
        with pytest.raises(DeliveryError):
            await deliver(url, outbound)


def hang(_caller: ssl.SSLSocket) -> None:
    _caller.recv(1)


def drip(caller: ssl.SSLSocket) -> None:
    caller.sendall(b"HTTP/1.1 ")
    while True:
        caller.sendall(b"1")


def endless_headers(caller: ssl.SSLSocket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        caller.sendall(b"x: " + b"y" * 1000 + b"\r\n")


def endless_informations(caller: ssl.SSLSocket) -> None:
    while True:
        caller.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50)


def garbage(caller: ssl.SSLSocket) -> None:
    caller.sendall(b"\0" * 100 + b"\r\n\r\n")


def hang_up(_caller: ssl.SSLSocket) -> None:
    """Nothing."""


@pytest.mark.parametrize("answer", [hang, drip, endless_headers, endless_informations, garbage, hang_up])
async def test_a_receiver_that_lies_is_a_failure(
    answer: Callable[[ssl.SSLSocket], None], authority: trustme.CA, outbound: Outbound, monkeypatch: Any
) -> None:
    """In bounded time and memory, whatever it sends or does not send."""
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.3)
    with answering(authority, answer) as url, pytest.raises(DeliveryError):
        await deliver(url, outbound)


async def test_the_body_of_an_answer_is_not_read(authority: trustme.CA, outbound: Outbound) -> None:
    """It may be endless: the status is what counts."""

    def terabyte(caller: ssl.SSLSocket) -> None:
        caller.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
        while True:
            caller.sendall(b"z" * 65_536)

    with answering(authority, terabyte) as url:
        await deliver(url, outbound)


async def test_receivers_that_hang_hold_up_nobody(
    authority: trustme.CA, receiver: Receiver, outbound: Outbound, monkeypatch: Any
) -> None:
    """However many there are: no thread waits for them."""
    with answering(authority, hang) as url:
        hanging = [asyncio.create_task(deliver(url, outbound)) for _ in range(50)]
        await deliver(receiver.url, outbound)
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("64:ff9b::6440:1", False),
        ("64:ff9b::", False),
        ("64:ff9b:1::5db8:d70e", False),
        ("64:ff9b:1:ffff::1", False),
        ("fec0::1", False),
        ("feff::1", False),
        ("::5db8:d70e", False),
        ("::7f00:1", False),
        ("::ffff:0:5db8:d70e", False),
        ("::ffff:100.64.0.1", False),
        ("2002:5db8:d70e::1", True),
        ("2002:a00:1::1", False),
        ("2002:6440:1::1", False),
        ("2001:0:5db8:d70e::1", False),
        ("2001:2::1", False),
        ("2001:10::1", False),
        ("2001:20::1", False),
        ("2001:db8::1", False),
        ("2001:4860:4860::8888", True),
        ("2a00:1450:4001::1", True),
        ("3fff::1", False),
        ("5f00::1", False),
        ("100::1", False),
        ("4000::1", False),
        ("0.1.2.3", False),
        ("100.127.255.255", False),
        ("192.0.0.9", False),
        ("192.0.0.171", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("198.19.255.255", False),
        ("198.51.100.7", False),
        ("203.0.113.7", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("127.255.255.254", False),
        ("1.1.1.1", True),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """Also those that are wrapped in others."""
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "change", [{}, {"url": "http://localhost"}, {"url": "https://"}, {"file": None}, {"secret": None}]
)
def test_wrong_settings_are_one_line(tmp_path: Path, change: dict[str, str | None]) -> None:
    """Exit code 2, and the setting's name."""
    values = {"url": "https://a:b@x", "file": "checkpoints", "secret": "secret"} | change
    options = {
        "--database": f"sqlite:///{tmp_path / 'registry.db'}",
        "--checkpoint-url": values["url"],
        "--checkpoint-file": values["file"] and str(tmp_path / "checkpoints"),
        "--webhook-secret-file": values["secret"] and str(tmp_path / "secret"),
    }
    ended = CliRunner().invoke(main, ["serve", *(part for item in options.items() if item[1] for part in item if part)])
    named = {
        "url": "`--checkpoint-url`: ",
        "file": "`--checkpoint-url` requires `--checkpoint-file`",
        "secret": "`--checkpoint-url` requires `--webhook-secret-file`",
    }
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1)
    assert named[next(iter(change), "url")] in ended.stderr


def test_checkpoints_are_sent_once_and_in_their_order(tmp_path: Path, receiver: Receiver, ca: Path) -> None:
    """After failures and restarts too: what the receiver has is the file, and `verify-log` takes it for that."""
    sent = "registry_store_activity_sent_sequence"
    log = Log(settings_in(tmp_path), tmp_path / "checkpoints.jsonl")
    settings: Settings = replace(
        log.settings,
        checkpoint_file=log.checkpoints,
        checkpoint_url=receiver.url,
        webhook_secret_file=tmp_path / "secret",
        webhook_private=True,
        webhook_ca=ca,
    )
    receiver.statuses.append(500)
    with served(settings) as store:
        admin = store.rest()
        admin.register("first-line-prod")
        assert until(store, sent, 2) == 2
    with served(settings) as store:
        store.rest().register("second-line-prod")
    assert b"".join(receiver.bodies) == log.checkpoints.read_bytes()
    assert len(receiver.bodies) >= 2
    secret = load_secret("webhook-secret-file", tmp_path / "secret")
    for body, headers in zip(receiver.bodies, receiver.headers, strict=True):
        expected = hmac.digest(secret, headers["registry-timestamp"].encode() + b"." + body, "sha256").hex()
        assert headers["registry-signature"] == f"sha256={expected}"
        standardwebhooks.Webhook(shared_secret(secret)).verify(body, headers)
    assert len({headers["webhook-id"] for headers in receiver.headers}) == len(receiver.bodies)
    assert log.verify("--checkpoint-file", log.checkpoints).exit_code == 0
