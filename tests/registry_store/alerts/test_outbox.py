"""The outbox: what happened becomes one alert, sent by one store at a time until it is delivered or a day is over."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from registry_store.alerts import outbox
from registry_store.alerts.outbox import GIVE_UP, LEASE, QUARTER, AlertStatus, Event, Filter, Kind, Sent, of_agent
from registry_store.database.migrate import opened
from registry_store.database.tables import Alert
from registry_store.database.transactions import Database
from registry_store.errors import ConflictError, NotFoundError
from registry_store.settings import Settings
from tests.registry_store.alerts.conftest import Clock

AGENT = "finance-transaction-processor-prod"
HIGH_RISK = of_agent(Kind.HIGH_RISK, AGENT, {"risk_score": 95})


async def add(database: Database, at: datetime, *events: Event) -> None:
    async with database.beside() as session:
        await outbox.add(session, events, at)


async def claim(database: Database, now: datetime, maximum: int = 10) -> Sequence[Alert]:
    async with database.beside() as session:
        return await outbox.claim(session, now, maximum)


async def settle(database: Database, alert: Alert, now: datetime, *results: Sent) -> AlertStatus:
    async with database.beside() as session:
        return await outbox.settle(session, alert, results, now)


async def all_of(database: Database, **wanted: str) -> list[Alert]:
    async with database.reading() as session:
        rows, total = await outbox.page(session, Filter(**wanted), 100, 0)  # type: ignore[arg-type]
    assert total == len(rows)
    return list(rows)


def sent(to: str = "a@example.com", error: str | None = None) -> Sent:
    return Sent("mail", to, error)


async def test_events_of_a_quarter_of_an_hour_are_one_alert(database: Database, clock: Clock) -> None:
    """With a count, and the detail of the first; another kind, another subject and the next quarter have their own."""
    await add(database, clock(), HIGH_RISK, HIGH_RISK)
    await add(database, clock.move(minutes=11), HIGH_RISK._replace(detail={"risk_score": 99}, number=3))
    await add(database, clock(), HIGH_RISK._replace(kind=Kind.ESCALATION), HIGH_RISK._replace(subject="other"))
    await add(database, clock.move(minutes=1), HIGH_RISK)
    found = [(alert.kind, alert.subject, alert.count, alert.detail["risk_score"]) for alert in await all_of(database)]
    assert sorted(found) == [
        ("escalation", AGENT, 1, 95),
        ("high_risk", AGENT, 1, 95),
        ("high_risk", AGENT, 5, 95),
        ("high_risk", "other", 1, 95),
    ]


async def test_an_alert_stands_and_falls_with_its_cause(database: Database, clock: Clock) -> None:
    """It is written in the same transaction."""
    with pytest.raises(RuntimeError):
        async with database.beside() as session:
            await outbox.add(session, [HIGH_RISK], clock())
            raise RuntimeError
    assert await all_of(database) == []


async def test_an_event_of_a_day_is_told_once(database: Database, clock: Clock) -> None:
    """However often it is seen, and with the count 1."""
    event, midnight = HIGH_RISK._replace(kind=Kind.BUDGET_THRESHOLD), clock().replace(hour=0, minute=0)
    for hours in (1, 2):
        async with database.beside() as session:
            await outbox.add_once(session, event, clock.move(hours=hours), midnight)
    assert [alert.count for alert in await all_of(database)] == [1]


async def test_one_store_at_a_time_sends_an_alert(settings: Settings, database: Database, clock: Clock) -> None:
    """Also when two look at once; each gets others."""
    await add(database, clock(), *(HIGH_RISK._replace(subject=f"agent-{number}") for number in range(20)))
    async with opened(settings.url()) as other:
        found = await asyncio.gather(*(claim(one, clock(), 7) for one in (database, other, database)))
    ids = [alert.alert_id for each in found for alert in each]
    assert len(ids) == len(set(ids))
    rest = await claim(database, clock(), 100)
    assert len(ids) + len(rest) == 20


async def test_what_a_dead_store_held_is_sent_by_another(database: Database, clock: Clock) -> None:
    """After its lease, under the same id; and what the first still says then changes nothing."""
    await add(database, clock(), HIGH_RISK)
    (first,) = await claim(database, clock())
    assert await claim(database, clock.move(seconds=LEASE.total_seconds() - 1)) == []
    (second,) = await claim(database, clock.move(seconds=1))
    assert (second.alert_id, second.attempts) == (first.alert_id, 2)
    assert await settle(database, first, clock(), sent(error="late")) is AlertStatus.PENDING
    assert await settle(database, second, clock(), sent()) is AlertStatus.DELIVERED
    assert await claim(database, clock.move(days=2)) == []


async def test_a_failure_is_tried_again_for_a_day(database: Database, clock: Clock, monkeypatch: Any) -> None:
    """Backed off up to an hour, once more when the day ends, and then never: until a person says so."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    await add(database, clock(), HIGH_RISK)
    began, tries, waits = clock(), 0, []
    while claimed := await claim(database, clock()):
        tries += 1
        status = await settle(database, claimed[0], clock(), sent(error="500"))
        (alert,) = await all_of(database)
        if alert.next_attempt_at is not None:
            waits.append(alert.next_attempt_at - clock())
            clock.now = alert.next_attempt_at
    assert status is AlertStatus.FAILED
    assert clock() - began == GIVE_UP
    assert [wait.total_seconds() for wait in waits[:12]] == [5.0 * 2**n for n in range(10)] + [3600.0, 3600.0]
    assert tries == 34
    assert alert.deliveries["a@example.com"] | {"at": ""} == {"channel": "mail", "count": 0, "error": "500", "at": ""}
    async with database.beside() as session:
        await outbox.retry(session, alert.alert_id, clock())
    (again,) = await claim(database, clock())
    assert again.alert_id == alert.alert_id
    assert await settle(database, again, clock(), sent(error="500")) is AlertStatus.PENDING


async def test_every_alert_that_was_given_up_can_be_sent_again(database: Database, clock: Clock) -> None:
    """Those alone."""
    await add(database, clock(), HIGH_RISK, HIGH_RISK._replace(subject="other"))
    await settle(database, (await claim(database, clock(), 1))[0], clock(), sent())
    clock.move(days=2)
    await settle(database, (await claim(database, clock(), 1))[0], clock(), sent(error="500"))
    async with database.beside() as session:
        assert await outbox.retry_failed(session, clock()) == 1
    assert len(await claim(database, clock())) == 1


async def test_what_is_delivered_or_unknown_is_not_sent_again(database: Database, clock: Clock) -> None:
    """The answer says which."""
    await add(database, clock(), HIGH_RISK)
    (alert,) = await claim(database, clock())
    await settle(database, alert, clock(), sent())
    for alert_id, error in ((alert.alert_id, ConflictError), ("alert_0", NotFoundError)):
        with pytest.raises(error):
            async with database.beside() as session:
                await outbox.retry(session, alert_id, clock())


async def test_a_higher_count_is_told_when_the_quarter_ends(database: Database, clock: Clock) -> None:
    """Once, under the same id; an alert whose count stayed is not sent again."""
    await add(database, clock(), HIGH_RISK, HIGH_RISK._replace(subject="other"))
    claimed = {alert.subject: alert for alert in await claim(database, clock())}
    for alert in claimed.values():
        assert await settle(database, alert, clock(), sent()) is AlertStatus.DELIVERED
    await add(database, clock.move(minutes=1), HIGH_RISK)
    await add(database, clock.move(minutes=1), HIGH_RISK)
    assert await claim(database, clock()) == []
    (again,) = await claim(database, clock.move(minutes=15))
    assert (again.alert_id, again.count, again.status) == (claimed[AGENT].alert_id, 3, "delivered")
    assert await settle(database, again, clock(), sent()) is AlertStatus.DELIVERED
    assert await claim(database, clock.move(days=2)) == []


async def test_what_happens_while_it_is_sent_is_told_too(database: Database, clock: Clock) -> None:
    """No event falls between the claim and its result."""
    await add(database, clock(), HIGH_RISK)
    (alert,) = await claim(database, clock())
    await add(database, clock(), HIGH_RISK)
    await settle(database, alert, clock(), sent())
    assert await claim(database, clock()) == []
    (again,) = await claim(database, clock.move(minutes=15))
    assert again.count == 2


async def test_a_target_that_knows_is_left_alone_while_another_fails(database: Database, clock: Clock) -> None:
    """A higher count reaches it when the quarter ends."""
    await add(database, clock(), HIGH_RISK)
    (alert,) = await claim(database, clock())
    await settle(database, alert, clock(), sent("a@x"), sent("b@x", "500"))
    await add(database, clock(), HIGH_RISK)
    (again,) = await claim(database, clock.move(seconds=10))
    assert [outbox.was_told(again, to, clock()) for to in ("a@x", "b@x", "c@x")] == [True, False, False]
    assert not outbox.was_told(again, "a@x", again.since + QUARTER)
    await settle(database, again, clock(), sent("b@x"))
    (last,) = await claim(database, clock.move(minutes=15))
    assert [outbox.was_told(last, to, clock()) for to in ("a@x", "b@x")] == [False, True]


async def test_without_a_channel_there_is_nothing_to_send(database: Database, clock: Clock) -> None:
    """The alert is listed, with the status none."""
    await add(database, clock(), HIGH_RISK)
    (alert,) = await claim(database, clock())
    assert await settle(database, alert, clock()) is AlertStatus.NONE
    assert await claim(database, clock.move(days=2)) == []
    assert [one.kind for one in await all_of(database, status=AlertStatus.NONE, kind=Kind.HIGH_RISK)] == ["high_risk"]


async def test_an_alert_that_had_no_channel_is_tried_again_at_its_next_event(database: Database, clock: Clock) -> None:
    """It may have one now; and the operator hears of it if one of its events is for the operator."""
    await add(database, clock(), HIGH_RISK._replace(to_operator=False))
    await settle(database, (await claim(database, clock()))[0], clock())
    await add(database, clock.move(minutes=1), HIGH_RISK)
    (alert,) = await claim(database, clock())
    assert (alert.count, alert.to_operator) == (2, True)
    assert await settle(database, alert, clock(), sent()) is AlertStatus.DELIVERED


async def test_only_what_is_done_is_deleted(database: Database, clock: Clock) -> None:
    """After its time, the oldest first, at most so many at once."""
    for number in range(3):
        await add(database, clock.move(hours=1), HIGH_RISK._replace(subject=f"agent-{number}"))
        await settle(database, (await claim(database, clock()))[0], clock(), sent())
    await add(database, clock(), HIGH_RISK)
    async with database.beside() as session:
        assert await outbox.delete_before(session, 2, clock() + timedelta(seconds=1)) == 2
        assert await outbox.delete_before(session, 2, clock()) == 0
    assert [alert.subject for alert in await all_of(database)] == [AGENT, "agent-2"]


async def test_a_text_of_a_caller_is_bounded(database: Database, clock: Clock) -> None:
    """And holds nothing that a database cannot store."""
    await add(database, clock(), HIGH_RISK._replace(detail={"reason": "a\0" * 10_000}))
    assert (await all_of(database))[0].detail["reason"] == "a␀" * 500
