"""The files of a SQLite database are their owner's alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry_store.cli import main
from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import served

ENDINGS = ("", "-wal", "-shm")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever the process takes away from the modes of new files."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(database: Path) -> dict[str, int]:
    """The mode of each file of the database that there is."""
    found = {ending: database.with_name(f"{database.name}{ending}") for ending in ENDINGS}
    return {ending: path.stat().st_mode & 0o777 for ending, path in found.items() if path.exists()}


@pytest.mark.usefixtures("umask")
def test_a_new_database_is_its_owners_alone(tmp_path: Path) -> None:
    """While a store runs on it there are three files."""
    with served(settings_in(tmp_path)) as store:
        store.rest().register("first-reader-prod")
        assert modes(tmp_path / "registry.db") == dict.fromkeys(ENDINGS, 0o600)


@pytest.mark.parametrize("command", [["migrate"], ["keys", "create", "--role", "admin", "--name", "root"]])
def test_a_command_that_makes_the_database_keeps_it_private(command: list[str], tmp_path: Path) -> None:
    """As `serve` does."""
    before = os.umask(0)
    try:
        ended = CliRunner().invoke(main, [*command, "--database", f"sqlite:///{tmp_path / 'registry.db'}"])
    finally:
        os.umask(before)
    assert ended.exit_code == 0, ended.output
    assert modes(tmp_path / "registry.db")[""] == 0o600


def test_what_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    """A mistaken path changes no file of somebody else's."""
    other = tmp_path / "passwd"
    other.write_text("root:x:0:0:root:/root:/bin/bash\n" * 100)
    other.chmod(0o644)
    ended = CliRunner().invoke(main, ["migrate", "--database", f"sqlite:///{other}"])
    assert (ended.exit_code, "not a database" in ended.stderr) == (2, True)
    assert other.stat().st_mode & 0o777 == 0o644


def test_the_files_of_an_older_version_are_closed(tmp_path: Path) -> None:
    """Also those beside a database that was not closed cleanly, and behind a link."""
    real, link = tmp_path / "real.db", tmp_path / "registry.db"
    link.symlink_to(real)
    with served(settings_in(tmp_path)) as store:
        admin = store.rest()
        for ending in ENDINGS:
            real.with_name(f"real.db{ending}").chmod(0o644)
        listed = CliRunner().invoke(main, ["keys", "list", "--database", f"sqlite:///{link}"])
        assert listed.exit_code == 0, listed.output
        assert modes(real) == dict.fromkeys(ENDINGS, 0o600)
        admin.register("still-writing-prod")  # the store's own locks are as they were
