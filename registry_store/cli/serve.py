"""`serve`, `migrate` and `new-epoch`: run the store, migrate the database, and start an epoch after a restore."""

import asyncio
import gc
import logging
import signal
from typing import Any

import click

from pdp.serving import logs
from registry_store.cli.options import (
    DATABASE,
    KEEP_DECISIONS,
    MAX_DAYS,
    PEPPER_FILE,
    actor,
    file,
    option,
    report_errors,
)
from registry_store.database.migrate import migrated, opened
from registry_store.journal import epochs
from registry_store.settings import Settings

logger = logging.getLogger(__name__)

MAX_SECONDS = 7 * 86_400


@click.command()
@DATABASE
@option("--http", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to serve REST.")
@option(
    "--grpc",
    default="127.0.0.1:50052",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve gRPC for sidecars.",
)
@option("--tls-cert", type=file(), help="Certificate of both listeners, in PEM.")
@option("--tls-key", type=file(), help="Key of that certificate.")
@option("--tls-client-ca", type=file(), help="Authorities of client certificates, which callers must then have.")
@option("--sidecar-names", type=file(), help="YAML file: the sidecars that need no key, by names in certificates.")
@option("--http-without-client-cert", is_flag=True, help="Callers of REST and the pages need no client certificate.")
@option("--plaintext", is_flag=True, help="A mesh encrypts: allow addresses beyond this host without TLS.")
@option(
    "--metrics",
    metavar="HOST:PORT",
    help="Where to serve metrics and probes alone, beside `--http`; in clear on any address.",
)
@option("--traces", is_flag=True, help="Send a span of each change by OTLP; needs the extra `otel`.")
@option("--auto-activate", is_flag=True, help="Activate agents at registration; for development.")
@PEPPER_FILE
@option(
    "--checkpoint-file",
    type=file(),
    help="Append signed checkpoints, for `verify-log` and `verify-decisions`; one file for each store.",
)
@option("--checkpoint-url", metavar="URL", help="Also post each signed checkpoint to this https URL.")
@option(
    "--webhook-secret-file",
    type=file(),
    help="File with the secret that signs webhooks. Default for alerts: one made from the pepper.",
)
@option(
    "--webhook-previous-secret-file",
    type=file(exists=True),
    help="File with the previous secret, while receivers change to the new one: webhooks are signed with both.",
)
@option("--webhook-private", is_flag=True, help="Allow webhooks to private, loopback and link-local addresses.")
@option("--webhook-ca", type=file(exists=True), help="File with an authority that webhooks trust beside the system's.")
@option(
    "--smtp-url",
    metavar="URL",
    help="SMTP relay for alerts: smtp://[USER:PASSWORD@]HOST[:PORT] with STARTTLS, or smtps://… with TLS.",
)
@option("--smtp-from", metavar="ADDRESS", help="Sender of the mails.")
@option(
    "--alert-url",
    multiple=True,
    metavar="URL",
    help="Channel for every alert, as apprise writes it; needs the extra `alerts`. Repeatable.",
)
@option("--public-url", metavar="URL", help="Address of this store for people; alerts link to their approval there.")
@option(
    "--sidecar-stale-after",
    type=click.IntRange(1, MAX_SECONDS),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Alert when a connected sidecar has not applied a change for so long.",
)
@option(
    "--sidecar-silent-after",
    type=click.IntRange(30, MAX_SECONDS),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Alert when no store has heard a sidecar for so long, unless it was stopped.",
)
@option(
    "--keep-alerts",
    type=click.IntRange(1, MAX_DAYS),
    default=90,
    show_default=True,
    metavar="DAYS",
    help="Delete alerts this long after they were sent or given up.",
)
@option(
    "--escalation-team",
    default="",
    metavar="GROUP",
    help="Group of keys that decides on escalations if neither the policy nor the agent names a team. Default: admins.",
)
@option("--approver-mfa", is_flag=True, help="Only keys made with `--mfa` decide on actions that need MFA.")
@KEEP_DECISIONS
@option(
    "--keep-usage",
    type=click.IntRange(2, MAX_DAYS),
    default=400,
    show_default=True,
    metavar="DAYS",
    help="Delete usage per minute after this time.",
)
@option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True, help="Lowest level to log.")
@option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="plain",
    show_default=True,
    help="Plain text, or one JSON object per line.",
)
@report_errors
def serve(log_level: str, log_format: str, **settings: Any) -> None:
    """Run the store until SIGTERM or SIGINT, then drain and stop.

    To listen on every address of the machine, of IPv6 and IPv4, give [::]:PORT.
    """
    logs.configure(log_level, log_format)
    asyncio.run(_serve(Settings(**settings)))


@click.command()
@DATABASE
@report_errors
def migrate(database: str) -> None:
    """Migrate the database to the schema of this version."""
    asyncio.run(migrated(Settings(database).url()))


@click.command("new-epoch")
@DATABASE
@report_errors
def new_epoch(database: str) -> None:
    """Start a new epoch after a restore from backup, so that every sidecar gets a snapshot.

    Revisions after the backup are lost and their numbers are reused. Sidecars that saw them must not confuse them with
    the new ones. Prints the new epoch.
    """
    click.echo(asyncio.run(_renew(Settings(database))))


async def _renew(settings: Settings) -> str:
    async with opened(settings.url()) as database, database.writing() as session:
        return await epochs.renew(session, actor())


async def _serve(settings: Settings) -> None:
    from pdp.serving.connections import raise_descriptor_limit
    from registry_store.app import running

    raise_descriptor_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as store:
        gc.freeze()  # else each full collection traverses all that was imported, and holds up every caller for 0.1 s
        metrics = "" if store.metrics_address is None else f" metrics {store.metrics_address}"
        click.echo(f"registry-store: http {store.http_address} grpc {store.grpc_address}{metrics}")
        logger.info(
            "listening for HTTP on %s, for gRPC on %s",
            store.http_address,
            store.grpc_address,
            extra={"http": store.http_address, "grpc": store.grpc_address},
        )
        if store.metrics_address is not None:
            logger.info("serving metrics and probes on %s", store.metrics_address)
        await stop.wait()
        logger.info("stopping")
