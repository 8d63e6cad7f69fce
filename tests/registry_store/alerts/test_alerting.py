"""A store that tells people: by webhook and by mail, with its settings and commands."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import trustme
from click.testing import CliRunner, Result

from registry_store import outgoing
from registry_store.alerts import mail
from registry_store.cli import main
from registry_store.errors import StartError
from registry_store.settings import Settings
from tests.registry_store.alerts.receivers import Mailbox, Receiver
from tests.registry_store.conftest import settings_in
from tests.registry_store.reporting import decision, report
from tests.registry_store.serving import in_thread, served
from tests.waiting import eventually, eventually_gives

AGENT = "finance-transaction-processor-prod"


@pytest.fixture
def settings(tmp_path: Path, ca: Path) -> Settings:
    return settings_in(
        tmp_path,
        webhook_private=True,
        webhook_ca=ca,
        public_url="https://registry.example.com/",
    )


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["alerts", *arguments, "--database", settings.database])


async def test_people_learn_of_an_approval(settings: Settings, receiver: Receiver, authority: trustme.CA) -> None:
    """The webhook verifies with the secret that the command prints, and mail goes over STARTTLS where it is offered."""
    context = mail.ssl.SSLContext(mail.ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Mailbox(tls_context=context, require_starttls=True).open() as mailbox:
        settings = replace(settings, smtp_url=mailbox.url, smtp_from="registry@example.com")
        with served(settings) as store:
            admin = await in_thread(store.rest)
            fields = {"webhook_url": receiver.url, "alert_recipients": ["ann@example.com"]}
            await in_thread(partial(admin.register, AGENT, **fields))
            approval_id = str(uuid.uuid4())
            await in_thread(report, store, decision("escalate", opens=approval_id))
            await eventually(lambda: receiver.bodies and mailbox.mails)
            await eventually_gives(partial(in_thread, admin.get, "/api/alerts?status=delivered"), _has_one)
            (alert,) = admin.get("/api/alerts").body["alerts"]
    secret = (await in_thread(run, settings, "secret")).stdout.strip()
    told = standardwebhooks.Webhook(secret).verify(receiver.bodies[0], receiver.headers[0])
    link = f"https://registry.example.com/approvals/{approval_id}"
    assert told["data"]["detail"]["link"] == alert["detail"]["link"] == link
    assert link in mailbox.mails[0][1].get_content()
    assert {one["to"]: one["error"] for one in alert["deliveries"]} == {receiver.url: None, "ann@example.com": None}
    assert (alert["status"], alert["count"], alert["agent_id"]) == ("delivered", 1, AGENT)


def _has_one(answer: Any) -> bool:
    return bool(answer.body["total"] == 1)


async def test_an_alert_outlives_a_restart(settings: Settings, receiver: Receiver) -> None:
    """The next store sends what the last one could not, under the same id."""
    receiver.statuses += [500] * 1000
    with served(settings) as store:
        admin = await in_thread(store.rest)
        await in_thread(partial(admin.register, AGENT, webhook_url=receiver.url))
        await in_thread(admin.post, f"/api/agents/registry/{AGENT}/activate")
        await in_thread(admin.post, f"/api/agents/registry/{AGENT}/suspend")
        await eventually(lambda: len(receiver.statuses) < 1000)
    receiver.statuses.clear()
    with served(settings) as store:
        (row,) = await in_thread(store.sql, "SELECT alert_id FROM alerts")
        await in_thread(run, settings, "retry", row[0])
        await eventually(lambda: receiver.bodies)
    assert {headers["webhook-id"] for headers in receiver.headers} == {row[0]}


def test_commands_show_the_outbox_and_send_again(settings: Settings) -> None:
    """What was given up, one by one or all; lines stay lines whatever an alert says."""
    with served(settings) as store:
        store.rest().register(AGENT)
    given_up = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d %H:%M:%S.000000}"
    columns = "alert_id, kind, subject, agent_id, to_operator, since, count, detail, status, attempts, failures"
    columns += ", deliveries, created_at, updated_at, next_attempt_at, give_up_at"
    deliveries = '{"https://a": {"channel": "webhook", "count": 0, "error": "a\\nb", "at": ""}}'
    with served(settings) as store:
        for number in (1, 2):
            values = (
                f"'alert_{number}', 'suspended', 'agent-{number}', NULL, 1, '{given_up}', 7, '{{}}', 'failed', 50, 50"
            )
            values += f", '{deliveries}', '{given_up}', '{given_up}', NULL, '{given_up}'"
            store.sql(f"INSERT INTO alerts ({columns}) VALUES ({values})")
    listed = run(settings, "list", "--status", "failed", "--kind", "suspended").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["alert_2", "alert_1"]
    assert listed[0].endswith(r"failed     suspended           agent-2  7  (a\nb)")
    assert run(settings, "retry", "alert_1").stdout == "1 to be sent again\n"
    assert run(settings, "retry", "--all").stdout == "1 to be sent again\n"
    assert run(settings, "list", "--status", "failed").stdout == ""
    assert run(settings, "retry", "alert_3").stderr == "registry-store: no alert `alert_3`\n"
    assert run(settings, "retry").exit_code == run(settings, "retry", "alert_1", "--all").exit_code == 2


def test_the_secret_is_that_of_the_file_or_of_the_pepper(settings: Settings, tmp_path: Path) -> None:
    """Stores with one pepper sign alike; a file wins, and a previous one signs beside it."""
    with served(settings):
        pass
    of_pepper = run(settings, "secret").stdout
    assert of_pepper == run(settings, "secret").stdout
    (tmp_path / "old").write_text(of_pepper)
    (tmp_path / "new").write_text("n" * 40)
    for name in ("old", "new"):
        (tmp_path / name).chmod(0o600)
    of_file = run(settings, "secret", "--webhook-secret-file", str(tmp_path / "new")).stdout
    assert of_file == "whsec_" + "bm5u" * 13 + "bg==\n"
    both = replace(settings, webhook_secret_file=tmp_path / "new", webhook_previous_secret_file=tmp_path / "old")
    keys = outgoing.signing_keys(both)
    assert [outgoing.signing_keys(replace(settings, webhook_secret_file=tmp_path / "old")), len(keys)] == [keys[1:], 2]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"smtp_url": "smtp://localhost"}, "`--smtp-url` and `--smtp-from` require each other"),
    ({"smtp_from": "a@example.com"}, "`--smtp-url` and `--smtp-from` require each other"),
    ({"smtp_url": "http://localhost", "smtp_from": "a@b"}, "`--smtp-url`: not a URL such as `smtp://[USER:PASSWORD@]"),
    ({"smtp_url": "smtp://a:secret@", "smtp_from": "a@b"}, "`--smtp-url`: not a URL such as `smtp://[USER:PASSWORD@]"),
    ({"smtp_url": "smtp://h:99999", "smtp_from": "a@b"}, "`--smtp-url`: not a URL such as `smtp://[USER:PASSWORD@]"),
    ({"smtp_url": "smtp://h", "smtp_from": "a\nb@c"}, "`--smtp-from`: `a\nb@c` is not an e-mail address"),
    ({"alert_url": ("json://a", "nothing:secret")}, "`--alert-url`: number 2 is not a URL that apprise knows"),
    ({"public_url": "ftp://a"}, "`--public-url`: `ftp://a` is not an http or https URL without a query"),
    ({"public_url": "https://a/?b"}, "`--public-url`: `https://a/?b` is not an http or https URL without a query"),
    ({"webhook_ca": Path("/dev/null")}, "`--webhook-ca`: `/dev/null` holds no certificate: "),
    ({"webhook_previous_secret_file": Path("/nowhere")}, "`--webhook-previous-secret-file`: cannot read `/nowhere`"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_a_wrong_setting_stops_the_start(wrong: dict[str, Any], message: str) -> None:
    """With the flag, and without the secrets in it."""
    with pytest.raises(StartError) as error:
        outgoing.routes(replace(Settings(), **wrong))
    assert str(error.value).startswith(message)
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://relay.example.com", "relay.example.com", 587, False),
        ("smtps://u:p%40w@relay.example.com", "relay.example.com", 465, True),
        ("smtp://[::1]:25/", "::1", 25, False),
    ],
)
def test_a_relay_is_read_from_its_url(url: str, host: str, port: int, tls: bool) -> None:
    """User and password are decoded, and never shown."""
    relay = mail.read(url, "a@example.com")
    assert relay is not None
    assert (relay.host, relay.port, relay.tls, relay.password) == (host, port, tls, "p@w" if tls else None)
    assert "p@w" not in repr(relay)
