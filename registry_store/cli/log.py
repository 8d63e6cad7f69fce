"""`export-log`, `verify-log` and `verify-decisions`: export the activity log, verify it and the decisions."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from registry_store.access.keys import Pepper
from registry_store.audit.chain import Chain, Fault
from registry_store.audit.checkpoints import Checkpoint, CheckpointError, Signer, read_file, signing_key
from registry_store.audit.verify import exported, verify_database, verify_export
from registry_store.audit.verify_decisions import Verification
from registry_store.cli.options import DATABASE, KEEP_DECISIONS, PEPPER_FILE, file, option, report_errors
from registry_store.database.migrate import opened
from registry_store.settings import Settings, read_secret

MAX_LINES = 50
"""Findings that are printed; there may be one for each decision."""
UNSIGNED_DECISIONS = "`--checkpoint-file` is required to detect a cut at the end, or a chain that was made anew"
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


@click.command("verify-decisions")
@DATABASE
@PEPPER_FILE
@option("--checkpoint-file", type=file(exists=True), help="File that `serve --checkpoint-file` wrote.")
@KEEP_DECISIONS
@report_errors
def verify_decisions(
    database: str, pepper_file: Path | None, checkpoint_file: Path | None, keep_decisions: int
) -> None:
    """Find what was deleted, changed, inserted or moved of the decisions and their batches.

    Exit code 0: they are intact; 1: they were changed, and the messages name the decisions, sidecars and records; 2:
    they cannot be verified.
    """
    settings = Settings(database, pepper_file=pepper_file, keep_decisions=keep_decisions)
    try:
        found, verified = asyncio.run(_verify_decisions(settings, checkpoint_file))
    except CheckpointError as error:
        click.echo(f"the checkpoints were changed: {error}", err=True)
        sys.exit(1)
    for line in verified.deleted[:MAX_LINES]:
        click.echo(line)
    if found:
        click.echo(f"the decisions were changed: {found:,} finding{'' if found == 1 else 's'}", err=True)
        sys.exit(1)
    click.echo(
        f"the decisions are intact: {verified.decisions:,} decisions and {verified.outcomes:,} outcomes in"
        f" {verified.batches:,} batches of {verified.sidecars:,} sidecars"
    )
    if verified.older:
        click.echo(f"not checked: {verified.older:,} decisions from before their batches were kept")
    if checkpoint_file is None:
        click.echo(f"not checked: {UNSIGNED_DECISIONS}")


async def _verify_decisions(settings: Settings, checkpoint_file: Path | None) -> tuple[int, Verification]:
    """Prints the first findings; returns how many there are, and what was checked."""
    number = 0
    cutoff = datetime.now(UTC) - settings.retention().decisions
    statements = (checkpoint.statement for checkpoint in _checkpoints(settings, checkpoint_file))
    async with opened(settings.url()) as database, database.reading() as session:
        verification = Verification(session, statements, cutoff)
        async for finding in verification.findings():
            number += 1
            if number <= MAX_LINES:
                click.echo(finding, err=True)
    if number > MAX_LINES:
        click.echo(f"and {number - MAX_LINES:,} more", err=True)
    return number, verification


def _chain(settings: Settings, checkpoint_file: Path | None) -> Chain:
    checkpoints = _checkpoints(settings, checkpoint_file)
    return Chain(signed=(signed for checkpoint in checkpoints for signed in checkpoint.signed()))


def _checkpoints(settings: Settings, checkpoint_file: Path | None) -> Iterator[Checkpoint]:
    """The checkpoints of the file; none without one."""
    if checkpoint_file is None:
        return iter(())
    # A new pepper would make every line invalid.
    signer = Signer(signing_key(Pepper(read_secret("--pepper-file", settings.pepper_path()))))
    return read_file(checkpoint_file, signer)


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
