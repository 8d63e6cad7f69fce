"""Webhooks: signed, pinned to the address that was checked, and checkpoints sent over them."""

import hmac
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from registry_store import webhooks
from registry_store.cli import main
from registry_store.settings import Settings, load_secret
from registry_store.webhooks import DeliveryError, Webhook, is_public
from tests.registry_store.audit.test_audit import Log, until
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import WAIT_SECONDS, served

SECRET = b"s" * 32


@dataclass
class Receiver:
    """An https server that keeps what it is posted, and first gives the statuses that it is told to."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def receiver(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """One whose certificate is trusted."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", WAIT_SECONDS)  # what comes too late is a failure, and comes twice
    with receiving(authority) as found:
        yield found


@contextmanager
def receiving(authority: trustme.CA) -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = found.statuses.pop(0) if found.statuses else 204
            if status < 300:
                found.bodies.append(body)
                found.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            if status == 307:
                self.send_header("location", f"{found.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Keep quiet."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_body_arrives_signed(receiver: Receiver) -> None:
    """Over the timestamp and the body, as the receiver can compute it."""
    Webhook(f"{receiver.url}/hook?a=b", SECRET, private=True).deliver(b'{"a":1}', 1_700_000_000)
    (headers,) = receiver.headers
    assert receiver.bodies == [b'{"a":1}']
    assert headers["registry-timestamp"] == "1700000000"
    expected = hmac.digest(SECRET, b'1700000000.{"a":1}', "sha256").hex()
    assert headers["registry-signature"] == f"sha256={expected}"
    assert headers["host"] == receiver.url.removeprefix("https://")


@pytest.mark.parametrize("status", [307, 404, 500])
def test_an_answer_that_takes_nothing_is_a_failure(receiver: Receiver, status: int) -> None:
    """A redirect too: it is not followed."""
    receiver.statuses.append(status)
    with pytest.raises(DeliveryError, match=f"answered {status}"):
        Webhook(receiver.url, SECRET, private=True).deliver(b"{}", 0)
    assert receiver.bodies == []


def test_a_private_address_is_not_called(receiver: Receiver) -> None:
    """Unless it is allowed: what a name stands for counts, not the name."""
    with pytest.raises(DeliveryError, match="not public"):
        Webhook(receiver.url, SECRET).deliver(b"{}", 0)
    assert receiver.bodies == []


def test_a_certificate_must_be_trusted(authority: trustme.CA) -> None:
    """And be that of the name, although the connection is to an address."""
    with receiving(authority) as found, pytest.raises(DeliveryError, match="does not answer"):
        Webhook(found.url, SECRET, private=True).deliver(b"{}", 0)


def test_a_certificate_must_be_of_the_name(receiver: Receiver) -> None:
    """That of localhost is not that of 127.0.0.1."""
    url = receiver.url.replace("localhost", "127.0.0.1")
    with pytest.raises(DeliveryError, match="does not answer"):
        Webhook(url, SECRET, private=True).deliver(b"{}", 0)


def test_a_host_that_is_not_there_is_a_failure() -> None:
    """Nobody at the port, and no such name."""
    for url in ("https://127.0.0.1:1", "https://nowhere.invalid"):
        with pytest.raises(DeliveryError):
            Webhook(url, SECRET, private=True).deliver(b"{}", 0)


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


def test_checkpoints_are_sent_once_and_in_their_order(tmp_path: Path, receiver: Receiver) -> None:
    """After failures and restarts too: what the receiver has is the file, and `verify-log` takes it for that."""
    sent = "registry_store_activity_sent_sequence"
    log = Log(settings_in(tmp_path), tmp_path / "checkpoints.jsonl")
    settings: Settings = replace(
        log.settings,
        checkpoint_file=log.checkpoints,
        checkpoint_url=receiver.url,
        webhook_secret_file=tmp_path / "secret",
        webhook_private=True,
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
    assert log.verify("--checkpoint-file", log.checkpoints).exit_code == 0
