"""What alerts and checkpoints are sent to: an https server and a mail server on loopback, and hostile receivers."""

import email
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_connection, create_server, socket
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.registry_store.serving import WAIT_SECONDS


@dataclass
class Receiver:
    """An https server that keeps what it is posted, and first gives the statuses that it is told to."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def receiving(authority: trustme.CA, port: int = 0) -> Iterator[Receiver]:
    """One at `localhost`, with a certificate of this authority; port 0: any."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = found.statuses.pop(0) if found.statuses else 204
            if status < 300:
                found.bodies.append(body)
                found.headers.append({name.lower(): value for name, value in self.headers.items()})
                found.paths.append(self.path)
            self.send_response(status)
            if status == 307:
                self.send_header("location", f"{found.url}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.socket = _context(authority).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def answering(authority: trustme.CA, answer: Callable[[ssl.SSLSocket], None]) -> Iterator[str]:
    """The URL of an https server that answers each connection as `answer` does, until the caller hangs up."""
    context, listener, open_ = _context(authority), create_server(("127.0.0.1", 0)), list[socket]()

    def serve() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],)).start()

    def one(plain: socket) -> None:
        open_.append(plain)
        with suppress(OSError), context.wrap_socket(plain, server_side=True) as secured:
            open_.append(secured)
            secured.recv(65_536)
            answer(secured)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://localhost:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(2)
        listener.close()
        for each in open_:
            with suppress(OSError):
                each.close()
        thread.join()


class _Controller(Controller):
    @property
    def bound(self) -> int:
        """The port that the system chose."""
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    def _trigger_server(self) -> None:
        with create_connection(("127.0.0.1", self.bound), WAIT_SECONDS) as caller:
            caller.recv(1)


class Mailbox:
    """An SMTP server that keeps its mails, and first refuses as many recipients as it is told to."""

    def __init__(self, **options: Any) -> None:
        self.refusing = 0
        self.mails: list[tuple[list[str], EmailMessage]] = []
        self._controller = _Controller(self, hostname="127.0.0.1", port=0, ready_timeout=WAIT_SECONDS, **options)

    @property
    def url(self) -> str:
        """As `--smtp-url` takes it."""
        return f"smtp://127.0.0.1:{self._controller.bound}"

    @contextmanager
    def open(self) -> Iterator["Mailbox"]:
        """The server, until the block is left."""
        self._controller.start()
        try:
            yield self
        finally:
            self._controller.stop()

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.refusing:
            self.refusing -= 1
            return "451 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        self.mails.append((list(envelope.rcpt_tos), email.message_from_bytes(content, policy=default)))
        return "250 OK"


def _context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context
