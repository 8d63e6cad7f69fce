"""The operator's channels (Slack, Teams, PagerDuty, …): URLs of apprise, an extra of its own.

Each message is sent by a process of its own, bounded in time and memory: apprise reads whatever a server sends. The
process runs this module, and gets the URL, which holds passwords, on standard input.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from registry_store.errors import StartError
from registry_store.webhooks import DeliveryError

TIMEOUT_SECONDS = 15.0
MEMORY_BYTES = 1024**3
CHECK_SECONDS = 60.0
MAX_REASON = 500
NICE = 10
"""Loading apprise takes about a second of a processor, which decisions and sync may need more."""
PROCESS = (sys.executable, "-P", "-m", "registry_store.alerts.channels")
SUMMONS = str.maketrans({"@": "@\u200b", "<": "\u2039", ">": "\u203a"})
"""Characters that chat services take for mentions, links or markup."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A URL of apprise; `name` tells it from others without its passwords."""

    url: str

    @property
    def name(self) -> str:
        """The schema of the URL and a part of its hash."""
        return f"{self.url.partition(':')[0]}:{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    async def send(self, title: str, body: str) -> None:
        """Sends one message; `DeliveryError` if the service does not accept it in time."""
        message = json.dumps({"url": self.url, "title": title.translate(SUMMONS), "body": body.translate(SUMMONS)})
        process = await asyncio.create_subprocess_exec(
            *PROCESS,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reason, _ = await process.communicate(message.encode())
        except TimeoutError:
            raise DeliveryError(f"channel `{self.name}` did not answer within {TIMEOUT_SECONDS:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode:
            raise DeliveryError(f"channel `{self.name}`: {reason.decode(errors='replace') or 'the process failed'}")


def read(urls: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of `--alert-url`; `StartError` if one is not a URL of apprise, or apprise is not installed."""
    if not urls:
        return ()
    if find_spec("apprise") is None:
        raise StartError("`--alert-url` requires apprise: install `agent-pdp[alerts]`")
    asked = json.dumps({"urls": urls}).encode()
    checked = subprocess.run(PROCESS, input=asked, capture_output=True, check=False, timeout=CHECK_SECONDS)  # noqa: S603
    if checked.returncode:  # not quoted, because a URL may hold a password
        raise StartError(f"`--alert-url`: number {checked.stdout.decode()} is not a URL that apprise knows")
    return tuple(map(Channel, urls))


def _work() -> None:
    """Does what standard input asks for; a reason on standard output, and exit code 1, if that failed."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    asked = json.load(sys.stdin)
    failure = _first_unknown(asked["urls"]) if "urls" in asked else _send(**asked)
    if failure is not None:
        sys.stdout.write(failure)
        sys.exit(1)


def _first_unknown(urls: Sequence[str]) -> str | None:
    import apprise

    known = (apprise.Apprise.instantiate(url, suppress_exceptions=True) is not None for url in urls)
    return next((str(number) for number, is_known in enumerate(known, 1) if not is_known), None)


def _send(url: str, title: str, body: str) -> str | None:
    import logging

    import apprise

    reasons: list[str] = []

    class Reasons(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            reasons.append(record.getMessage())

    logging.getLogger("apprise").addHandler(Reasons(logging.WARNING))
    asset = apprise.AppriseAsset(app_id="registry-store", app_desc="registry-store", async_mode=False)
    sender = apprise.Apprise(asset=asset)
    sender.add(url)
    if sender.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT):
        return None
    return " ".join("; ".join(reasons).split())[:MAX_REASON] or "apprise gave no reason"


if __name__ == "__main__":
    _work()
