"""Delivery: each alert to every target, tried again where one fails, and no target holds up another."""

import asyncio
import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from registry_store import webhooks
from registry_store.alerts import causes, channels, delivery, mail, outbox
from registry_store.alerts.channels import Channel
from registry_store.alerts.delivery import Delivery
from registry_store.alerts.outbox import LEASE, Event, Kind, of_agent
from registry_store.alerts.routes import Routes, Target
from registry_store.database.migrate import opened
from registry_store.database.tables import Agent, Alert
from registry_store.database.transactions import Database
from registry_store.journal.activity import Actor
from registry_store.metrics import Metrics
from registry_store.records import agents
from registry_store.settings import Settings
from registry_store.webhooks import DeliveryError, Outbound, shared_secret
from tests.registry_store.alerts.conftest import Clock
from tests.registry_store.alerts.receivers import Mailbox, Receiver
from tests.waiting import eventually, eventually_gives

AGENT = "finance-transaction-processor-prod"
KEY = b"k" * 32
APPROVAL = {"approval_id": "0192", "action_type": "a\r\nSubject: b", "message": "<script>\u202e", "amount": None}


class Log(Routes):
    """Targets that only note what they get: `failing` fails, `hanging` hangs until the test ends."""

    def __init__(self, **lanes: list[str]) -> None:
        super().__init__((), Outbound())
        object.__setattr__(self, "lanes", lanes)
        object.__setattr__(self, "told", [])
        object.__setattr__(self, "failing", set())

    lanes: dict[str, list[str]]
    told: list[tuple[str, str, int]]
    failing: set[str]
    __slots__ = ("failing", "lanes", "told")

    def targets(self, alert: Alert, agent: Mapping[str, Any]) -> Iterator[Target]:
        for lane, names in self.lanes.items():
            for name in names:
                yield Target("webhook", name, lane, partial(self._tell, name, lane, alert))

    async def _tell(self, name: str, lane: str, alert: Alert) -> None:
        if lane == "hanging":
            await asyncio.Event().wait()
        if name in self.failing:
            raise DeliveryError(f"{name} answered 500")
        self.told.append((name, alert.alert_id, alert.count))


async def raised(database: Database, clock: Clock, *events: Event) -> None:
    async with database.beside() as session:
        await outbox.add(session, events or [of_agent(Kind.HIGH_RISK, AGENT, {})], clock())


async def statuses(database: Database) -> list[tuple[str, int]]:
    async with database.reading() as session:
        rows, _ = await outbox.page(session, outbox.Filter(), 100, 0)
    return [(row.status, row.attempts) for row in rows]


async def test_only_the_target_that_failed_is_tried_again(database: Database, clock: Clock) -> None:
    """Under the same id, until all have it."""
    routes = Log(one=["a", "b"])
    routes.failing.add("b")
    sending = Delivery(database, routes, Metrics(), clock)
    await raised(database, clock)
    await sending.send_due()
    assert await statuses(database) == [("pending", 1)]
    routes.failing.clear()
    clock.move(seconds=10)
    await sending.send_due()
    await sending.send_due()
    assert await statuses(database) == [("delivered", 2)]
    assert [name for name, _, _ in routes.told] == ["a", "b"]
    assert len({alert_id for _, alert_id, _ in routes.told}) == 1


async def test_a_store_that_dies_while_it_sends_loses_nothing(settings: Settings, clock: Clock) -> None:
    """Another sends it once more, under the same id, when the lease has ended."""
    async with opened(settings.url()) as database:
        await raised(database, clock)
        dying = asyncio.create_task(Delivery(database, Log(hanging=["a"]), Metrics(), clock).send_due())
        await eventually_gives(partial(statuses, database), [("pending", 1)].__eq__)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    async with opened(settings.url()) as database:
        routes = Log(one=["a"])
        await Delivery(database, routes, Metrics(), clock).send_due()
        assert routes.told == []
        clock.move(seconds=LEASE.total_seconds())
        await Delivery(database, routes, Metrics(), clock).send_due()
        assert (len(routes.told), await statuses(database)) == (1, [("delivered", 2)])


async def test_stores_share_the_work(settings: Settings, database: Database, clock: Clock) -> None:
    """Of two that send at the same time, one sends each alert."""
    events = [of_agent(Kind.HIGH_RISK, f"agent-{number}", {}) for number in range(30)]
    await raised(database, clock, *events)
    routes = Log(one=["a"])
    async with opened(settings.url()) as other:
        await asyncio.gather(*(Delivery(one, routes, Metrics(), clock).send_due() for one in (database, other)))
    assert len(routes.told) == len({alert_id for _, alert_id, _ in routes.told}) == 30


class HangingForHighRisk(Log):
    """Targets of two hosts: one hangs."""

    def targets(self, alert: Alert, agent: Mapping[str, Any]) -> Iterator[Target]:
        lane = "hanging" if alert.kind == "high_risk" else "healthy"
        yield Target("webhook", lane, lane, partial(self._tell, lane, lane, alert))


async def test_a_target_that_hangs_holds_up_no_other(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its alerts wait for a turn, and then count as failed; those of others go out meanwhile."""
    monkeypatch.setattr(delivery, "LANE_SECONDS", 0.01)
    routes, many = HangingForHighRisk(), 3 * delivery.MAX_IN_LANE
    sending = Delivery(database, routes, Metrics(), clock)
    await raised(database, clock, *(of_agent(Kind.HIGH_RISK, f"agent-{number}", {}) for number in range(many)))
    stuck = asyncio.create_task(sending.send_due())
    await eventually(lambda: "hanging" in sending._lanes and sending._lanes["hanging"].turns.locked())
    await eventually(lambda: sending._lanes["hanging"].users == delivery.MAX_IN_LANE)  # the others gave up
    await raised(database, clock, of_agent(Kind.ESCALATION, AGENT, {}))
    await sending.send_due()
    assert [name for name, _, _ in routes.told] == ["healthy"]
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


async def test_an_error_of_this_program_is_a_failure_of_one_target(database: Database, clock: Clock) -> None:
    """It is tried again like any other, and ends with its day."""

    class Broken(Log):
        async def _tell(self, name: str, lane: str, alert: Alert) -> None:
            raise KeyError(name)

    sending = Delivery(database, Broken(one=["a"]), Metrics(), clock)
    await raised(database, clock)
    await sending.send_due()
    assert await statuses(database) == [("pending", 1)]
    clock.move(days=1)
    await sending.send_due()
    assert await statuses(database) == [("failed", 2)]


async def test_metrics_count_what_is_sent_and_what_fails(database: Database, clock: Clock) -> None:
    """By channel."""
    routes, metrics = Log(one=["a", "b"]), Metrics()
    routes.failing.add("b")
    await raised(database, clock)
    sending = Delivery(database, routes, metrics, clock)
    await sending.send_due()
    text = metrics.text().decode()
    assert 'registry_store_alerts_sent_total{channel="webhook"} 1.0' in text
    assert 'registry_store_alerts_failed_total{channel="webhook"} 1.0' in text
    clock.move(days=1)
    await sending.send_due()
    kinds = re.findall(r'registry_store_alerts_total\{kind="(\w+)"\} (\S+)', metrics.text().decode())
    assert kinds == [(Kind.HIGH_RISK.value, "1.0")]  # once, however often it is tried


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox().open() as found:
        yield found


@pytest.fixture
def outbound(ca: Path) -> Outbound:
    return Outbound(private=True, ca=ca)


async def registered(database: Database, clock: Clock, **fields: Any) -> Agent:
    async with database.writing() as session:
        body = {"agent_id": AGENT, "display_name": "Books", **fields}
        return await agents.register(session, body, Actor("ann", "api", clock()), activate=True)


async def test_an_alert_reaches_the_webhook_and_each_recipient(
    database: Database, clock: Clock, receiver: Receiver, mailbox: Mailbox, outbound: Outbound
) -> None:
    """Signed for the library of Standard Webhooks, under one id; with a link to the approval."""
    await registered(database, clock, webhook_url=receiver.url, alert_recipients=["ann@example.com", "bob@example.com"])
    await raised(database, clock, of_agent(Kind.APPROVAL_REQUESTED, AGENT, dict(APPROVAL)))
    relay = mail.read(mailbox.url, "registry@example.com")
    routes = Routes([KEY], outbound, relay, public_url="https://registry.example.com")
    await Delivery(database, routes, Metrics(), clock).send_due()
    assert await statuses(database) == [("delivered", 1)]
    (headers,), (body,) = receiver.headers, receiver.bodies
    told = standardwebhooks.Webhook(shared_secret(KEY)).verify(body, headers)
    assert told["type"] == "alert.approval_requested"
    assert told["data"]["alert_id"] == headers["webhook-id"]
    assert told["data"]["detail"] == APPROVAL | {"link": "https://registry.example.com/approvals/0192"}
    assert {recipient for (recipient,), _ in mailbox.mails} == {"ann@example.com", "bob@example.com"}
    for (recipient,), message in mailbox.mails:
        assert message["To"] == recipient
        assert headers["webhook-id"] in message["Message-ID"]
        assert "https://registry.example.com/approvals/0192" in message.get_content()


async def test_a_text_of_a_caller_adds_no_header_and_no_line(
    database: Database, clock: Clock, mailbox: Mailbox, outbound: Outbound
) -> None:
    """Whatever is in it: line breaks and marks of direction are escaped."""
    await registered(database, clock, alert_recipients=["ann@example.com"])
    event = of_agent(Kind.SUSPENDED, AGENT, {"reason": "x\r\n\r\nBcc: eve@example.com\n.\nRCPT TO:<eve>\u202e"})
    await raised(database, clock, event, event._replace(subject="s\nBcc: eve@example.com"))
    relay = mail.read(mailbox.url, "registry@example.com")
    await Delivery(database, Routes([KEY], outbound, relay), Metrics(), clock).send_due()
    assert len(mailbox.mails) == 2
    for recipients, message in mailbox.mails:
        assert recipients == ["ann@example.com"]
        assert message["Bcc"] is None
        reasons = [line for line in message.get_content().splitlines() if "eve@" in line]
        assert reasons == [r"reason: x\r\n\r\nBcc: eve@example.com\n.\nRCPT TO:<eve>" + r"\u202e"]


async def test_a_relay_that_refuses_is_tried_again(
    database: Database, clock: Clock, mailbox: Mailbox, outbound: Outbound
) -> None:
    """Only for the recipients that it refused."""
    mailbox.refusing = 1
    await registered(database, clock, alert_recipients=["ann@example.com", "bob@example.com"])
    await raised(database, clock)
    relay = mail.read(mailbox.url, "registry@example.com")
    sending = Delivery(database, Routes([KEY], outbound, relay), Metrics(), clock)
    await sending.send_due()
    assert (len(mailbox.mails), await statuses(database)) == (1, [("pending", 1)])
    clock.move(seconds=10)
    await sending.send_due()
    assert sorted(recipients[0] for recipients, _ in mailbox.mails) == ["ann@example.com", "bob@example.com"]
    assert await statuses(database) == [("delivered", 2)]


async def test_the_authorities_for_mail_are_read_in_a_thread(
    database: Database, clock: Clock, mailbox: Mailbox, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a tenth of a second, in which the event loop would serve nobody."""
    threads, make = [], mail._context

    def recorded(*, verified: bool) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return make(verified=verified)

    monkeypatch.setattr(mail, "_context", recorded)
    await registered(database, clock, alert_recipients=["ann@example.com"])
    await raised(database, clock)
    relay = mail.read(mailbox.url, "registry@example.com")
    await Delivery(database, Routes([KEY], outbound, relay), Metrics(), clock).send_due()
    assert await statuses(database) == [("delivered", 1)]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_what_has_no_channel_says_so(database: Database, clock: Clock, outbound: Outbound) -> None:
    """An agent without webhook and recipients, and recipients where the store has no relay."""
    await registered(database, clock, alert_recipients=["ann@example.com"])
    await raised(database, clock)
    await raised(database, clock, Event(Kind.SIDECAR_SILENT, "sidecar:node-1", {}))
    await Delivery(database, Routes([KEY], outbound), Metrics(), clock).send_due()
    assert await statuses(database) == [("none", 1)] * 2


async def test_a_channel_of_the_operator_gets_every_alert(
    database: Database, clock: Clock, receiver: Receiver, outbound: Outbound, monkeypatch: Any
) -> None:
    """Also those of no agent; apprise itself sends them, and its URL shows nowhere."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(outbound.ca))
    url = receiver.url.replace("https://", "jsons://user:secret@") + "/hook"
    event = Event(Kind.SIDECAR_SILENT, "sidecar:node-1", {"node_name": "@everyone <!here>"})
    await raised(database, clock, event)
    await Delivery(database, Routes([KEY], outbound, channels=[Channel(url)]), Metrics(), clock).send_due()
    (body,) = map(json.loads, receiver.bodies)
    assert body["title"] == "a sidecar is silent: `sidecar:node-1`"
    assert "node_name: @\u200beveryone \u2039!here\u203a" in body["message"]
    async with database.reading() as session:
        ((alert,), _) = await outbox.page(session, outbox.Filter(), 1, 0)
    assert alert.status == "delivered"
    assert "secret" not in json.dumps(outbox.document(alert))


async def test_a_channel_that_refuses_says_why(receiver: Receiver, tmp_path: Path, monkeypatch: Any) -> None:
    """As apprise does, without its URL."""
    receiver.statuses.append(500)
    with pytest.raises(DeliveryError, match=r"channel `jsons:[0-9a-f]{8}`: .+") as raised:
        await Channel(receiver.url.replace("https://", "jsons://user:secret@") + "/?verify=no").send("title", "body")
    assert "secret" not in str(raised.value)


async def test_a_channel_that_hangs_is_ended(monkeypatch: Any) -> None:
    """With its process."""
    monkeypatch.setattr(channels, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(DeliveryError, match=r"did not answer within 0\.01 s"):
        await Channel("json://127.0.0.1:1").send("title", "body")


async def test_of_many_suspended_at_once_the_operator_hears_once(
    database: Database, clock: Clock, receiver: Receiver, outbound: Outbound
) -> None:
    """And an agent that has a channel of its own hears of itself."""
    await registered(database, clock, webhook_url=receiver.url)
    async with database.beside() as session:
        await causes.all_suspended(session, [AGENT, "other-agent"], "SEC-1", "ann", clock())
    operator = Log(operator=["channel"])
    await Delivery(database, Routes([KEY], outbound), Metrics(), clock).send_due()
    assert [json.loads(body)["data"]["agent_id"] for body in receiver.bodies] == [AGENT]
    assert operator.told == []
    async with database.reading() as session:
        rows, _ = await outbox.page(session, outbox.Filter(), 10, 0)
    assert sorted((row.to_operator, row.count, row.agent_id or "") for row in rows) == [
        (False, 1, AGENT),
        (True, 2, ""),
    ]


def test_the_lease_outlasts_a_delivery() -> None:
    """Otherwise two stores would send the same alert at the same time."""
    longest = max(webhooks.TIMEOUT_SECONDS, mail.TIMEOUT_SECONDS, channels.TIMEOUT_SECONDS)
    assert timedelta(seconds=longest + delivery.LANE_SECONDS) < LEASE
