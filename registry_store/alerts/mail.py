"""Alerts by mail, through the SMTP relay of the operator."""

import asyncio
import ipaddress
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache
from urllib.parse import unquote, urlsplit

import aiosmtplib

from pdp.core.errors import Problems
from pdp.core.records import EMAIL
from registry_store.database.tables import Alert
from registry_store.errors import StartError
from registry_store.webhooks import DeliveryError

TIMEOUT_SECONDS = 10.0
SCHEMES = {"smtp": 587, "smtps": 465}
FORM = "`smtp://[USER:PASSWORD@]HOST[:PORT]` or `smtps://…`"


@dataclass(frozen=True, slots=True, repr=False)
class Relay:
    """An SMTP relay. `smtps`: TLS from the start; `smtp`: STARTTLS, which only a relay on this host may do without."""

    sender: str
    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None

    async def send(self, message: EmailMessage, recipient: str) -> None:
        """Sends one message; `DeliveryError` unless the relay accepts it."""
        local = _is_loopback(self.host)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                context = await asyncio.to_thread(_context, verified=not local)  # the first time it reads many files
                await aiosmtplib.send(
                    message,
                    sender=self.sender,
                    recipients=[recipient],
                    hostname=self.host,
                    port=self.port,
                    username=self.user,
                    password=self.password,
                    use_tls=self.tls,
                    start_tls=None if self.tls or local else True,
                    tls_context=context,
                    local_hostname=socket.gethostname() or "localhost",
                    timeout=TIMEOUT_SECONDS,
                )
        except TimeoutError:
            raise DeliveryError(f"the SMTP relay did not answer within {TIMEOUT_SECONDS:g} s") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryError(f"the SMTP relay did not accept the message: {error}") from None


def read(url: str | None, sender: str | None) -> Relay | None:
    """The relay of `--smtp-url` and `--smtp-from`, None without them; `StartError` if one is wrong or missing."""
    if url is None and sender is None:
        return None
    if url is None or sender is None:
        raise StartError("`--smtp-url` and `--smtp-from` require each other")
    problems = Problems()
    EMAIL.read(sender, "", problems)
    for problem in problems:
        raise StartError(f"`--smtp-from`: {problem.message}")
    try:
        parts = urlsplit(url)
        port = parts.port or SCHEMES[parts.scheme]
    except (ValueError, KeyError):
        raise StartError(f"`--smtp-url`: not a URL such as {FORM}") from None  # not quoted: it may hold a password
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise StartError(f"`--smtp-url`: not a URL such as {FORM}")
    user, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    return Relay(sender, parts.hostname, port, parts.scheme == "smtps", user, password)


def message(alert: Alert, title: str, text: str, sender: str, recipient: str) -> EmailMessage:
    """A mail; `title` is one printable line. Sent again it has the same id, with a higher count another.

    All mails of one alert are a thread.
    """
    domain = sender.rpartition("@")[2]
    made = EmailMessage()
    made["Subject"] = title
    made["From"] = sender
    made["To"] = recipient
    made["Date"] = format_datetime(alert.created_at)
    made["Message-ID"] = f"<{alert.alert_id}.{alert.count}@{domain}>"
    made["References"] = f"<{alert.alert_id}@{domain}>"
    made["X-Alert-Id"] = alert.alert_id
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(text)
    return made


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@cache
def _context(*, verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:  # nobody is between two programs of one host, and relays there often have no valid certificate
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
