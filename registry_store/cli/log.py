"""`export-log` and `verify-log`: export and verify the activity log."""

import asyncio
import sys
from pathlib import Path

import click

from registry_store.access.keys import Pepper
from registry_store.audit.chain import Chain, Fault
from registry_store.audit.checkpoints import CheckpointError, Signer, read_file, signing_key
from registry_store.audit.verify import exported, verify_database, verify_export
from registry_store.cli.options import DATABASE, PEPPER_FILE, file, option, report_errors
from registry_store.database.migrate import opened
from registry_store.settings import Settings, read_secret

UNSIGNED = "`--checkpoint-file` is required to detect a truncated or rewritten log whose recorded end was changed too"


@click.command("export-log")
@DATABASE
@option("--after", type=click.IntRange(0), default=0, show_default=True, help="Only entries after this sequence.")
@report_errors
def export_log(database: str, after: int) -> None:
    """Write the activity log to standard output as JSON lines, oldest first."""
    asyncio.run(_export(Settings(database), after))


@click.command("verify-log")
@DATABASE
@PEPPER_FILE
@option("--checkpoint-file", type=file(exists=True), help="File that `serve --checkpoint-file` wrote.")
@option(
    "--log",
    type=file(exists=True),
    help="Verify this export instead of the database; it must start with the first entry.",
)
@report_errors
def verify_log(database: str, pepper_file: Path | None, checkpoint_file: Path | None, log: Path | None) -> None:
    """Find the first entry of the activity log that was changed, removed, inserted or moved.

    Exit code 0: the log is intact; 1: it was changed, and the message names the entry; 2: it cannot be verified.
    """
    settings = Settings(database, pepper_file=pepper_file)
    chain = _chain(settings, checkpoint_file)
    try:
        fault = verify_export(log, chain) if log else asyncio.run(_verify(settings, chain))
    except CheckpointError as error:
        _fail(error)
    if fault is not None:
        _fail(fault)
    click.echo(f"the activity log is intact: {chain.sequence} entries, head {chain.hash}")
    if checkpoint_file is None:
        click.echo(f"not checked: {UNSIGNED}")


def _chain(settings: Settings, checkpoint_file: Path | None) -> Chain:
    if checkpoint_file is None:
        return Chain()
    path = settings.pepper_path()
    signer = Signer(
        signing_key(Pepper(read_secret("--pepper-file", path)))
    )  # a new pepper would make every line invalid
    checkpoints = read_file(checkpoint_file, signer)
    return Chain(signed=(signed for checkpoint in checkpoints for signed in checkpoint.signed()))


def _fail(fault: Fault | CheckpointError) -> None:
    click.echo(f"the activity log was changed: {fault}", err=True)
    sys.exit(1)


async def _verify(settings: Settings, chain: Chain) -> Fault | None:
    async with opened(settings.url()) as database, database.reading() as session:
        return await verify_database(session, chain)


async def _export(settings: Settings, after: int) -> None:
    async with opened(settings.url()) as database, database.reading() as session:
        async for line in exported(session, after):
            click.echo(line, nl=False)
