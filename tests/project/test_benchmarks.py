"""What is measured can still be measured."""

from pathlib import Path

import pytest

from benchmarks import injector, loop, memory, tracing
from benchmarks.inside import budget, state
from benchmarks.peers import rule
from benchmarks.wire import endpoints, servers
from benchmarks.wire.endpoints import EMPTY_GRPC, EMPTY_HTTP, OURS_GRPC, OURS_TCP, OURS_UNIX
from pdp.decision_log.log import DecisionLog
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


async def test_the_size_of_the_registry_is_measured() -> None:
    """With every column."""
    found = await state.measured(number=20)
    assert list(found) == [column.name for column in state.COLUMNS]


@pytest.mark.parametrize("kind", state.KINDS)
def test_policies_of_an_agent_are_measured(kind: str) -> None:
    """The rule decides, which is the last of them."""
    assert state.with_policies(kind, 12)["decide"] > 0


def test_the_parts_of_a_decision_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the whole takes beside them is the rest."""
    monkeypatch.setattr(budget, "CALLS", 20)
    on_loop, in_thread = budget.parts(DecisionLog(tmp_path, 1 << 20, lambda: 0.0))
    found = budget.with_rest(budget.in_turns(on_loop))
    parts = {name: micros for name, micros in found.items() if name != budget.WHOLE}
    assert sum(parts.values()) == pytest.approx(found[budget.WHOLE])
    assert list(budget.in_turns(in_thread)) == [budget.MADE, budget.WRITTEN]


def test_endpoints_decide_as_the_rule_says() -> None:
    """Each program of this repository as it is loaded, and the empty endpoints beside it; the store gets everything."""
    with endpoints.opened(None) as opened:
        rows = opened.rows(OURS_GRPC, OURS_TCP, OURS_UNIX, EMPTY_GRPC, EMPTY_HTTP, endpoints.BASE_GRPC)
        assert list(rows) == [OURS_GRPC, OURS_TCP, OURS_UNIX, EMPTY_GRPC, EMPTY_HTTP]
        for row in rows.values():
            row.check()
        assert rows[OURS_GRPC].answer_bytes == pytest.approx(rows[EMPTY_GRPC].answer_bytes, abs=3)
        assert rows[OURS_TCP].server.cpu_seconds() > 0
        memory = rows[OURS_TCP].server.memory()
        assert 1 << 20 < memory.private < memory.resident
        opened.settle()
        assert opened.ours.place.metrics(servers.SHIPPED)[0] >= len(rule.CASES) * 3
