"""`serve` and `migrate`: the store itself, and its database's schema."""

import asyncio
import logging
import signal
from typing import Any

import click

from registry_store.cli.options import DATABASE, PEPPER_FILE, file, option, plainly
from registry_store.migrate import migrated
from registry_store.settings import Settings


@click.command()
@DATABASE
@option("--http", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="REST.")
@option("--grpc", default="127.0.0.1:50052", show_default=True, metavar="HOST:PORT", help="Sync.")
@option("--auto-activate", is_flag=True, help="Registration makes an agent active at once; for development.")
@PEPPER_FILE
@option(
    "--checkpoint-file",
    type=file(),
    help="Signed checkpoints of the activity log are appended to it, for `verify-log`; one file for each store.",
)
@plainly
def serve(**settings: Any) -> None:
    """Run the store until SIGTERM or SIGINT; then drain and stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    asyncio.run(_serve(Settings(**settings)))


@click.command()
@DATABASE
@plainly
def migrate(database: str) -> None:
    """Bring the database to the schema that this program needs."""
    asyncio.run(migrated(Settings(database).url()))


async def _serve(settings: Settings) -> None:
    from registry_store.app import running

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as store:
        click.echo(f"registry-store: http {store.http_address} grpc {store.grpc_address}")
        await stop.wait()
