"""Calls over the network: how many a second, the processor's time for each, and how long each takes."""

import math
from functools import partial
from pathlib import Path

from benchmarks import report
from benchmarks.options import Options
from benchmarks.report import Column, Point, Table, interleaved
from benchmarks.wire import endpoints as names
from benchmarks.wire import load
from benchmarks.wire.endpoints import Endpoints, opened, versions
from benchmarks.wire.load import Endpoint, Loaded

IN_FLIGHT = 64
ROWS = (
    names.CERBOS_GRPC,
    names.CERBOS_HTTP,
    names.EMPTY_GRPC,
    names.OURS_GRPC,
    names.EMPTY_HTTP,
    names.OURS_TCP,
    names.OURS_UNIX,
    names.EMPTY_FLOOR,
    names.BASE_GRPC,
    names.BASE_HTTP,
)
CLOSED = (Column("requests", "1/s"), Column("CPU per call", "µs"), Column("one in flight, mean", "µs"))
CLOSED_SECONDS, SINGLE_SECONDS = 1.5, 0.5
OVER_EMPTY = (
    (names.OURS_GRPC, names.EMPTY_GRPC),
    (names.OURS_TCP, names.EMPTY_HTTP),
    (names.OURS_TCP, names.EMPTY_FLOOR),
    (names.BASE_GRPC, names.EMPTY_GRPC),
    (names.BASE_HTTP, names.EMPTY_FLOOR),
)
"""What a row spends over the empty endpoint of its protocol."""
OPEN_RATE, OPEN_SECONDS = 1000, 3.0
OPEN_ROWS = (
    names.CERBOS_GRPC,
    names.CERBOS_HTTP,
    names.EMPTY_GRPC,
    names.OURS_GRPC,
    names.EMPTY_FLOOR,
    names.OURS_TCP,
    names.OURS_UNIX,
)
OPEN = (Column("sent", "1/s"), Column("median", "µs"), Column("p99", "µs"), Column("p99.9", "µs"))
CURVE_ROWS = (names.CERBOS_GRPC, names.CERBOS_HTTP, names.OURS_GRPC, names.OURS_TCP)
CURVE_SECONDS = 1.0
RATES = (100, 250, 500, 1000, 2000)
MIN_SENT = 0.95
"""A server to which less of the rate could be sent cannot take it: its curve ends there."""
COUNTS = (1, 8, 64, 256)


def run(options: Options) -> None:
    """The tables of `wire`, and the plots of latency against load and of throughput."""
    with opened(options.base) as endpoints:
        tables = [closed_loop(endpoints, options.rounds)]
        tables += [over_empty(tables[0]), open_loop(endpoints, options.rounds)]
        plots = curves(endpoints)
        report.write("wire", options.command("wire"), tables, versions(options.base), plots)


def closed_loop(endpoints: Endpoints, rounds: int) -> Table:
    """Calls as fast as they are answered: 64 at a time, then one at a time."""
    notes = [
        f"{IN_FLIGHT} in flight: gRPC on {load.GRPC_CONNECTIONS} connections, HTTP/1.1 on {IN_FLIGHT}",
        "CPU per call: of the server's process, in user and kernel mode, at 64 in flight; a sidecar's until its",
        "decisions are in the log and the store has acknowledged them",
    ]
    rows = endpoints.rows(*ROWS)
    table = Table("64 in flight, and one", CLOSED, names.CERBOS_GRPC, notes)
    many = {name: load.calls_in(row, IN_FLIGHT, CLOSED_SECONDS) for name, row in rows.items()}
    single = {name: load.calls_in(row, 1, SINGLE_SECONDS) for name, row in rows.items()}

    def once(name: str, row: Endpoint) -> dict[str, float]:
        endpoints.settle()
        loaded = load.closed(row, IN_FLIGHT, many[name], endpoints.settle)
        alone = load.mean_micros(row, single[name], endpoints.log)
        return dict(zip((column.name for column in CLOSED), (loaded.per_second, loaded.cpu_micros, alone), strict=True))

    return interleaved(table, rounds, {name: partial(once, name, row) for name, row in rows.items()})


def over_empty(table: Table) -> Table:
    """What a decision adds to the processor's time of its protocol, round by round."""
    added = Table("CPU per call over the empty endpoint of the same protocol", (CLOSED[1],), "")
    for name, empty in OVER_EMPTY:
        if name not in table.samples:
            continue
        for of_row, of_empty in zip(*(table.samples[one][CLOSED[1].name] for one in (name, empty)), strict=True):
            added.add(f"{name} less {empty}", {CLOSED[1].name: of_row - of_empty})
    based = f"{names.BASE_HTTP} less {names.EMPTY_FLOOR}"
    added.base = based if based in added.samples else next(iter(added.samples), "")
    return added


def open_loop(endpoints: Endpoints, rounds: int) -> Table:
    """Calls at a fixed rate, whatever the answers take."""
    notes = [
        f"h2load sends one call each millisecond, on {load.OPEN_CONNECTIONS} connections in turn, whatever answers",
        f"take; a call is late only behind one of {load.OPEN_CONNECTIONS} ms on its connection; each counts",
        "from its sending",
    ]
    table = Table("1,000 calls a second, open loop", OPEN, names.CERBOS_GRPC, notes)

    def once(row: Endpoint) -> dict[str, float]:
        endpoints.settle()
        paced = load.open_loop(row, OPEN_RATE, int(OPEN_RATE * OPEN_SECONDS), endpoints.log)
        values = (paced.per_second, *(load.quantile(paced.micros, share) for share in (0.5, 0.99, 0.999)))
        return dict(zip((column.name for column in OPEN), values, strict=True))

    return interleaved(table, rounds, {name: partial(once, row) for name, row in endpoints.rows(*OPEN_ROWS).items()})


def curves(endpoints: Endpoints) -> list[Path]:
    """Plot the 99th percentile against the rate, and throughput and processor time against the calls in flight."""
    rows = endpoints.rows(*CURVE_ROWS)
    open_ = {name: latencies(endpoints, row) for name, row in rows.items()}
    closed = {name: [(count, _closed(endpoints, row, count)) for count in COUNTS] for name, row in rows.items()}
    throughput = {name: [(count, one.per_second) for count, one in found] for name, found in closed.items()}
    processor = {name: [(count, one.cpu_micros) for count, one in found] for name, found in closed.items()}
    rate, in_flight = "calls a second", "calls in flight"
    return [
        report.plot("latency_against_load", "p99 by the rate of calls", (rate, "ms"), open_, log=(False, True)),
        report.plot("throughput", "Throughput", (in_flight, rate), throughput, log=(True, False)),
        report.plot("cpu_per_call", "Processor time of a call", (in_flight, "µs"), processor, log=(True, False)),
    ]


def _closed(endpoints: Endpoints, row: Endpoint, in_flight: int) -> Loaded:
    calls = load.calls_in(row, in_flight, CURVE_SECONDS)
    endpoints.settle()
    return load.closed(row, in_flight, calls, endpoints.settle)


def latencies(endpoints: Endpoints, row: Endpoint) -> list[Point]:
    """The 99th percentile in ms at each rate, up to the first that the server cannot take."""
    found: list[Point] = []
    for rate in RATES:
        endpoints.settle()
        paced = load.open_loop(row, rate, math.ceil(rate * CURVE_SECONDS), endpoints.log)
        if paced.per_second < rate * MIN_SENT:
            break
        found.append((rate, load.quantile(paced.micros, 0.99) / 1000))
    return found
