"""The parts of a running store that its interfaces share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry_store.access.authentication import Authentication
from registry_store.access.certificates import SidecarNames
from registry_store.access.keys import Pepper
from registry_store.alerts.delivery import Delivery
from registry_store.alerts.routes import Routes
from registry_store.approvals.watching import ApprovalFeed
from registry_store.database.notifications import Notifications
from registry_store.database.transactions import Database
from registry_store.metrics import Metrics
from registry_store.settings import Settings
from registry_store.sync.feed import Feed
from registry_store.sync.sidecars import Sidecars


@dataclass(slots=True)
class Store:
    """A store: its database and its state in memory."""

    settings: Settings
    database: Database
    pepper: Pepper
    feed: Feed
    approval_feed: ApprovalFeed
    sidecars: Sidecars
    metrics: Metrics
    authentication: Authentication
    routes: Routes
    delivery: Delivery
    sidecar_names: SidecarNames | None = None
    """None: every sidecar needs a key."""
    after_change: Callable[[int], Awaitable[None]] | None = None
    """Awaited with the newest revision after each request that writes, before the response."""
    notifications: Notifications | None = None
    """None on SQLite: its only store needs no notifications."""
    ready: bool = False
