"""Answers remembered by idempotency key, so that a repeated request gets its first answer and counts nothing."""

from collections import OrderedDict
from dataclasses import dataclass

from pdp.core.messages import tenths
from pdp.metrics import Metrics

REMEMBERED_SECONDS = 600.0
MAX_REPEATS = 100
MAX_BYTES = 64 * 1024 * 1024
# The memory of an entry beside its strings and bytes: the dict's slot and the objects' headers, by sys.getsizeof.
_ENTRY_BYTES = 420


class TooManyRepeatsError(Exception):
    """A key was repeated too often; it can be used again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        wait = f"{tenths(retry_after):.1f} s"
        super().__init__(f"was repeated {MAX_REPEATS} times; use another key, or this one again in {wait}")


@dataclass(slots=True)
class Remembered:
    """An answer, what is kept of its request, its expiry (seconds of the boot clock), and the number of its repeats."""

    request: bytes
    answer: bytes
    until: float
    repeats: int = 0


class Answers:
    """The answers of the last ten minutes by agent and key, within 64 MiB: the oldest are evicted first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], Remembered] = OrderedDict()
        self.bytes = 0
        self.evicted = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, agent_id: str, key: str, boot: float) -> Remembered | None:
        """The answer given under a key within the last ten minutes."""
        entry = self._entries.get((agent_id, key))
        return entry if entry is not None and boot < entry.until else None

    def repeat(self, entry: Remembered, boot: float) -> bytes:
        """The answer again, or `TooManyRepeatsError`: each repeat writes a record, so repeats are limited."""
        if entry.repeats >= MAX_REPEATS:
            self.refused += 1
            raise TooManyRepeatsError(entry.until - boot)
        entry.repeats += 1
        return entry.answer

    def put(self, agent_id: str, key: str, request: bytes, answer: bytes, boot: float) -> None:
        """Remember an answer for ten minutes from `boot`."""
        self._forget(agent_id, key)
        entry = self._entries[agent_id, key] = Remembered(request, answer, boot + REMEMBERED_SECONDS)
        self.bytes += _size(agent_id, key, entry)
        while self._entries:
            (oldest_agent, oldest_key), oldest = next(iter(self._entries.items()))
            if oldest.until > boot and self.bytes <= self._max_bytes:
                break
            self.evicted += oldest.until > boot
            self._forget(oldest_agent, oldest_key)

    def watch(self, metrics: Metrics) -> None:
        """Register its metrics."""
        metrics.watch("pdp_idempotency_answers", "Answers remembered by idempotency key", lambda: len(self))
        metrics.watch_total(
            "pdp_idempotency_evicted",
            "Answers evicted before their ten minutes, to free memory",
            lambda: self.evicted,
        )
        metrics.watch_total(
            "pdp_idempotency_refused",
            "Requests refused because their key had been repeated too often",
            lambda: self.refused,
        )

    def _forget(self, agent_id: str, key: str) -> None:
        entry = self._entries.pop((agent_id, key), None)
        if entry is not None:
            self.bytes -= _size(agent_id, key, entry)


def _size(agent_id: str, key: str, entry: Remembered) -> int:
    return _ENTRY_BYTES + len(agent_id) + len(key) * 4 + len(entry.request) + len(entry.answer)
