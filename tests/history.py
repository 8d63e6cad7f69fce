"""The usage of an agent as a plain list that is counted on each call: the reference for `Usage`."""

from math import floor, inf

from pdp.core.explanation.explain import Explanation
from pdp.core.model import Now, Outcome
from pdp.core.usage import Limits

BUCKET_SECONDS = (1, 60, 1440)


class BruteForce:
    """Every admitted action and every amount spent. An action counts until its whole bucket is one window old."""

    def __init__(self) -> None:
        self.admitted: list[float] = []
        self.spending: list[tuple[int, int]] = []

    def count(self, boot: float) -> None:
        """Count one admitted action."""
        self.admitted.append(boot)

    def spend(self, day: int, micros: int) -> None:
        """Add to the spend of a local day."""
        self.spending.append((day, micros))

    def spent(self, day: int) -> int:
        """Micro-dollars that count on a local day; one that is spent on ahead of its time counts before it too."""
        return sum(micros for spent_on, micros in self.spending if spent_on in (day, day + 1))

    def counting(self, bucket_seconds: int, boot: float) -> list[float]:
        """The expiry of each action that still counts at `boot`."""
        ends = [(floor(moment) // bucket_seconds + 61) * bucket_seconds for moment in self.admitted]
        return sorted(end for end in ends if boot < end)

    def wait(self, limits: Limits, boot: float) -> float:
        """Seconds until one more action passes every limit: 0 if it does now, infinite if it never will."""
        return max(map(self._wait, BUCKET_SECONDS, limits, [boot] * 3))

    def remaining(self, limits: Limits, boot: float) -> Limits:
        """How many more actions each limit admits now."""
        counts = [len(self.counting(seconds, boot)) for seconds in BUCKET_SECONDS]
        left = [None if limit is None else max(0, limit - count) for limit, count in zip(limits, counts, strict=True)]
        return Limits(*left)

    def _wait(self, bucket_seconds: int, limit: int | None, boot: float) -> float:
        if limit is None:
            return 0.0
        ends = self.counting(bucket_seconds, boot)
        if len(ends) < limit:
            return 0.0
        return ends[len(ends) - limit] - boot if limit > 0 else inf


def settle(history: BruteForce, explanation: Explanation, day: int, now: Now) -> None:
    """Count an explained decision as one that is given: one action unless it is a block, and its cost."""
    if explanation.outcome is not Outcome.BLOCK:
        history.count(now.boot)
    if explanation.cost_micros:
        history.spend(day, explanation.cost_micros)
