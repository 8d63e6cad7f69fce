"""What is measured can still be measured."""

import pytest

from benchmarks import injector, loop, memory, tracing
from tests.both.collector import collecting


def test_memory_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Of agents, their counters and remembered answers, with what the bound let go."""
    memory.main(agents=20, keys=3)
    told = capsys.readouterr().out
    assert "20 agents loaded" in told
    assert "60 keyed decisions" in told
    assert "60 answers of the bound's 64 MiB, 0 gave way to newer ones" in told


async def test_the_loop_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of it, with real programs."""
    await loop.measure(rounds=2)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == list(loop.MEASURED)


async def test_reviews_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone and over TLS."""
    await injector.measure(reviews=8)
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(injector.NAMES) + 2


async def test_traces_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variant of them; all spans of sampled parents arrive."""
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address}")
        await tracing.measure(number=2)
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == list(tracing.VARIANTS)
    assert len(collector.spans) == 2 * tracing.ROUNDS
