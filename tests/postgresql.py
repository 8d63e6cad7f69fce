"""A real PostgreSQL for tests: a cluster in a temporary folder, reached by its Unix socket alone, gone afterwards.

`python -m tests.postgresql` says how to install it where it is missing; with `installed`, exit code 1 says that it is.
"""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

START_SECONDS = 60.0
STOP_SECONDS = 60.0
MEMORY_BYTES = 2 * 1024**3
MISSING = "PostgreSQL is not installed; the tests of it need: apt-get install --yes postgresql"
QUICK = (
    "deadlock_timeout=300ms",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=64MB",
    "max_connections=200",
)


class Cluster:
    """A PostgreSQL server of the test's own, as another user where this one is root; it can be stopped and started."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.folder = folder
        self._binaries = binaries
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self.user, self._as_user = _account(folder)
        self._run(
            *self._as_user,
            binaries / "initdb",
            "--pgdata",
            self._data,
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        )

    def start(self, *settings: str) -> None:
        """Start the server, and return once it answers."""
        options = [part for setting in (*QUICK, *settings) for part in ("-c", setting)]
        sockets = ("-c", f"unix_socket_directories={self.folder}", "-c", "listen_addresses=")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, self._binaries / "postgres", "-D", self._data, *sockets, *options],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < deadline, self._log()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its connections first, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def create(self, template: str = "template1") -> str:
        """The name of a new database, a copy of `template`."""
        name = f"test_{next(self._numbers)}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop(self, name: str) -> None:
        """Delete a database, whoever is connected to it."""
        self.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """The URL of a database, as the store's setting takes it."""
        return f"postgresql://{self.user}@/{name}?host={self.folder}"

    def sql(self, name: str, statement: str) -> str:
        """What `psql` prints of the rows that a statement gives: columns apart by `|`."""
        options = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-U", self.user, "-d", name)
        return self._run(self._binaries / "psql", *options, "-c", statement)

    def _answers(self) -> bool:
        command = [self._binaries / "pg_isready", "-q", "-h", self.folder]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _log(self) -> str:
        return (self.folder / "log").read_text()


def _account(folder: Path) -> tuple[str, list[str]]:
    """Who owns the cluster in `folder`, and how a command is run as that user: the server refuses to run as root.

    Not by `subprocess`'s own `user`: with it the interpreter forks, which a process with gRPC in it may not survive.
    """
    if os.geteuid() != 0:
        return getpass.getuser(), []
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = users.get("postgres") or users["nobody"]
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    owner = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return entry.pw_name, ["setpriv", *owner, "--pdeathsig=QUIT"]


def binaries() -> Path | None:
    """The folder of the newest server's programs, if one is installed."""
    found = [
        path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres") if path.parent.parent.name.isdigit()
    ]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    program = shutil.which("pg_config")
    if program is None:
        return None
    folder = Path(subprocess.run([program, "--bindir"], capture_output=True, text=True, check=True).stdout.strip())
    return folder if (folder / "postgres").exists() else None


def _roomy_memory() -> Path | None:
    """Where files are kept in memory, if there is room: databases come and go four times as fast there."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return memory
    return None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster; without the programs the test is skipped, and in CI, which skips nothing, it fails."""
    folder = binaries()
    if folder is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    # A path of a socket is at most 107 bytes long, which pytest's own temporary folders can pass.
    home = Path(tempfile.mkdtemp(prefix="pg-", dir=_roomy_memory()))
    try:
        running = Cluster(folder, home)
        running.start()
        try:
            yield running
        finally:
            running.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__" and binaries() is None:
    sys.exit(MISSING) if "installed" in sys.argv else sys.stderr.write(f"{MISSING}\n")
