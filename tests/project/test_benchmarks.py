"""What is measured can still be measured."""

import pytest

from benchmarks import memory


def test_memory_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Of agents, their counters and remembered answers, with what the bound let go."""
    memory.main(agents=20, keys=3)
    told = capsys.readouterr().out
    assert "20 agents loaded" in told
    assert "60 keyed decisions" in told
    assert "60 answers of the bound's 64 MiB, 0 gave way to newer ones" in told
