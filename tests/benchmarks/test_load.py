"""The command lines of h2load, and what is read from its output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.wire import load
from benchmarks.wire.load import GRPC, Endpoint, Target

OUTPUT = """\
finished in 3.90s, 1026.49 req/s, 297.05KB/s
requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.13MB (1185300) total, 12.30KB (12600) headers (space savings 96.11%), 929.69KB (952000) data
                     min         max         mean         sd        +/- sd
time for request:      846us    177.92ms     61.47ms     23.36ms    75.52%
"""


def endpoint(address: str, content_type: str) -> Endpoint:
    """An endpoint whose server nobody asks for."""
    server: Any = None
    return Endpoint(Target(server, address, "/Evaluate", content_type), Path("body"), 238, lambda: None)


def test_grpc_is_called_with_its_headers() -> None:
    """HTTP/2 without TLS is what h2load speaks by itself."""
    made = load.command(endpoint("127.0.0.1:50051", GRPC), ["-n", "1"])
    assert made == [
        *("h2load", "-H", "te: trailers", "-H", "content-type: application/grpc", "-d", "body"),
        *("-n", "1", "http://127.0.0.1:50051/Evaluate"),
    ]


def test_a_unix_socket_is_called_by_its_path() -> None:
    """The URL then only has the path."""
    made = load.command(endpoint("unix:/run/pdp.sock", "application/proto"), [])
    assert made == [
        *("h2load", "--h1", "-H", "content-type: application/proto", "-d", "body"),
        *("-B", "unix:/run/pdp.sock", "http://localhost/Evaluate"),
    ]


def test_the_time_of_a_run_is_read() -> None:
    """In seconds, whatever the unit of h2load."""
    assert load.checked(OUTPUT, 4000, 238) == 3.9
    assert load.checked(OUTPUT.replace("3.90s", "181.59ms"), 4000, 238) == pytest.approx(0.18159)


@pytest.mark.parametrize(
    ("change", "answer_bytes", "why"),
    [
        (lambda text: text.replace("0 failed", "1 failed"), 238, "not every call succeeded"),
        (lambda text: text.replace("4000 2xx, 0 3xx", "3999 2xx, 1 3xx"), 238, "not every call succeeded"),
        (lambda text: text.replace("4000 succeeded", "3999 succeeded"), 238, "not every call succeeded"),
        (lambda text: text, 300, "238 bytes per answer, but one that allows has 300"),
        (lambda text: text[:20], 238, "unknown output"),
    ],
)
def test_a_run_with_a_wrong_answer_fails(change: Callable[[str], str], answer_bytes: int, why: str) -> None:
    """Also one whose answers are too short to allow: a status of gRPC is not in the output."""
    with pytest.raises(ValueError, match=why):
        load.checked(change(OUTPUT), 4000, answer_bytes)


@pytest.mark.parametrize(("rate", "starts", "period", "each"), [(100, 1, 10, 2), (1000, 1, 1, 20), (2000, 2, 1, 40)])
def test_calls_at_a_rate_are_evenly_apart(rate: int, starts: int, period: int, each: int) -> None:
    """All connections have started when the first one sends again."""
    assert load.paced(rate) == ["-c", "50", "-r", str(starts), f"--rate-period={period}ms", f"--rps={each}"]
    assert load.OPEN_CONNECTIONS / starts * period == 1000 / each


def test_calls_at_a_rate_are_read_from_the_log(tmp_path: Path) -> None:
    """Its lines are in the order of the answers."""
    log = tmp_path / "log"
    log.write_text("3000\t200\t40\n1000\t200\t2100\n2000\t200\t70\n")
    assert load.read_log(log) == load.Paced(per_second=1000.0, micros=[40, 70, 2100])


def test_a_quantile_is_one_of_the_values() -> None:
    """The highest share is the highest value."""
    values = list(range(1, 1001))
    assert [load.quantile(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [501, 991, 1000, 1000]


def test_a_slow_server_still_has_every_connection_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """h2load refuses fewer calls than connections."""
    monkeypatch.setattr(load, "closed", lambda _endpoint, _in_flight, calls: load.Loaded(calls, 10.0, 1.0))
    assert load.calls_in(endpoint("127.0.0.1:1", GRPC), 256, 1.5) == 256
    assert load.calls_in(endpoint("127.0.0.1:1", GRPC), 64, 1.5) == load.MIN_CALLS
