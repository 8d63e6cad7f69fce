"""`alerts list`, `alerts retry` and `alerts secret`: the outbox, directly in the database."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import click

from pdp.serving.printable import printable
from registry_store import outgoing
from registry_store.access import keys
from registry_store.alerts import outbox
from registry_store.alerts.outbox import AlertStatus, Filter, Kind
from registry_store.cli.options import DATABASE, PEPPER_FILE, file, option, report_errors
from registry_store.database.migrate import opened
from registry_store.database.tables import Alert
from registry_store.documents import instant
from registry_store.settings import Settings
from registry_store.webhooks import shared_secret

PAGE = 500


@click.group()
def alerts() -> None:
    """Alerts to people: by webhook, by mail and in channels."""


@alerts.command("list")
@DATABASE
@click.option("--status", type=click.Choice([status.value for status in AlertStatus]), help="Only of this status.")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only of this kind.")
@click.option("--limit", type=click.IntRange(1, PAGE), default=50, show_default=True, help="Maximum number of alerts.")
@report_errors
def list_alerts(database: str, status: str | None, kind: str | None, limit: int) -> None:
    """List alerts, newest first: id, time, status, kind, subject, count, and the last error."""
    wanted = Filter(AlertStatus(status) if status else None, Kind(kind) if kind else None)
    for alert in asyncio.run(_page(Settings(database), wanted, limit)):
        errors = [one["error"] for one in alert.deliveries.values() if one["error"]]
        line = f"{alert.alert_id}  {instant(alert.created_at)}  {alert.status:9}  {alert.kind:18}  {alert.subject}"
        click.echo(printable(f"{line}  {alert.count}{f'  ({errors[0]})' if errors else ''}"))


@alerts.command()
@DATABASE
@click.argument("alert_id", required=False)
@click.option("--all", "every", is_flag=True, help="Every alert that was given up.")
@report_errors
def retry(database: str, alert_id: str | None, *, every: bool) -> None:
    """Send an alert again, or with --all every alert that was given up; a running store sends them within a second."""
    if (alert_id is None) is not every:
        raise click.UsageError("give an alert id, or --all")
    number = asyncio.run(_retry(Settings(database), alert_id))
    click.echo(f"{number} to be sent again")


@alerts.command()
@DATABASE
@PEPPER_FILE
@option(
    "--webhook-secret-file", type=file(exists=True), help="File of the store's `--webhook-secret-file`, if it has one."
)
@report_errors
def secret(database: str, pepper_file: Path | None, webhook_secret_file: Path | None) -> None:
    """Print the secret with which receivers verify webhooks, in the form of Standard Webhooks."""
    settings = Settings(database, pepper_file=pepper_file, webhook_secret_file=webhook_secret_file)
    click.echo(asyncio.run(_secret(settings)))


async def _page(settings: Settings, wanted: Filter, limit: int) -> list[Alert]:
    async with opened(settings.url()) as database, database.reading() as session:
        rows, _ = await outbox.page(session, wanted, limit, 0)
    return list(rows)


async def _retry(settings: Settings, alert_id: str | None) -> int:
    async with opened(settings.url()) as database, database.beside() as session:
        if alert_id is None:
            return await outbox.retry_failed(session, datetime.now(UTC))
        await outbox.retry(session, alert_id, datetime.now(UTC))
    return 1


async def _secret(settings: Settings) -> str:
    async with opened(settings.url()) as database, database.writing() as session:
        pepper = await keys.pepper_of(session, settings.pepper_path())
    return shared_secret(outgoing.signing_keys(settings, pepper)[0])
