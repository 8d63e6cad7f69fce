"""`apply` and `export`: manage the registry as a folder of YAML files, over the REST interface."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from pdp.serving.addresses import Address, in_clear
from registry_store.cli.options import file, option, report_errors
from registry_store.errors import StartError
from registry_store.gitops import folder as folders
from registry_store.gitops.folder import FolderError
from registry_store.gitops.plan import SIGNS, Plan, Step, plan, read_objects
from registry_store.gitops.remote import RegistryRequestError, Remote
from registry_store.settings import read_private

COLOURS = {"+": "green", "~": "yellow", "-": "red"}
DONE = {"create": "created", "change": "changed", "remove": "removed", "retire": "retired"}

FOLDER = click.option(
    "-f",
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder with the YAML files.",
)
URL = option("--url", required=True, help="REST interface of the store, such as https://registry.example.com.")
KEY_FILE = option(
    "--key-file", type=file(exists=True), help="File with an API key. Default: the key in $REGISTRY_STORE_KEY."
)


CA = option("--ca", type=file(exists=True), help="File with the authorities of the store's certificate.")
PLAINTEXT = option("--plaintext", is_flag=True, help="A mesh encrypts: allow an http URL beyond this host.")


def remote_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of a command that calls a store."""
    return URL(KEY_FILE(CA(PLAINTEXT(function))))


@click.command()
@FOLDER
@remote_options
@click.option("--prune", is_flag=True, help="Remove objects that the folder does not declare; agents are retired.")
@click.option("--dry-run", is_flag=True, help="Only show the plan; exit code 1 if it has steps.")
@click.option("--yes", is_flag=True, help="Do not ask before applying.")
@click.option("--note", default="", help="Note of the new versions and reason of the removals.")
@report_errors
def apply(folder: Path, *, prune: bool, dry_run: bool, yes: bool, note: str, **store: Any) -> None:
    """Apply a folder of YAML to the registry: show the plan, ask for confirmation, and execute it step by step.

    Exit code 0: the registry is as declared; 1: it is not, or with --dry-run the plan has steps; 2: a file is invalid,
    or the store rejected a request.
    """
    try:
        declared = folders.read(folder)
    except FolderError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    with _remote(**store) as remote:
        made = plan(remote, declared, prune=prune)
        _show(made)
        if dry_run:
            sys.exit(1 if made.steps else 0)
        if made.steps and _confirmed(yes=yes):
            _execute(remote, made.steps, note)


@click.command()
@FOLDER
@remote_options
@report_errors
def export(folder: Path, **store: Any) -> None:
    """Write the registry to an empty folder, as YAML for `apply`."""
    with _remote(**store) as remote:
        number = folders.write(folder, read_objects(remote))
    click.echo(f"{number} objects written to `{folder}`")


@contextmanager
def _remote(*, url: str, key_file: Path | None, ca: Path | None, plaintext: bool) -> Iterator[Remote]:
    key = os.environ.get("REGISTRY_STORE_KEY")
    if key_file is not None:
        key = read_private("--key-file", key_file).decode(errors="replace")
    if not key:
        raise StartError("`--key-file` or `REGISTRY_STORE_KEY` is required, and must not be empty")
    if not url.startswith(("http://", "https://")):
        raise StartError(f"`--url`: `{url}` is not an http or https URL")
    _check_encrypted(url, plaintext=plaintext)
    with closing(Remote(url, key, ca)) as remote:
        yield remote


def _check_encrypted(url: str, *, plaintext: bool) -> None:
    """Raise `StartError` if the key would be sent in clear beyond this host."""
    parts = urlsplit(url)
    address = Address(parts.hostname or "", parts.port or 80)
    if parts.scheme == "http" and not plaintext and not address.is_local:
        raise StartError(f"`--url`: {in_clear(address, 'an https URL')}")


def _show(made: Plan) -> None:
    for step in made.steps:
        _coloured(str(step))
        for line in step.lines:
            _coloured(f"    {line}")
    for note in made.notes:
        click.echo(f"note: {note}")
    counts = {sign: sum(SIGNS[step.verb] == sign for step in made.steps) for sign in COLOURS}
    click.echo(
        f"plan: {counts['+']} to create, {counts['~']} to change, {counts['-']} to remove, {made.unchanged} unchanged"
    )


def _coloured(line: str) -> None:
    click.secho(line, fg=COLOURS.get(line.lstrip()[:1]))


def _confirmed(*, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise StartError("`--yes` is required when stdin is not a terminal")
    return click.confirm("apply?")


def _execute(remote: Remote, steps: list[Step], note: str) -> None:
    for number, step in enumerate(steps):
        try:
            remote.call(step.method, step.path, _with_note(step, note), **step.headers)
        except RegistryRequestError as error:
            click.echo(f"{step}: {error}", err=True)
            click.echo(f"applied: {number} of {len(steps)}; run apply again for a new plan", err=True)
            sys.exit(2)
        _coloured(f"{step}: {DONE[step.verb]}")
    click.echo(f"applied: {len(steps)} of {len(steps)}")


def _with_note(step: Step, note: str) -> dict[str, object] | None:
    if step.method == "DELETE":
        return {"reason": note}
    has_versions = step.kind in (folders.AGENT, folders.ORGANISATION_POLICY)
    return step.body | {"version_notes": note} if step.body is not None and note and has_versions else step.body
