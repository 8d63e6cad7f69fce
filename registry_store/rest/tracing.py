"""One span for each request that changes something, for `--traces`; imported only with the flag."""

from opentelemetry.trace import StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdp.serving.monitoring.tracing import Tracing, attributes

CHANGING = frozenset(("POST", "PUT", "PATCH", "DELETE"))


def traced(tracing: Tracing, app: ASGIApp) -> ASGIApp:
    """The application, with a span for each request by a method that writes, also for one that is refused."""

    async def in_span(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in CHANGING:
            await app(scope, receive, send)
            return
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span = tracing.span("registry_store.change")
        try:
            await app(scope, receive, note_status)
        finally:
            if span.is_recording():
                span.set_attributes(attributes(_described(scope, status)))
                if status >= 500:
                    span.set_status(StatusCode.ERROR)
            span.end()

    return tracing.http(in_span)


def _described(scope: Scope, status: int) -> dict[str, str | int | bool]:
    """Of the path only the route: a path may name a person's key."""
    change = scope.get("state", {}).get("change")
    committed = (
        {} if change is None else {"registry_store.role": change.role.value, "registry_store.revision": change.revision}
    )
    return {
        "http.request.method": scope["method"],
        "http.route": getattr(scope.get("route"), "path", ""),
        "http.response.status_code": status,
    } | committed
