"""Traces by OpenTelemetry, for `--traces`: spans, their parents by W3C Trace Context, and their export by OTLP.

It needs the extra `otel` and is imported only with the flag. No global is set: each program has a provider.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeAlias

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Receive, Scope, Send

from pdp.serving.http1.plain import Answer, Direct, Reply
from pdp.serving.requests import Peer
from pdp.serving.version import VERSION

FLUSH_SECONDS = 2.0
"""For the spans that wait at a stop; a collector that is away would take ten for each try."""
END_SECONDS = 1.0
"""For the thread that exports to end, after its connection was closed."""
AGAIN_SECONDS = 60.0
"""The least time between two lines of one kind in the log."""
MAX_VALUE_CHARACTERS = 256
"""Maximum length of the value of an attribute; longer ones are cut."""
PARENT_HEADERS = ("traceparent", "tracestate")

Details = grpc.HandlerCallDetails
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

_parent: ContextVar[Context | None] = ContextVar("parent", default=None)
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """The spans of one program, exported by a thread of the SDK; `ValueError` if an `OTEL_…` variable is wrong."""

    def __init__(self, program: str) -> None:
        _log_seldom()
        self._exporter = _Exporter()
        self._provider = TracerProvider(resource=_resource(program), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer: Tracer = self._provider.get_tracer("agent-pdp", VERSION)

    def span(self, name: str) -> Span:
        """A span that has begun, under the parent that the request names; the caller ends it."""
        return self._tracer.start_span(name, _parent.get() or Context(), SpanKind.SERVER)

    def grpc(self) -> "Parents":
        """An interceptor that takes the parents of spans from the metadata of calls."""
        return Parents()

    def http(self, app: ASGIApp) -> ASGIApp:
        """The application, which then takes the parents of spans from the headers of requests."""
        return HttpParents(app)

    async def close(self, seconds: float) -> None:
        """Send what waits, for at most `seconds` and at most `FLUSH_SECONDS`, and stop."""
        flushing = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait([flushing], timeout=min(seconds, FLUSH_SECONDS))
        self._exporter.shutdown()  # ends a try that is under way, and with it the thread
        await asyncio.wait([flushing], timeout=END_SECONDS)


class Parents(grpc.aio.ServerInterceptor):
    """Takes the parent of the spans of a gRPC call, a stream of decisions included, from its metadata."""

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], handler_call_details: Details
    ) -> Handler:
        """Keep the parent, for the task that answers this call."""
        _keep((name, value) for name, value in handler_call_details.invocation_metadata or () if isinstance(value, str))
        return await continuation(handler_call_details)


class HttpParents:
    """ASGI middleware that takes the parent of the spans of a request from its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _keep_header(scope["headers"])
        await self._app(scope, receive, send)

    def direct(self, path: bytes, headers: Mapping[bytes, bytes]) -> Answer | None:
        """What answers a plain request, under its parent."""
        found = self._app.direct(path, headers) if isinstance(self._app, Direct) else None
        if found is None:
            return None
        unparented = found

        async def answer(body: bytes, peer: Peer) -> Reply:
            _keep_header(headers.items())
            outcome = unparented(body, peer)
            return outcome if isinstance(outcome, Reply) else await outcome

        return answer


def attributes(values: Mapping[str, str | int | bool]) -> dict[str, str | int | bool]:
    """The attributes of a span: without those that are empty, and within bounds."""
    return {
        name: value[:MAX_VALUE_CHARACTERS] if isinstance(value, str) else value
        for name, value in values.items()
        if value != ""
    }


def _keep_header(headers: Iterable[tuple[bytes, bytes]]) -> None:
    _keep((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _keep(headers: Iterable[tuple[str, str]]) -> None:
    """Keep the parent that the headers name; without one, or with a malformed one, a span begins a trace."""
    found = {name: value for name, value in headers if name in PARENT_HEADERS}
    _parent.set(_propagator.extract(found, Context()) if found else None)


def _resource(program: str) -> Resource:
    """What names this program in a trace: the environment's `service.name`, else the name of the program."""
    found = Resource.create({SERVICE_VERSION: VERSION})
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: program}))
    return found


class _Exporter(SpanExporter):
    """The exporter of OTLP, which may be shut down at any time and more than once."""

    def __init__(self) -> None:
        self._sender = OTLPSpanExporter()
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE if self._closed else self._sender.export(spans)

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._sender.shutdown()


class _Seldom(logging.Handler):
    """Passes records of a library on to the log of the program, each message at most once in `AGAIN_SECONDS`."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now, message = monotonic(), (record.name, str(record.msg))
        if now - self._last.get(message, -AGAIN_SECONDS) >= AGAIN_SECONDS:
            self._last[message] = now
            logging.getLogger().handle(record)


def _log_seldom() -> None:
    """The SDK logs each try to reach a collector that is away."""
    library = logging.getLogger("opentelemetry")
    library.propagate = False
    library.handlers = [_Seldom()]
