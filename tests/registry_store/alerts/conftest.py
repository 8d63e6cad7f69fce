"""A database for the outbox, on SQLite and on PostgreSQL, and a clock that only a test moves."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from registry_store.database.migrate import opened
from registry_store.database.transactions import Database
from registry_store.settings import Settings


@dataclass
class Clock:
    """The time, which stands until a test moves it."""

    now: datetime = datetime(2026, 1, 31, 12, 3, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with opened(settings.url()) as database:
        yield database
