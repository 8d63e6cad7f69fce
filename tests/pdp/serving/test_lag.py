"""How late the event loop is, and how much of that is its own work."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pdp.serving import lag
from pdp.serving.lag import LoopLag


async def observed(monkeypatch: pytest.MonkeyPatch, file: Path, hold: Callable[[], None]) -> tuple[float, float]:
    """The sums of both histograms after a period in which `hold` held the loop."""
    monkeypatch.setattr(lag, "SCHEDULER", file)
    monkeypatch.setattr(lag, "PERIOD_SECONDS", 0.0)
    registry = CollectorRegistry()
    measured = LoopLag("program", registry)

    def total(name: str) -> float:
        return registry.get_sample_value(f"program_event_loop_{name}_seconds_sum") or 0.0

    measuring = asyncio.create_task(measured.measure())
    await asyncio.sleep(0)
    hold()
    await asyncio.sleep(0)
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    return total("lag"), total("held")


async def test_what_the_thread_waited_for_a_processor_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour that the thread waited makes all of its lag another's; without a wait all is its own."""
    file = tmp_path / "schedstat"

    def waits() -> None:
        file.write_text(f"5 {3600 * 10**9} 7")

    file.write_text("5 0 7")
    late, held = await observed(monkeypatch, file, waits)
    assert late > 0
    assert held == 0
    late, held = await observed(monkeypatch, file, lambda: None)
    assert held == late > 0


async def test_without_the_figure_all_lag_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not tell is measured all the same."""
    late, held = await observed(monkeypatch, tmp_path / "absent", lambda: None)
    assert held == late > 0


def test_the_system_tells_how_long_a_thread_waited() -> None:
    """Linux does, in seconds since the thread began."""
    if not lag.SCHEDULER.exists():
        pytest.skip("this system does not tell how long a thread waits for a processor")
    with lag._waited() as waited:
        assert 0 <= waited() < time.monotonic()
