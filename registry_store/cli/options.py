"""Shared by the commands: options that are also environment variables, and errors in one line."""

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

MAX_DAYS = 36_500


def option(name: str, **described: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that can also be set by the environment variable REGISTRY_STORE_NAME."""
    variable = f"REGISTRY_STORE_{name.removeprefix('--').replace('-', '_').upper()}"
    return click.option(name, envvar=variable, show_envvar=True, **described)


def file(*, exists: bool = False) -> click.Path:
    """The type of a file path; with `exists`, the file must exist."""
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
    help="File with the secret that keys are hashed with. Default: beside the SQLite database.",
)

KEEP_DECISIONS = option(
    "--keep-decisions",
    type=click.IntRange(1, MAX_DAYS),
    default=90,
    show_default=True,
    metavar="DAYS",
    help="Decisions are deleted this long after the store received them.",
)


def report_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a command report an error in one line, with exit code 2."""

    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (StartError, RegistryError, InvalidRecordError) as error:
            click.echo(f"registry-store: {error}", err=True)
            sys.exit(2)

    return update_wrapper(wrapped, function)


def actor() -> Actor:
    """The actor of a command that changes the database directly."""
    return Actor("registry-store", "cli", datetime.now(UTC))
