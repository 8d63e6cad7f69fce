"""Resident memory of the sidecar and of Cerbos, idle and after many decisions; each started anew for each round."""

import time
from functools import partial

from benchmarks import report
from benchmarks.options import Options
from benchmarks.report import Column, Table, interleaved
from benchmarks.wire import endpoints as names
from benchmarks.wire import load
from benchmarks.wire.endpoints import opened, versions
from benchmarks.wire.servers import Memory

ROWS = (names.CERBOS_GRPC, names.OURS_GRPC, names.OURS_TCP, names.BASE_GRPC)
MAX_ROUNDS = 2
"""Memory differs little between rounds, and each of them takes as long as its decisions."""
IN_FLIGHT = 64
IDLE_SECONDS = 10.0
"""Without calls, before memory is read."""
MIB = 1 << 20


def run(options: Options) -> None:
    """The table of `resident`."""
    rows = [name for name in ROWS if options.base or name != names.BASE_GRPC]
    after = f"after {options.decisions:,} decisions"
    columns = [Column(name, "MiB") for when in ("idle", after) for name in (when, _private(when))]
    table = Table("Resident memory", columns, names.CERBOS_GRPC)
    measures = {name: partial(measured, name, after, options) for name in rows}
    interleaved(table, min(options.rounds, MAX_ROUNDS), measures)
    report.write("resident", options.command("resident"), [table], versions(options.base))


def measured(name: str, after: str, options: Options) -> dict[str, float]:
    """One round of a row."""
    with opened(options.base) as endpoints:
        endpoint = endpoints.rows(name)[name]
        time.sleep(IDLE_SECONDS)
        idle = endpoint.server.memory()
        load.closed(endpoint, IN_FLIGHT, options.decisions, endpoints.settle)
        return _cells("idle", idle) | _cells(after, endpoint.server.memory())


def _cells(when: str, memory: Memory) -> dict[str, float]:
    return {when: memory.resident / MIB, _private(when): memory.private / MIB}


def _private(when: str) -> str:
    """The column of what belongs to the process alone; the rest are pages of files, which programs can share."""
    return f"{when}, private"
