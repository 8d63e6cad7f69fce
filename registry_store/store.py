"""What the interfaces of one running store share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry_store.approval_feed import ApprovalFeed
from registry_store.authentication import Authentication
from registry_store.database import Database
from registry_store.feed import Feed
from registry_store.keys import Pepper
from registry_store.metrics import Metrics
from registry_store.notifications import Notifications
from registry_store.settings import Settings
from registry_store.sidecars import Sidecars


@dataclass(slots=True)
class Store:
    """One store: its database, and what it keeps in memory beside it."""

    settings: Settings
    database: Database
    pepper: Pepper
    feed: Feed
    approval_feed: ApprovalFeed
    sidecars: Sidecars
    metrics: Metrics
    authentication: Authentication
    after_change: Callable[[int], Awaitable[None]] | None = None
    """Awaited with the newest revision once a request has changed something, before it is answered."""
    notifications: Notifications | None = None
    """None on SQLite, whose one store wakes itself."""
    ready: bool = False
