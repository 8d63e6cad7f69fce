"""What the commands share: options that are environment variables too, and faults told in one line."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any

import click

from pdp.core.errors import InvalidRecordError
from registry_store.errors import RegistryError, StartError
from registry_store.journal.activity import Actor


def option(name: str, **described: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that is also the environment variable REGISTRY_STORE_NAME."""
    variable = f"REGISTRY_STORE_{name.removeprefix('--').replace('-', '_').upper()}"
    return click.option(name, envvar=variable, show_envvar=True, **described)


def file(*, exists: bool = False) -> click.Path:
    """A file's path; one that is there already, where `exists`."""
    return click.Path(exists=exists, dir_okay=False, path_type=Path)


DATABASE = option(
    "--database",
    default="sqlite:///registry.db",
    show_default=True,
    help="sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/NAME.",
)
PEPPER_FILE = option(
    "--pepper-file",
    type=file(),
    help="The secret that keys are hashed with. Default: beside the SQLite database.",
)


def plainly(function: Callable[..., None]) -> Callable[..., None]:
    """What keeps a command from doing its work is one line, and exit code 2."""

    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (StartError, RegistryError, InvalidRecordError) as error:
            click.echo(f"registry-store: {error}", err=True)
            sys.exit(2)

    return update_wrapper(wrapped, function)


def actor() -> Actor:
    """In whose name a command that works on the database itself does so."""
    return Actor("registry-store", "cli", datetime.now(UTC))
