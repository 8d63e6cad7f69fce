"""Starting, stopping and administering a store from the command line; its probes and its schema."""

import asyncio
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine

from registry_store.cli import main
from registry_store.rest.resources import operations
from registry_store.settings import load_pepper
from tests.registry_store.serving import WAIT_SECONDS, Rest, Served

PROGRAM = [sys.executable, "-m", "registry_store"]


def run(*arguments: object, **environment: str) -> Result:
    """The program with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


@contextmanager
def serving(database: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`registry-store serve` as a process of its own, and its HTTP address."""
    command = [*PROGRAM, "serve", "--database", database, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[2]
        finally:
            process.kill()


def test_a_store_is_administered_from_the_command_line(tmp_path: Path) -> None:
    """keys create prints the key alone, and it opens the store until it is revoked; SIGTERM ends the store with 0."""
    database = f"sqlite:///{tmp_path / 'registry.db'}"
    created = run("keys", "create", "--role", "admin", "--name", "root", "--database", database)
    key = created.stdout.strip()
    assert (created.exit_code, created.stdout) == (0, f"{key}\n")
    assert stat.S_IMODE((tmp_path / "registry.db.pepper").stat().st_mode) == 0o600
    with serving(database) as (process, address):
        rest = Rest(address, key)
        rest.register("command-line-prod")
        listed = run("keys", "list", REGISTRY_STORE_DATABASE=database).stdout
        assert [line.split() for line in listed.splitlines()] == [[key.split("_")[1], "admin", "valid", "root"]]
        assert run("keys", "revoke", key.split("_")[1], "--database", database).exit_code == 0
        assert rest.get("/api/keys").status == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    assert run("keys", "revoke", "nothing", "--database", database).exit_code == 2


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """After SIGKILL the store starts again with every change that it had answered."""
    database = f"sqlite:///{tmp_path / 'registry.db'}"
    key = run("keys", "create", "--role", "admin", "--name", "root", "--database", database).stdout.strip()
    with serving(database) as (process, address):
        Rest(address, key).register("acknowledged-prod")
        process.kill()
        process.wait(WAIT_SECONDS)
    with serving(database) as (_process, address):
        assert Rest(address, key).get("/api/agents/registry/acknowledged-prod").status == 200


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--http", "TAKEN"], ["`--http`: ", "address already in use"]),
        (["--grpc", "TAKEN"], ["`--grpc`: ", "address already in use"]),
        (["--http", "nowhere"], ["`--http`: ", "HOST:PORT"]),
        (["--grpc", "127.0.0.1:99999"], ["`--grpc`: ", "0 to 65535"]),
        (["--database", "nonsense"], ["`--database`: ", "sqlite:///FILE"]),
        (["--database", "mysql://host/name"], ["`--database`: ", "sqlite, postgresql"]),
        (["--database", "sqlite://"], ["`--database`: ", "no file"]),
        (["--database", "sqlite:////nowhere/registry.db"], ["`--database`: ", "unable to open"]),
        (["--database", f"sqlite:///{__file__}"], ["`--database`: ", "not a database"]),
        (["--database", "postgresql://a:secret@127.0.0.1:1/x"], ["`--pepper-file`", "required"]),
        (["--pepper-file", "/nowhere/pepper"], ["--pepper-file", "cannot write"]),
    ],
)
def test_what_keeps_the_store_from_starting_is_one_line(
    tmp_path: Path, taken: str, arguments: list[str], words: list[str]
) -> None:
    """Exit code 2, and one line on stderr that names the setting."""
    settings = {"--database": f"sqlite:///{tmp_path / 'registry.db'}", "--http": "127.0.0.1:0", "--grpc": "127.0.0.1:0"}
    settings[arguments[0]] = arguments[1].replace("TAKEN", taken)
    ended = run("serve", *(part for setting in settings.items() for part in setting))
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert all(word in line for word in words), line
    assert "secret" not in line


def test_an_unreachable_postgresql_is_one_line(tmp_path: Path) -> None:
    """The address is shown, the password is not."""
    pepper = tmp_path / "pepper"
    ended = run("serve", "--database", "postgresql://a:secret@127.0.0.1:1/x", "--pepper-file", pepper)
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert "127.0.0.1:1" in line
    assert "secret" not in line


def test_a_pepper_open_to_everyone_is_refused(tmp_path: Path) -> None:
    """A secret that any user of the machine can read is none."""
    pepper = tmp_path / "pepper"
    pepper.write_text("x" * 64)
    pepper.chmod(0o644)
    ended = run("keys", "create", "--role", "admin", "--name", "x", "--pepper-file", pepper)
    assert ended.exit_code == 2
    said = f"`--pepper-file`: other users can read `{pepper}` (mode 0644): run `chmod 600 {pepper}`"
    assert ended.stderr == f"registry-store: {said}\n"


def test_a_key_can_be_written_to_a_new_file(tmp_path: Path) -> None:
    """Of mode 0600, and printed nowhere; a file that is there is left as it is, and then no key is made."""
    database, out = f"--database=sqlite:///{tmp_path / 'registry.db'}", tmp_path / "admin.key"
    create = ("keys", "create", "--role", "admin", "--name", "root", database, "--out", out)
    first = run(*create)
    assert (first.exit_code, first.stdout) == (0, f"key written to `{out}`\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    key = out.read_text()
    assert key.startswith("owkai_")
    again = run(*create)
    assert (again.exit_code, again.stderr) == (
        2,
        f"registry-store: `--out`: `{out}` already exists and is not overwritten\n",
    )
    nowhere = run(*create[:-1], tmp_path / "nowhere" / "key")
    assert (nowhere.exit_code, "`--out`: cannot write" in nowhere.stderr) == (2, True)
    assert out.read_text() == key
    assert len(run("keys", "list", database).stdout.splitlines()) == 1


@pytest.mark.parametrize("command", [("keys", "create", "--role", "admin", "--name", "x"), ("serve",)], ids=" ".join)
def test_a_pepper_that_is_missing_is_not_replaced(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Where the database has keys the message says which file is missing, and none is made."""
    database, pepper = f"--database=sqlite:///{tmp_path / 'registry.db'}", tmp_path / "registry.db.pepper"
    assert run("keys", "create", "--role", "admin", "--name", "root", database).exit_code == 0
    pepper.rename(tmp_path / "moved")
    ended = run(*command, database)
    assert ended.exit_code == 2
    assert ended.stderr == (
        f"registry-store: `--pepper-file`: `{pepper}` does not exist; "
        "it must hold the pepper of the keys in this database\n"
    )
    assert not pepper.exists()


def test_migrating_twice_is_harmless_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """migrate brings an empty database up; a schema of tomorrow stops the program of today."""
    database = f"sqlite:///{tmp_path / 'registry.db'}"
    for _ in range(2):
        assert run("migrate", "--database", database).exit_code == 0
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    ended = run("migrate", "--database", database)
    assert (ended.exit_code, "newer than this program" in ended.stderr) == (2, True)


def test_the_probes_and_metrics_need_no_key(store: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """healthz, readyz and metrics answer anyone; the metrics parse and count requests by route."""
    monkeypatch.setattr(operations, "MAX_DATABASE_AGE_SECONDS", WAIT_SECONDS)
    anyone, admin = store.rest(None), store.rest()
    admin.register("measured-prod")
    for number in range(3):
        admin.get("/api/agents/registry/measured-prod")
        anyone.get(f"/nothing/{number}")
    assert anyone.get("/healthz").body == {"status": "ok"}
    assert anyone.get("/readyz").body["status"] == "ready"
    families = text_string_to_metric_families(anyone.get("/metrics").body)
    counted = {
        (sample.labels.get("route"), sample.labels.get("status")): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "registry_store_http_requests_total"
    }
    assert counted["/api/agents/registry/{agent_id}", "200"] == 3
    assert counted["none", "404"] == 3
    assert counted["/api/agents/registry", "201"] == 1


def test_a_connection_is_kept_while_nothing_is_asked(fresh: Served) -> None:
    """For longer than a load balancer's minute, so that no call meets the store just as it hangs up."""

    async def pass_seconds(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time
        loop.time = lambda: now() + seconds  # type: ignore[method-assign]
        await asyncio.sleep(0)

    with closing(HTTPConnection(fresh.running.http_address, timeout=WAIT_SECONDS)) as connection:
        connection.connect()
        connection.auto_open = 0
        for seconds in (0, 60):
            fresh.run(pass_seconds(seconds))
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"status":"ok"}'


def test_programs_that_start_at_once_share_one_pepper(tmp_path: Path) -> None:
    """None of them reads a pepper that another has but half written, or writes over it."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            path = tmp_path / f"pepper-{number}"
            assert len(set(pool.map(partial(load_pepper, is_new=True), [path] * 8))) == 1
    assert len(list(tmp_path.iterdir())) == 100
