"""How long programs wait before they try again."""

import random

import pytest

from pdp.serving.backoff import Backoff

BACKOFF = Backoff(first=0.5, maximum=30.0)


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 0.5), (2, 1.0), (6, 16.0), (7, 30.0), (8, 30.0), (1_000_000, 30.0)]
)
def test_the_wait_doubles_from_the_first_to_the_maximum(
    monkeypatch: pytest.MonkeyPatch, failures: int, longest: float
) -> None:
    """Full jitter: anything from nothing to twice as much as after one failure less, however many there were."""
    bounds = []
    monkeypatch.setattr(random, "uniform", lambda *given: bounds.append(given))
    BACKOFF.seconds(failures)
    assert bounds == [(0.0, longest)]


def test_waits_spread_over_the_whole_range() -> None:
    """Programs that lost the same peer at the same moment do not come back at the same moment."""
    random.seed(5)
    waits = [BACKOFF.seconds(3) for _ in range(1000)]
    assert 0 <= min(waits) < 0.1
    assert 1.9 < max(waits) <= 2.0
