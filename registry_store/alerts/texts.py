"""What an alert says: a title and lines for people, and a JSON body for webhooks."""

from collections.abc import Iterator, Mapping
from typing import Any

from pdp.core.fields import quote
from pdp.serving.printable import printable
from registry_store.alerts.outbox import Kind
from registry_store.database.tables import Alert
from registry_store.documents import Document, compact, instant

MAX_TITLE = 200
TITLES = {
    Kind.HIGH_RISK: "risk above the maximum",
    Kind.ESCALATION: "action escalated",
    Kind.APPROVAL_REQUESTED: "approval requested",
    Kind.APPROVAL_EXPIRED: "approval expired, nobody decided it",
    Kind.BUDGET_THRESHOLD: "budget threshold reached",
    Kind.SUSPENDED: "agent suspended",
    Kind.RECORD_REFUSED: "a sidecar refused a record",
    Kind.SIDECAR_STALE: "a sidecar does not apply changes",
    Kind.SIDECAR_SILENT: "a sidecar is silent",
    Kind.LOG_RECORDS_LOST: "decision records lost",
}


def title(alert: Alert) -> str:
    """One printable line."""
    times = f" ({alert.count} times)" if alert.count > 1 else ""
    text = f"{TITLES[Kind(alert.kind)]}: {quote(alert.agent_id or alert.subject)}{times}"
    return printable(text)[:MAX_TITLE]


def lines(alert: Alert, public_url: str | None) -> Iterator[str]:
    """The alert for people, in printable lines: no text of a caller can add a line."""
    yield title(alert)
    yield ""
    for name, value in detail(alert, public_url).items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if shown and value is not None:
            yield f"{name}: {printable(shown)}"
    yield f"since: {instant(alert.created_at)}"
    yield f"alert_id: {alert.alert_id}"


def body(alert: Alert, public_url: str | None) -> bytes:
    """The body of a webhook, with the members that Standard Webhooks recommends."""
    data = {
        "alert_id": alert.alert_id,
        "kind": alert.kind,
        "agent_id": alert.agent_id,
        "subject": alert.subject,
        "count": alert.count,
        "created_at": instant(alert.created_at),
        "detail": detail(alert, public_url),
    }
    return compact({"type": f"alert.{alert.kind}", "timestamp": instant(alert.created_at), "data": data})


def detail(alert: Alert, public_url: str | None) -> Document:
    """The detail, with a link to the approval if the store knows its public address."""
    known: Mapping[str, Any] = alert.detail
    if public_url is None or "approval_id" not in known:
        return dict(known)
    return {**known, "link": f"{public_url}/approvals/{known['approval_id']}"}
