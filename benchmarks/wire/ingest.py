"""What a decision costs the store that receives it: processor time, and bytes of its database.

A sidecar decides, and sends its log as always. Counted are the store's process and, with PostgreSQL, its server.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import report
from benchmarks.options import Options
from benchmarks.report import Column, Table, interleaved
from benchmarks.wire import base, load
from benchmarks.wire.endpoints import Endpoints, Started, installed, opened, versions
from benchmarks.wire.servers import SHIPPED, cpu_seconds
from tests import postgresql
from tests.postgresql import Cluster

DECISIONS = 20_000
"""So many that what an idle store does meanwhile, some 30 ms of each second, is a small part."""
IN_FLIGHT = 16
MAX_ROUNDS = 3
COLUMNS = (Column("CPU", "µs"), Column("database", "bytes"))
OURS, BASE = "this commit", "base"

Measure = Callable[[], dict[str, float]]


def run(options: Options) -> None:
    """A table for each database that is installed."""
    tables = []
    with opened(options.base) as endpoints:
        for kind, databases in (("SQLite", _sqlite), ("PostgreSQL", _postgresql)):
            if kind == "PostgreSQL" and postgresql.binaries() is None:
                print("PostgreSQL is not installed: left out")
                continue
            title = f"One decision at the store, {kind}"
            table = Table(title, COLUMNS, BASE if options.base else OURS, [f"{DECISIONS:,} decisions in a round"])
            with databases(endpoints, options.base) as rows:
                for measure in rows.values():
                    measure()
                tables.append(interleaved(table, min(options.rounds, MAX_ROUNDS), rows))
        report.write("ingest", options.command("ingest"), tables, versions(options.base))


@contextmanager
def _sqlite(endpoints: Endpoints, commit: str | None) -> Iterator[Mapping[str, Measure]]:
    with ExitStack() as stack:
        rows: dict[str, Measure] = {}
        for name, found in _commits(commit).items():
            folder = Path(stack.enter_context(TemporaryDirectory()))
            started = installed(stack, folder, found)
            size = partial(_sqlite_bytes, folder / "registry.db")
            rows[name] = partial(measured, endpoints, started, started.store.cpu_seconds, size)
        yield rows


@contextmanager
def _postgresql(endpoints: Endpoints, commit: str | None) -> Iterator[Mapping[str, Measure]]:
    """A server for each, so that the processor time of each can be told."""
    with ExitStack() as stack:
        rows: dict[str, Measure] = {}
        for name, found in _commits(commit).items():
            folder = Path(stack.enter_context(TemporaryDirectory()))
            cluster = stack.enter_context(postgresql.cluster())
            database = cluster.create()
            url = cluster.url(database)
            started = installed(stack, folder, found, url)
            rows[name] = partial(
                measured,
                endpoints,
                started,
                partial(_cpu_with, started, cluster),
                partial(_postgresql_bytes, cluster, database),
            )
        yield rows


def _commits(commit: str | None) -> dict[str, base.Base | None]:
    return ({BASE: base.installed(commit)} if commit else {}) | {OURS: None}


def measured(
    endpoints: Endpoints, started: Started, cpu: Callable[[], float], size: Callable[[], int]
) -> dict[str, float]:
    """One round: from the first decision until the store has acknowledged the last."""
    endpoint = endpoints.evaluate(f"ingest {started.http}", started.sidecar, started.http)
    started.place.until_shipped()
    (shipped,) = started.place.metrics(SHIPPED)
    used, held = cpu(), size()
    load.closed(endpoint, IN_FLIGHT, DECISIONS)
    started.place.until_shipped()
    (acknowledged,) = started.place.metrics(SHIPPED)
    received = acknowledged - shipped
    return {"CPU": (cpu() - used) / received * 1e6, "database": (size() - held) / received}


def _sqlite_bytes(path: Path) -> int:
    """Of pages in use, those in the write-ahead log included."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


def _postgresql_bytes(cluster: Cluster, database: str) -> int:
    return int(cluster.sql(database, f"SELECT pg_database_size('{database}')"))


def _cpu_with(started: Started, cluster: Cluster) -> float:
    """Of the store, and of the database's server and what that started."""
    server = int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return started.store.cpu_seconds() + sum(cpu_seconds(pid) for pid in (server, *map(int, children)))
