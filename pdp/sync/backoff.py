"""How long to wait before the next try."""

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential


class Backoff:
    """Full jitter: before the nth try up to `first` · 2^(n-1) seconds, and never more than `most`."""

    def __init__(self, first: float, most: float) -> None:
        self._wait = wait_random_exponential(multiplier=first, max=most)

    def seconds(self, failures: int) -> float:
        """How long to wait after so many failures in a row."""
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = failures
        return self._wait(state)
