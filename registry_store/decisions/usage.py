"""Usage of each agent: decisions are counted per minute as they arrive, and read as sums."""

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import case, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from pdp.core.model import Outcome as Decided
from registry_store.database.bulk import delete_oldest
from registry_store.database.columns import EPOCH
from registry_store.database.decision_tables import Decision, Usage
from registry_store.database.transactions import inserting_by
from registry_store.decisions import ids
from registry_store.decisions.notes import Outcome
from registry_store.decisions.records import Decision as Reported

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MINUTE_MICROS = MINUTE // timedelta(microseconds=1)
MAX_MICROS = 10**18
"""Upper bound of the sum in one row, so that adding cannot overflow in the database."""
ALLOW, BLOCK = Decided.ALLOW.name.lower(), Decided.BLOCK.name.lower()

Key = tuple[str, int, str]
"""An agent, a minute since 1970, and an outcome."""


@dataclass(frozen=True, slots=True)
class AgentUsage:
    """The usage of one agent: `minute`, `hour` and `day` count the decisions that were not blocked."""

    minute: int
    hour: int
    day: int
    today: dict[str, int]
    """Decisions of the local day, by outcome."""
    today_micros: int


class Counted(NamedTuple):
    """What was counted: of which agents, and the minutes in which each of them spent something."""

    agent_ids: Set[str] = frozenset()
    spends: Set[tuple[str, datetime]] = frozenset()


async def count(session: AsyncSession, kept: Iterable[Reported], ended: Iterable[Outcome] = ()) -> Counted:
    """Count new decisions, and settle the cost of the actions that ended; dry runs and repeats count nothing."""
    alike = Counter(
        (one.agent_id, one.decided_at_micros // MINUTE_MICROS, one.outcome, one.cost_micros)
        for one in kept
        if not one.dry_run and one.repeat_of is None
    )
    counted: Counter[Key] = Counter()
    spent: Counter[Key] = Counter()
    for (agent_id, minute, outcome, cost_micros), number in alike.items():
        key = agent_id, minute, outcome
        counted[key] += number
        if cost_micros:
            spent[key] += cost_micros * number
    less: Counter[Key] = Counter()
    for one in ended:
        if difference := one.difference_micros:
            key = one.agent_id, (one.decided_at - EPOCH) // MINUTE, ALLOW
            counted.setdefault(key, 0)
            (spent if difference > 0 else less)[key] += abs(difference)
    if not counted:
        return Counted()
    rows = [
        {
            "agent_id": key[0],
            "minute": EPOCH + key[1] * MINUTE,
            "outcome": key[2],
            "decisions": number,
            "cost_micros": spent[key],
        }
        for key, number in sorted(counted.items())  # sorted, so that two stores do not deadlock
    ]
    connection = await session.connection()
    await connection.execute(_adding(connection.dialect.name), rows)
    for (agent_id, minute, outcome), saved in less.items():  # the rows are locked by now, so the order is free
        row = Usage.agent_id == agent_id, Usage.minute == EPOCH + minute * MINUTE, Usage.outcome == outcome
        left = case((Usage.cost_micros > saved, Usage.cost_micros - saved), else_=0)
        await connection.execute(update(Usage).where(*row).values(cost_micros=left))
    return Counted({key[0] for key in counted}, {(key[0], EPOCH + key[1] * MINUTE) for key in spent})


async def of_agent(session: AsyncSession, agent_id: str, zone: str, now: datetime) -> AgentUsage | None:
    """The usage of the agent up to `now`, with the day of `zone`; None if it has no decision."""
    midnight = _midnight(zone, now)
    since = min(now - DAY, midnight)
    of_hour, of_day, of_today = Usage.minute > now - HOUR, Usage.minute > now - DAY, Usage.minute >= midnight
    sums = (
        select(
            Usage.outcome,
            _sum(Usage.decisions, of_hour),
            _sum(Usage.decisions, of_day),
            _sum(Usage.decisions, of_today),
            _sum(Usage.cost_micros * 1.0, of_today),  # as float, because the sum can exceed an integer of the database
        )
        .where(Usage.agent_id == agent_id, Usage.minute >= since, Usage.minute <= now)
        .group_by(Usage.outcome)
    )
    rows = {outcome: tuple(map(int, numbers)) for outcome, *numbers in await session.execute(sums)}
    if not rows and not await session.scalar(select(exists().where(Usage.agent_id == agent_id))):
        return None
    acted = [numbers for outcome, numbers in rows.items() if outcome != BLOCK]
    return AgentUsage(
        minute=await _acted(session, agent_id, now - MINUTE, now),
        hour=sum(numbers[0] for numbers in acted),
        day=sum(numbers[1] for numbers in acted),
        today={outcome.name.lower(): rows.get(outcome.name.lower(), _NOTHING)[2] for outcome in Decided},
        today_micros=sum(numbers[3] for numbers in rows.values()),
    )


async def delete_before(session: AsyncSession, maximum: int, moment: datetime) -> int:
    """Delete at most `maximum` rows older than `moment`, oldest first; returns the number deleted."""
    return await delete_oldest(session, Usage, maximum, Usage.minute < moment, by=Usage.minute)


@cache
def _adding(dialect: str) -> Any:
    """Adds to the usage; made once for a dialect, because that takes longer than to execute it."""
    adding = inserting_by(dialect, Usage)
    new = adding.excluded
    micros = Usage.cost_micros + new.cost_micros
    bounded = case((Usage.cost_micros > MAX_MICROS - new.cost_micros, MAX_MICROS), else_=micros)
    added = {"decisions": Usage.decisions + new.decisions, "cost_micros": bounded}
    return adding.on_conflict_do_update(index_elements=_KEY, set_=added)


async def _acted(session: AsyncSession, agent_id: str, since: datetime, upto: datetime) -> int:
    counted = select(func.count()).where(
        Decision.agent_id == agent_id,
        Decision.decision_id >= ids.first(since),
        Decision.decided_at > since,
        Decision.decided_at <= upto,
        Decision.outcome != BLOCK,
        Decision.dry_run.is_(False),
        Decision.repeat_of.is_(None),
    )
    return await session.scalar(counted) or 0


def _sum(column: Any, condition: Any) -> Any:
    return func.sum(case((condition, column), else_=0))


def _midnight(zone: str, now: datetime) -> datetime:
    """The start of the local day."""
    today = now.astimezone(ZoneInfo(zone))
    return datetime(today.year, today.month, today.day, tzinfo=ZoneInfo(zone))


_KEY = ("agent_id", "minute", "outcome")
_NOTHING = (0, 0, 0, 0)
