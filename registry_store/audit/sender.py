"""Sends the lines of the checkpoint file to a webhook: each at least once, in order, also across restarts.

Beside the headers of Standard Webhooks each has the one that earlier releases sent, `Registry-Signature: sha256=HEX`:
the HMAC-SHA-256, with the signing key, of the value of `Registry-Timestamp` (Unix seconds), a full stop and the body.
"""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

from pdp.serving.backoff import Backoff
from registry_store.periodic import repeated
from registry_store.webhooks import DeliveryError, Webhook

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
BACKOFF = Backoff(first=2.0, maximum=60.0)
MAX_AT_STOP = 100
"""Maximum number of lines to send when the store stops; the others are sent after the next start."""


class CheckpointSender:
    """Follows the file from its last position, which is saved in a file beside it."""

    def __init__(self, path: Path, webhook: Webhook) -> None:
        self._path = path
        self._mark = path.with_name(f"{path.name}.sent")
        self._webhook = webhook
        self._failures = 0
        self._sent = self._read_mark()
        self.sequence = 0
        """The last entry of the activity log that was sent since the store started."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Sends until the block exits, then sends the remaining lines unless the receiver fails."""
        return repeated(self._attempt)

    async def _attempt(self, end: asyncio.Event) -> float:
        if not end.is_set():
            await self._send(end)
        elif not self._failures:
            await self._send(None)
        return BACKOFF.seconds(self._failures) if self._failures else EVERY_SECONDS

    async def _send(self, end: asyncio.Event | None) -> None:
        number = 0
        try:
            while await self._send_next():
                self._failures = 0
                number += 1
                if end.is_set() if end else number >= MAX_AT_STOP:
                    return
        except (DeliveryError, OSError) as error:
            self._failures += 1
            logger.warning("a checkpoint of the activity log was not sent (try %d): %s", self._failures, error)
        except Exception:
            self._failures += 1
            logger.exception("internal error while sending a checkpoint of the activity log")

    async def _send_next(self) -> bool:
        line = await asyncio.to_thread(self._next_line)
        if not line.endswith(b"\n"):
            return False
        now = datetime.now(UTC)
        message_id = f"checkpoint_{hashlib.sha256(line).hexdigest()[:32]}"
        await self._webhook.deliver(message_id, line, now, _headers(self._webhook.keys[0], line, now))
        self.sequence = json.loads(line)["sequence"]
        self._sent += len(line)
        await asyncio.to_thread(self._keep_mark)
        return True

    def _next_line(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._sent)
            return file.readline()

    def _read_mark(self) -> int:
        try:
            sent = int(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return sent if sent <= self._path.stat().st_size else 0

    def _keep_mark(self) -> None:
        new = self._mark.with_name(f"{self._mark.name}.new")
        new.write_text(str(self._sent))
        new.replace(self._mark)


def _headers(key: bytes, body: bytes, at: datetime) -> Mapping[str, str]:
    timestamp = str(int(at.timestamp()))
    signed = hmac.digest(key, f"{timestamp}.".encode() + body, "sha256").hex()
    return {"registry-timestamp": timestamp, "registry-signature": f"sha256={signed}"}
