"""Exponential back-off between retries."""

import random
from dataclasses import dataclass

MAX_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential with full jitter: the nth wait is random, up to `first` · 2^(n-1) seconds and at most `maximum`."""

    first: float
    maximum: float

    def seconds(self, failures: int) -> float:
        """The wait before the next try, after this many failures in a row (at least one)."""
        longest = min(self.first * 2.0 ** min(failures - 1, MAX_DOUBLINGS), self.maximum)
        return random.uniform(0.0, longest)  # noqa: S311 - not for security
