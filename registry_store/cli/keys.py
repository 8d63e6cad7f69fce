"""`keys create`, `keys list`, `keys revoke`: API keys, on the database itself."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pdp.serving.printable import printable
from registry_store.access import keys as api_keys
from registry_store.access.keys import Pepper, Role
from registry_store.cli.options import DATABASE, PEPPER_FILE, actor, option, plainly
from registry_store.database.migrate import opened
from registry_store.database.tables import Key
from registry_store.settings import Settings, load_pepper


@click.group()
def keys() -> None:
    """API keys."""


@keys.command()
@DATABASE
@PEPPER_FILE
@option("--role", type=click.Choice([role.value for role in Role]), required=True)
@option("--name", required=True, help="Who holds the key; the activity log shows it.")
@option("--agent-id", help="Of role agent alone: the agent that it is.")
@option("--group", multiple=True, help="Of role approver alone: a group whose approvals it decides; may be repeated.")
@option("--agents", metavar="ID,…", help="Of role sidecar alone: the agents that it may sync and report of.")
@option("--tags", metavar="TAG,…", help="Of role sidecar alone: it may do so for agents with one of these tags.")
@option("--expires-at", metavar="TIME", help="RFC 3339, as 2030-01-31T12:00:00Z. Default: never.")
@plainly
def create(
    database: str,
    pepper_file: Path | None,
    group: tuple[str, ...],
    agents: str | None,
    tags: str | None,
    **body: str | None,
) -> None:
    """Create a key and print it, alone; it cannot be read again."""
    lists = {"groups": group, "agents": _names(agents), "tags": _names(tags)}
    click.echo(asyncio.run(_create(Settings(database, pepper_file=pepper_file), body | lists)))


@keys.command("list")
@DATABASE
@plainly
def list_keys(database: str) -> None:
    """List keys: id, role, state, name, and its groups or what it is bound to."""
    for key in asyncio.run(_all(Settings(database))):
        state = "revoked" if key.revoked_at else "valid" if api_keys.is_valid(key, datetime.now(UTC)) else "expired"
        click.echo(printable(f"{key.key_id}  {key.role:8}  {state:7}  {key.name}{_scope(key)}"))


@keys.command()
@DATABASE
@click.argument("key_id")
@plainly
def revoke(database: str, key_id: str) -> None:
    """Revoke a key: it opens nothing from now on."""
    asyncio.run(_revoke(Settings(database), key_id))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _scope(key: Key) -> str:
    if key.groups:
        return f"  ({', '.join(key.groups)})"
    if key.agents:
        return f"  (agents {', '.join(key.agents)})"
    return f"  (tags {', '.join(key.tags)})" if key.tags else ""


async def _create(settings: Settings, body: dict[str, Any]) -> str:
    pepper = Pepper(load_pepper(settings.pepper_path()))
    async with opened(settings.url()) as database, database.writing() as session:
        await pepper.check(session)
        _, text = await api_keys.create(session, pepper, body, actor())
    return text


async def _all(settings: Settings) -> list[Any]:
    async with opened(settings.url()) as database, database.reading() as session:
        rows, _ = await api_keys.page(session, limit=None, offset=0)
    return list(rows)


async def _revoke(settings: Settings, key_id: str) -> None:
    async with opened(settings.url()) as database, database.writing() as session:
        await api_keys.revoke(session, key_id, actor())
