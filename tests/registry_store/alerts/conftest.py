"""What every test of alerts has: a database, a clock that only the test moves, and an https server that receives."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from registry_store.database.migrate import opened
from registry_store.database.transactions import Database
from registry_store.settings import Settings
from tests.registry_store.alerts.receivers import Receiver, receiving


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


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file of the authority."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def receiver(authority: trustme.CA) -> Iterator[Receiver]:
    with receiving(authority) as found:
        yield found
