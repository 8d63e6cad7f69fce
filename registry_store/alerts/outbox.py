"""The outbox: alerts as rows, written in the transaction of their cause, and claimed by one store at a time to send."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, exists, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.ids import DecisionIds
from pdp.serving.backoff import Backoff
from registry_store.database import paging
from registry_store.database.bulk import chunks, delete_oldest
from registry_store.database.columns import Instant
from registry_store.database.tables import Alert
from registry_store.database.transactions import inserting
from registry_store.documents import Document, to_json
from registry_store.errors import ConflictError, NotFoundError

QUARTER = timedelta(minutes=15)
GIVE_UP = timedelta(days=1)
"""A message is tried for so long, and then is dead until `retry`."""
LEASE = timedelta(seconds=30)
"""A store that claimed an alert sends it within this time; after it, another store may."""
BACKOFF = Backoff(first=5.0, maximum=3600.0)
MAX_TEXT = 1_000
"""Characters kept of a text that comes from a caller."""
_IDS = DecisionIds(secrets.randbits)


class Kind(Enum):
    """What an alert tells of."""

    HIGH_RISK = "high_risk"
    ESCALATION = "escalation"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_EXPIRED = "approval_expired"
    BUDGET_THRESHOLD = "budget_threshold"
    SUSPENDED = "suspended"
    RECORD_REFUSED = "record_refused"
    SIDECAR_STALE = "sidecar_stale"
    SIDECAR_SILENT = "sidecar_silent"
    LOG_RECORDS_LOST = "log_records_lost"


class AlertStatus(Enum):
    """The status of an alert; none: there is no channel that it could go to."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    NONE = "none"


class Event(NamedTuple):
    """Something to tell people. Events of one subject and kind in a quarter of an hour are one alert, with a count."""

    kind: Kind
    subject: str
    detail: Document
    agent_id: str | None = None
    number: int = 1
    to_operator: bool = True
    """Whether it also goes to the operator's channels, not only to those of the agent."""


class Sent(NamedTuple):
    """The result of sending an alert to one target: an error, or None if the target took it."""

    channel: str
    to: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of alerts; None: any."""

    status: AlertStatus | None = None
    kind: Kind | None = None
    agent_id: str | None = None


def of_agent(kind: Kind, agent_id: str, detail: Document) -> Event:
    """An event of an agent."""
    return Event(kind, agent_id, detail, agent_id)


async def add(session: AsyncSession, events: Iterable[Event], at: datetime) -> None:
    """Write the alerts of these events: new ones, or a higher count of those of this quarter of an hour.

    An alert that was sent already is sent once more, under its id, when the quarter ends; one that had no channel is
    tried at once, for it may have one now.
    """
    since = _quarter(at)
    adding = inserting(session, Alert)
    again = {AlertStatus.DELIVERED: since + QUARTER, AlertStatus.NONE: at}
    counted = {
        "count": Alert.count + adding.excluded["count"],
        "to_operator": or_(Alert.to_operator, adding.excluded["to_operator"]),
        "updated_at": adding.excluded["updated_at"],
        "next_attempt_at": _by_status(again, Alert.next_attempt_at),
        "give_up_at": _by_status({status: when + GIVE_UP for status, when in again.items()}, Alert.give_up_at),
    }
    upsert = adding.on_conflict_do_update(index_elements=_KEY, set_=counted)
    await _insert(session, upsert, _merged(events), at, since)


async def add_once(session: AsyncSession, event: Event, at: datetime, since: datetime) -> None:
    """Write the alert of an event that is told once in a period, unless it was; the period begins at `since`."""
    adding = inserting(session, Alert).on_conflict_do_nothing(index_elements=_KEY)
    await _insert(session, adding, [event], at, since)


async def due(session: AsyncSession, now: datetime) -> bool:
    """Whether there is an alert to send."""
    return bool(await session.scalar(select(exists().where(Alert.next_attempt_at <= now))))


async def claim(session: AsyncSession, now: datetime, maximum: int) -> Sequence[Alert]:
    """At most `maximum` alerts that are due, the longest due first; until the lease ends no other store gets them."""
    wanted = select(Alert.alert_id).where(Alert.next_attempt_at <= now).order_by(Alert.next_attempt_at)
    ids = (await session.scalars(wanted.limit(maximum).with_for_update(skip_locked=True))).all()
    taken = {"next_attempt_at": now + LEASE, "attempts": Alert.attempts + 1}
    claimed = update(Alert).where(Alert.alert_id.in_(ids)).values(taken).returning(Alert)
    return (await session.scalars(claimed)).all() if ids else []


async def settle(session: AsyncSession, claimed: Alert, results: Sequence[Sent], now: datetime) -> AlertStatus:
    """Note what became of a claimed alert; returns its status."""
    alert = await session.get_one(Alert, claimed.alert_id, with_for_update=True)
    if alert.attempts != claimed.attempts:
        return AlertStatus(alert.status)  # the lease ended, and another store has it
    alert.deliveries = alert.deliveries | {one.to: _delivery(alert, claimed, one, now) for one in results}
    failed = [one for one in results if one.error is not None]
    if failed:
        _failed(alert, now)
    else:
        _delivered(alert, claimed, now)
    alert.updated_at = now
    return AlertStatus(alert.status)


def was_told(alert: Alert, to: str, now: datetime) -> bool:
    """Whether a target knows of the alert: a higher count is told to it only when the quarter ends."""
    told: int = alert.deliveries.get(to, {"count": 0})["count"]
    return told >= alert.count or (told > 0 and now < alert.since + QUARTER)


async def retry(session: AsyncSession, alert_id: str, now: datetime) -> Alert:
    """Send an alert again, at once and for another day; `ConflictError` if it was delivered."""
    alert = await session.get(Alert, alert_id, with_for_update=True)
    if alert is None:
        raise NotFoundError(f"no alert `{alert_id}`")
    if alert.status == AlertStatus.DELIVERED.value:
        raise ConflictError(f"alert `{alert_id}` is delivered")
    alert.status, alert.failures = AlertStatus.PENDING.value, 0
    alert.next_attempt_at, alert.give_up_at, alert.updated_at = now, now + GIVE_UP, now
    return alert


async def retry_failed(session: AsyncSession, now: datetime) -> int:
    """Send every alert that was given up again; returns their number."""
    again = {"status": AlertStatus.PENDING.value, "failures": 0, "next_attempt_at": now, "give_up_at": now + GIVE_UP}
    failed = update(Alert).where(Alert.status == AlertStatus.FAILED.value).values(again).returning(Alert.alert_id)
    return len((await session.scalars(failed)).all())


async def page(session: AsyncSession, wanted: Filter, limit: int, offset: int) -> tuple[Sequence[Alert], int]:
    """A page of the alerts, newest first, and the total."""
    newest_first = select(Alert).where(*_conditions(wanted)).order_by(Alert.alert_id.desc())
    return await paging.page(session, newest_first, limit, offset)


async def count(session: AsyncSession, status: AlertStatus) -> int:
    """The number of alerts with this status."""
    return await session.scalar(select(func.count()).where(Alert.status == status.value)) or 0


async def delete_before(session: AsyncSession, maximum: int, moment: datetime) -> int:
    """Delete at most `maximum` alerts that are not to be sent and have not changed since `moment`; returns how many."""
    old, ended = Alert.updated_at < moment, Alert.next_attempt_at.is_(None)
    return await delete_oldest(session, Alert, maximum, old, ended, by=Alert.updated_at)


def document(alert: Alert) -> Document:
    """The alert as REST shows it."""
    shown = {name: getattr(alert, name) for name in _SHOWN}
    return Document(to_json(shown | {"deliveries": [{"to": to, **one} for to, one in alert.deliveries.items()]}))


def bounded(value: Any) -> Any:
    """A caller's text in the length and with the characters that the outbox keeps; other values unchanged."""
    return value.replace("\0", "␀")[:MAX_TEXT] if isinstance(value, str) else value


async def _insert(session: AsyncSession, adding: Any, events: Sequence[Event], at: datetime, since: datetime) -> None:
    rows = [
        {
            "alert_id": f"alert_{_IDS.next(at.timestamp())}",
            "kind": event.kind.value,
            "subject": event.subject,
            "agent_id": event.agent_id,
            "to_operator": event.to_operator,
            "since": since,
            "count": event.number,
            "detail": {name: bounded(value) for name, value in event.detail.items()},
            "status": AlertStatus.PENDING.value,
            "attempts": 0,
            "failures": 0,
            "deliveries": {},
            "created_at": at,
            "updated_at": at,
            "next_attempt_at": at,
            "give_up_at": at + GIVE_UP,
        }
        for event in events
    ]
    connection = await session.connection()
    for chunk in chunks(rows):
        await connection.execute(adding, chunk)


def _by_status(times: Mapping[AlertStatus, datetime], otherwise: Any) -> Any:
    return case(
        {status.value: literal(when, Instant()) for status, when in times.items()}, value=Alert.status, else_=otherwise
    )


def _merged(events: Iterable[Event]) -> list[Event]:
    """One event for each subject and kind; sorted, so that two stores do not deadlock."""
    found: dict[tuple[str, str], Event] = {}
    for event in events:
        key = event.subject, event.kind.value
        first = found.get(key)
        found[key] = event if first is None else first._replace(number=first.number + event.number)
    return [found[key] for key in sorted(found)]


def _quarter(at: datetime) -> datetime:
    """The start of the quarter of an hour."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % int(QUARTER.total_seconds()), UTC)


def _delivery(alert: Alert, claimed: Alert, one: Sent, now: datetime) -> Document:
    before: Mapping[str, Any] = alert.deliveries.get(one.to, {"count": 0})
    sent = before["count"] if one.error is not None else claimed.count
    return {"channel": one.channel, "count": sent, "error": bounded(one.error), "at": to_json(now)}


def _delivered(alert: Alert, claimed: Alert, now: datetime) -> None:
    told = [one["count"] for one in alert.deliveries.values() if one["count"]]
    alert.status = (AlertStatus.DELIVERED if told else AlertStatus.NONE).value
    alert.failures, alert.next_attempt_at = 0, None
    quarter_end = alert.since + QUARTER
    is_behind = min(told, default=alert.count) < alert.count
    if is_behind and (now < quarter_end or alert.count > claimed.count):
        alert.next_attempt_at = max(now, quarter_end)
        alert.give_up_at = alert.next_attempt_at + GIVE_UP


def _failed(alert: Alert, now: datetime) -> None:
    alert.failures += 1
    if now >= alert.give_up_at:
        alert.status, alert.next_attempt_at = AlertStatus.FAILED.value, None
        return
    alert.status = AlertStatus.PENDING.value
    wait = timedelta(seconds=BACKOFF.seconds(alert.failures))
    alert.next_attempt_at = min(now + wait, alert.give_up_at)


def _conditions(wanted: Filter) -> Iterable[ColumnElement[bool]]:
    if wanted.status is not None:
        yield Alert.status == wanted.status.value
    if wanted.kind is not None:
        yield Alert.kind == wanted.kind.value
    if wanted.agent_id is not None:
        yield Alert.agent_id == wanted.agent_id


_KEY = ("subject", "kind", "since")
_SHOWN = (
    *("alert_id", "kind", "agent_id", "subject", "count", "status", "attempts"),
    *("created_at", "updated_at", "next_attempt_at", "detail"),
)
