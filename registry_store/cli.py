"""The command line of the registry store."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any

import click

from registry_store import keys as api_keys
from registry_store.activity import Actor
from registry_store.errors import CannotStart, RegistryError
from registry_store.keys import Pepper, Role
from registry_store.migrate import migrated, opened
from registry_store.settings import Settings, load_pepper


def option(name: str, **described: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that is also the environment variable REGISTRY_STORE_NAME."""
    variable = f"REGISTRY_STORE_{name.removeprefix('--').replace('-', '_').upper()}"
    return click.option(name, envvar=variable, show_envvar=True, **described)


DATABASE = option(
    "--database",
    default="sqlite:///registry.db",
    show_default=True,
    help="sqlite:///FILE, or postgresql://USER:PASSWORD@HOST/NAME.",
)
PEPPER_FILE = option(
    "--pepper-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The secret that keys are hashed with. Default: beside the SQLite database.",
)


def plainly(function: Callable[..., None]) -> Callable[..., None]:
    """What keeps a command from doing its work is one line, and exit code 2."""

    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (CannotStart, RegistryError) as error:
            click.echo(f"registry-store: {error}", err=True)
            sys.exit(2)

    return update_wrapper(wrapped, function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agent-pdp")
def main() -> None:
    """The registry of AI agents: agents, policies, MCP servers, and the sidecars that sync from it.

    Every option is also an environment variable: REGISTRY_STORE_DATABASE for --database, and so on.
    """


@main.command()
@DATABASE
@option("--http", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="REST.")
@option("--grpc", default="127.0.0.1:50052", show_default=True, metavar="HOST:PORT", help="Sync.")
@option("--auto-activate", is_flag=True, help="Registration makes an agent active at once; for development.")
@PEPPER_FILE
@plainly
def serve(database: str, http: str, grpc: str, auto_activate: bool, pepper_file: Path | None) -> None:
    """Run the store until SIGTERM or SIGINT; then drain and stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = Settings(database, http, grpc, auto_activate, pepper_file)
    asyncio.run(_serve(settings))


@main.command()
@DATABASE
@plainly
def migrate(database: str) -> None:
    """Bring the database to the schema that this program needs."""
    asyncio.run(migrated(Settings(database).url()))


@main.group()
def keys() -> None:
    """API keys."""


@keys.command()
@DATABASE
@PEPPER_FILE
@option("--role", type=click.Choice([role.value for role in Role]), required=True)
@option("--name", required=True, help="Who holds the key; the activity log shows it.")
@option("--agent-id", help="Of role agent alone: the agent that it is.")
@option("--expires-at", metavar="TIME", help="RFC 3339, as 2030-01-31T12:00:00Z. Default: never.")
@plainly
def create(database: str, pepper_file: Path | None, **body: str | None) -> None:
    """Create a key and print it, alone; it cannot be read again."""
    click.echo(asyncio.run(_create_key(Settings(database, pepper_file=pepper_file), body)))


@keys.command("list")
@DATABASE
@plainly
def list_keys(database: str) -> None:
    """List keys: id, role, name, state."""
    for key in asyncio.run(_keys(Settings(database))):
        state = "revoked" if key.revoked_at else "valid" if api_keys.is_valid(key, datetime.now(UTC)) else "expired"
        click.echo(f"{key.key_id}  {key.role:8}  {state:7}  {key.name}")


@keys.command()
@DATABASE
@click.argument("key_id")
@plainly
def revoke(database: str, key_id: str) -> None:
    """Revoke a key: it opens nothing from now on."""
    asyncio.run(_revoke_key(Settings(database), key_id))


async def _serve(settings: Settings) -> None:
    from registry_store.app import running

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as store:
        click.echo(f"registry-store: http {store.http_address} grpc {store.grpc_address}")
        await stop.wait()


async def _create_key(settings: Settings, body: dict[str, Any]) -> str:
    pepper = Pepper(load_pepper(settings.pepper_path()))
    async with opened(settings.url()) as database, database.writing() as session:
        await pepper.check(session)
        _, text = await api_keys.create(session, pepper, body, _actor())
    return text


async def _keys(settings: Settings) -> list[Any]:
    async with opened(settings.url()) as database, database.reading() as session:
        rows, _ = await api_keys.page(session, limit=None, offset=0)
    return list(rows)


async def _revoke_key(settings: Settings, key_id: str) -> None:
    async with opened(settings.url()) as database, database.writing() as session:
        await api_keys.revoke(session, key_id, _actor())


def _actor() -> Actor:
    return Actor("registry-store", "cli", datetime.now(UTC))


if __name__ == "__main__":
    main()
