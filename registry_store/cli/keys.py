"""`keys create`, `keys list` and `keys revoke`: manage API keys directly in the database."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pdp.serving import secret_files
from pdp.serving.printable import printable
from registry_store.access import keys as api_keys
from registry_store.access.keys import Role
from registry_store.cli.options import DATABASE, PEPPER_FILE, actor, file, option, report_errors
from registry_store.database.migrate import opened
from registry_store.database.tables import Key
from registry_store.errors import StartError
from registry_store.settings import Settings


@click.group()
def keys() -> None:
    """API keys."""


@keys.command()
@DATABASE
@PEPPER_FILE
@option("--role", type=click.Choice([role.value for role in Role]), required=True)
@option("--name", required=True, help="Holder of the key; shown in the activity log.")
@option("--agent-id", help="Agent that uses the key; only with role agent.")
@option(
    "--group",
    multiple=True,
    help="Group whose approvals the key may decide; only with role approver or admin. Repeatable.",
)
@option("--mfa", is_flag=True, help="The holder signs in with MFA; only with role approver or admin.")
@option("--agents", metavar="ID,…", help="Agents that the sidecar may sync and report on; only with role sidecar.")
@option(
    "--tags", metavar="TAG,…", help="Tags of agents that the sidecar may sync and report on; only with role sidecar."
)
@option("--expires-at", metavar="TIME", help="Time in RFC 3339, such as 2030-01-31T12:00:00Z. Default: never.")
@click.option("--out", type=file(), help="Write the key to this new file (mode 0600) instead of printing it.")
@report_errors
def create(
    *,
    database: str,
    pepper_file: Path | None,
    group: tuple[str, ...],
    mfa: bool,
    agents: str | None,
    tags: str | None,
    out: Path | None,
    **body: str | None,
) -> None:
    """Create a key and print it or write it to a file. It cannot be shown again."""
    lists = {"groups": group, "mfa": mfa, "agents": _names(agents), "tags": _names(tags)}
    settings = Settings(database, pepper_file=pepper_file)
    if out is None:
        click.echo(asyncio.run(_create(settings, body | lists, lambda _: None)))
        return
    _create_in(out, settings, body | lists)
    click.echo(f"key written to `{out}`")


@keys.command("list")
@DATABASE
@report_errors
def list_keys(database: str) -> None:
    """List keys: id, role, state, name, and groups and mfa, agents or tags."""
    for key in asyncio.run(_all(Settings(database))):
        state = "revoked" if key.revoked_at else "valid" if api_keys.is_valid(key, datetime.now(UTC)) else "expired"
        click.echo(printable(f"{key.key_id}  {key.role:8}  {state:7}  {key.name}{_scope(key)}"))


@keys.command()
@DATABASE
@click.argument("key_id")
@report_errors
def revoke(database: str, key_id: str) -> None:
    """Revoke a key, at once."""
    asyncio.run(_revoke(Settings(database), key_id))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _scope(key: Key) -> str:
    if key.groups or key.mfa:
        return f"  ({', '.join([*key.groups, *(['mfa'] if key.mfa else [])])})"
    if key.agents:
        return f"  (agents {', '.join(key.agents)})"
    return f"  (tags {', '.join(key.tags)})" if key.tags else ""


def _create_in(out: Path, settings: Settings, body: dict[str, Any]) -> None:
    """Creates a key and writes it to a new file before the commit, so that neither exists without the other."""
    kept = False

    def keep(text: str) -> None:
        nonlocal kept
        _write(out, text)
        kept = True

    try:
        asyncio.run(_create(settings, body, keep))
    except BaseException:
        if kept:
            out.unlink(missing_ok=True)
        raise


def _write(out: Path, text: str) -> None:
    try:
        secret_files.write_new(out, f"{text}\n".encode())
    except FileExistsError:
        raise StartError(f"`--out`: `{out}` already exists and is not overwritten") from None
    except OSError as error:
        raise StartError(f"`--out`: cannot write `{out}`: {error.strerror}") from None


async def _create(settings: Settings, body: dict[str, Any], keep: Callable[[str], None]) -> str:
    async with opened(settings.url()) as database, database.writing() as session:
        pepper = await api_keys.pepper_of(session, settings.pepper_path())
        _, text = await api_keys.create(session, pepper, body, actor())
        keep(text)
    return text


async def _all(settings: Settings) -> list[Any]:
    async with opened(settings.url()) as database, database.reading() as session:
        rows, _ = await api_keys.page(session, limit=None, offset=0)
    return list(rows)


async def _revoke(settings: Settings, key_id: str) -> None:
    async with opened(settings.url()) as database, database.writing() as session:
        await api_keys.revoke(session, key_id, actor())
