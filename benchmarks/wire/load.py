"""Load by h2load, which knows nothing of either program: gRPC over HTTP/2, and HTTP/1.1."""

import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.wire.servers import Server

GRPC = "application/grpc"
WARM_CALLS = 1000
MIN_CALLS = 200
GRPC_CONNECTIONS = 8
"""Over which calls in flight are spread, where there are as many; HTTP/1.1 has a connection for each."""
OPEN_CONNECTIONS = 50
"""Of an open loop; each sends at a fiftieth of the rate, and starts a little after the one before it."""
MIN_SIZE = 0.95
"""Of the bytes of an answer that allows: an answer with an error is much shorter."""

_DONE = re.compile(r"finished in ([0-9.]+)(us|ms|s|m)\b")
_REQUESTS = re.compile(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored")
_STATUS = re.compile(r"status codes: (\d+) 2xx")
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Target(NamedTuple):
    """A method of a server; `address` is `HOST:PORT`, or `unix:PATH` with HTTP/1.1."""

    server: Server
    address: str
    path: str
    content_type: str

    @property
    def is_grpc(self) -> bool:
        """Whether it is called by gRPC, else by HTTP/1.1."""
        return self.content_type == GRPC


class Endpoint(NamedTuple):
    """What is called: where, with which body, and how many bytes an answer that allows has.

    `check` exits if a call is not allowed.
    """

    target: Target
    body: Path
    answer_bytes: int
    check: Callable[[], None]

    @property
    def server(self) -> Server:
        """The process that answers."""
        return self.target.server


class Loaded(NamedTuple):
    """One run: calls a second, and microseconds of the server's processor per call."""

    calls: int
    per_second: float
    cpu_micros: float


class Paced(NamedTuple):
    """One run at a fixed rate: calls a second that were sent, and the sorted microseconds that they took."""

    per_second: float
    micros: list[int]


def version() -> str:
    """The version of h2load."""
    ran = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True)  # noqa: S607
    return ran.stdout.split("nghttp2/")[-1].strip()


def command(endpoint: Endpoint, options: Sequence[str]) -> list[str]:
    """The call of h2load."""
    _, address, path, content_type = endpoint.target
    kind = ["-H", "te: trailers"] if endpoint.target.is_grpc else ["--h1"]
    where = ["-B", address, f"http://localhost{path}"] if address.startswith("unix:") else [f"http://{address}{path}"]
    return ["h2load", *kind, "-H", f"content-type: {content_type}", "-d", str(endpoint.body), *options, *where]


def closed(endpoint: Endpoint, in_flight: int, calls: int, settle: Callable[[], None] = lambda: None) -> Loaded:
    """So many calls, `in_flight` of them at a time; what the server does until `settle` returns is counted too."""
    connections = min(in_flight, GRPC_CONNECTIONS) if endpoint.target.is_grpc else in_flight
    options = ["-c", str(connections), "-m", str(in_flight // connections), "-n", str(calls)]
    before = endpoint.server.cpu_seconds()
    seconds = _run(endpoint, options, calls)
    settle()
    used = endpoint.server.cpu_seconds() - before
    return Loaded(calls, calls / seconds, used / calls * 1e6)


def calls_in(endpoint: Endpoint, in_flight: int, seconds: float) -> int:
    """How many calls take about so long, after a run that warms the server up."""
    closed(endpoint, in_flight, WARM_CALLS)
    rate = closed(endpoint, in_flight, WARM_CALLS).per_second
    return max(MIN_CALLS, in_flight, int(rate * seconds) // in_flight * in_flight)


def open_loop(endpoint: Endpoint, rate: int, calls: int, log: Path) -> Paced:
    """So many calls, which are sent at `rate` whatever the answers take."""
    log.unlink(missing_ok=True)  # h2load appends
    _run(endpoint, [*paced(rate), "-n", str(calls), "--log-file", str(log)], calls)
    return read_log(log)


def paced(rate: int) -> list[str]:
    """The options for so many calls a second, a multiple or a divisor of 1,000: evenly apart, on a grid of 1 ms."""
    starts = max(1, rate // 1000)
    period = 1000 * starts // rate
    return [
        "-c",
        str(OPEN_CONNECTIONS),
        "-r",
        str(starts),
        f"--rate-period={period}ms",
        f"--rps={rate / OPEN_CONNECTIONS:g}",
    ]


def read_log(log: Path) -> Paced:
    """The calls of a run, by the log that h2load wrote of it."""
    sent, micros = zip(*((int(start), int(took)) for start, _, took in _logged(log)), strict=True)
    return Paced((len(sent) - 1) / (max(sent) - min(sent)) * 1e6, sorted(micros))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the sorted values does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def mean_micros(endpoint: Endpoint, calls: int, log: Path) -> float:
    """The mean of calls on one connection, one after the other."""
    log.unlink(missing_ok=True)
    _run(endpoint, ["-c", "1", "-m", "1", "-n", str(calls), "--log-file", str(log)], calls)
    return statistics.fmean(int(took) for _, _, took in _logged(log))


def checked(text: str, calls: int, answer_bytes: int) -> float:
    """Seconds of a run; ValueError if an answer was missing, no success, or too short to be an allow."""
    done, requests, status, data = (one.search(text) for one in (_DONE, _REQUESTS, _STATUS, _DATA))
    if not (done and requests and status and data):
        raise ValueError(f"unknown output of h2load: {text}")
    if [*map(int, requests.groups()), int(status[1])] != [calls, 0, 0, calls]:
        raise ValueError(f"not every call succeeded: {requests[0]}; {status[0]}")
    if int(data[1]) < calls * answer_bytes * MIN_SIZE:
        raise ValueError(f"{int(data[1]) / calls:.0f} bytes per answer, but one that allows has {answer_bytes}")
    return float(done[1]) * _SECONDS[done[2]]


def _logged(log: Path) -> list[list[str]]:
    """Of each call when it was sent, its status, and the microseconds until the end of its answer."""
    return [line.split() for line in log.read_text().splitlines()]


def _run(endpoint: Endpoint, options: Sequence[str], calls: int) -> float:
    made = command(endpoint, options)
    ran = subprocess.run(made, capture_output=True, text=True, check=False)
    endpoint.server.check()
    endpoint.check()
    try:
        return checked(ran.stdout, calls, endpoint.answer_bytes)
    except ValueError as error:
        sys.exit(f"{' '.join(made)}: {error} {ran.stderr}")
