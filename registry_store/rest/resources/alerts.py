"""/api/alerts: what people are told, and whether it reached them."""

import logging
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from registry_store.alerts import outbox, texts
from registry_store.alerts.outbox import AlertStatus, Filter, Kind
from registry_store.database.tables import Alert
from registry_store.documents import Document
from registry_store.rest.exchange.access import Admin, Reader, reading, store_of
from registry_store.rest.exchange.answers import Limit, Offset, RecordId, Word, answer, gives, page
from registry_store.rest.exchange.routing import Retried
from registry_store.rest.exchange.schemas import page_of, ref

router = APIRouter(prefix="/api/alerts", tags=["alerts"], route_class=Retried)

logger = logging.getLogger(__name__)


@router.get("", responses=gives(422, about="A page of alerts, newest first", schema=page_of("alerts", ref("Alert"))))
async def list_alerts(
    request: Request,
    _caller: Reader,
    *,
    status: AlertStatus | None = None,
    kind: Kind | None = None,
    agent_id: Word = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JSONResponse:
    """List alerts, newest first, also those without a channel to go to."""
    async with reading(request) as session:
        rows, total = await outbox.page(session, Filter(status, kind, agent_id), limit, offset)
    return page("alerts", [_document(request, row) for row in rows], total, limit, offset)


@router.post(
    "/{alert_id}/retry", responses=gives(404, 409, 422, about="The alert, to be sent again", schema=ref("Alert"))
)
async def retry_alert(request: Request, alert_id: RecordId, caller: Admin) -> JSONResponse:
    """Send an alert again, at once and for another day."""
    store = store_of(request)
    async with store.database.beside() as session:
        alert = await outbox.retry(session, alert_id, datetime.now(UTC))
    logger.info("alert `%s` is sent again, by `%s`", alert_id, caller.name, extra={"key_id": caller.key_id})
    store.delivery.wake()
    return answer(_document(request, alert))


def _document(request: Request, alert: Alert) -> Document:
    detail = texts.detail(alert, store_of(request).settings.checked_public_url())
    return outbox.document(alert) | {"detail": detail}
