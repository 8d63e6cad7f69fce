"""The database's URL: what is wrong with it is one line, and its password is never printed."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from registry_store.cli import main
from registry_store.errors import StartError
from registry_store.settings import database_url

SECRET = "s3cretpw"
COMMANDS = {
    "serve": [],
    "migrate": [],
    "new-epoch": [],
    "verify-log": [],
    "verify-decisions": [],
    "export-log": [],
    "keys list": [],
    "keys create": ["--role", "admin", "--name", "x"],
    "keys revoke": ["0123456789abcdef"],
}


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h:abc/db",
        f"postgresql://u:{SECRET}@h:/db",
        f"postgresql://u:{SECRET}@h:0/db",
        f"postgresql://u:{SECRET}@h:99999/db",
        f"postgresql://u:{SECRET}@[::1/db",
        f"postgresql:/u:{SECRET}@h/db",
        f"u:{SECRET}@h/db",
        f"postgresql://u:x@{SECRET}@h/db",
        f"mysql://u:{SECRET}@h/db",
        f"sqlite://u:{SECRET}@h/",
        f"sqlite://u:{SECRET}@h/file",
    ],
)
def test_a_wrong_url_is_said_without_its_password(url: str) -> None:
    """Before anything is connected to."""
    with pytest.raises(StartError) as refused:
        database_url(url)
    assert str(refused.value).startswith("`--database`: ")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h:abc/db",
        f"{SECRET}",
        f"postgresql://u:{SECRET}@127.0.0.1:1/db",
        f"postgresql://u@127.0.0.1:1/db?password={SECRET}",
        f"postgresql://u:{SECRET}@127.0.0.1:1/db?port=abc&host=x",
        f"postgresql://u:{SECRET}@127.0.0.1:1/db?sslmode=maybe",
        f"postgresql://u:{SECRET}@{'h' * 100}/db",
        f"sqlite:///{{folder}}/missing/{{folder}}/registry.db?password={SECRET}",
        "sqlite:///{folder}/registry.db?timeout=abc",
        "sqlite:///{folder}/\0",
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_the_password_of_a_database_that_it_cannot_use(
    command: str, url: str, tmp_path: Path
) -> None:
    """One line, exit code 2."""
    (tmp_path / "pepper").write_text("0" * 64)
    (tmp_path / "pepper").chmod(0o600)
    pepper = ["--pepper-file", str(tmp_path / "pepper")] if command in ("serve", "keys create") else []
    options = ["--database", url.format(folder=tmp_path), *pepper, *COMMANDS[command]]
    ended = CliRunner().invoke(main, [*command.split(), *options])
    assert (ended.exit_code, len(ended.stderr.splitlines())) == (2, 1), ended.output
    assert ended.stderr.startswith("registry-store: `--database`: ")
    assert SECRET not in ended.output
