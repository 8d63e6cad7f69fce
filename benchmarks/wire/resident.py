"""Resident memory of the sidecar and of Cerbos, idle and after many decisions; each started anew for each round."""

from functools import partial

from benchmarks import report
from benchmarks.options import Options
from benchmarks.report import Column, Table, interleaved
from benchmarks.wire import endpoints as names
from benchmarks.wire import load
from benchmarks.wire.endpoints import opened, versions

ROWS = (names.CERBOS_GRPC, names.OURS_GRPC, names.BASE_GRPC)
MAX_ROUNDS = 2
"""Memory differs little between rounds, and each of them takes as long as its decisions."""
IN_FLIGHT = 64
MIB = 1 << 20


def run(options: Options) -> None:
    """The table of `resident`."""
    rows = [name for name in ROWS if options.base or name != names.BASE_GRPC]
    after = f"after {options.decisions:,} decisions"
    table = Table("Resident memory", (Column("idle", "MiB"), Column(after, "MiB")), names.CERBOS_GRPC)
    measures = {name: partial(measured, name, after, options) for name in rows}
    interleaved(table, min(options.rounds, MAX_ROUNDS), measures)
    report.write("resident", options.command("resident"), [table], versions(options.base))


def measured(name: str, after: str, options: Options) -> dict[str, float]:
    """One round of a row."""
    with opened(options.base) as endpoints:
        endpoint = endpoints.rows(name)[name]
        idle = endpoint.server.resident_bytes()
        load.closed(endpoint, IN_FLIGHT, options.decisions, endpoints.settle)
        return {"idle": idle / MIB, after: endpoint.server.resident_bytes() / MIB}
