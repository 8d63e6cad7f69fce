"""A collector of OpenTelemetry traces: the gRPC service of OTLP, which keeps the spans that it gets."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.waiting import eventually


class Got(NamedTuple):
    """A span as a test reads it; `service` is the program that sent it, ids are in hexadecimal."""

    service: str
    name: str
    trace_id: str
    parent_id: str
    trace_state: str
    attributes: dict[str, Any]
    is_error: bool


class Collector(TraceServiceServicer):
    """The spans that came to `address`, in their order."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Got] = []

    async def Export(self, request: Any, context: Any) -> pb.ExportTraceServiceResponse:  # noqa: N802 - the RPC's name
        for resource in request.resource_spans:
            service = str(values(resource.resource.attributes)["service.name"])
            self.spans += [got(service, span) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    async def of(self, trace_id: str, number: int = 1) -> list[Got]:
        """The spans of a trace, once there are so many."""
        await eventually(lambda: len(self._of(trace_id)) >= number)
        return self._of(trace_id)

    def _of(self, trace_id: str) -> list[Got]:
        return [span for span in self.spans if span.trace_id == trace_id]


def got(service: str, span: Span) -> Got:
    parent, is_error = span.parent_span_id.hex(), span.status.code == span.status.STATUS_CODE_ERROR
    return Got(service, span.name, span.trace_id.hex(), parent, span.trace_state, values(span.attributes), is_error)


def values(attributes: Any) -> dict[str, Any]:
    return {item.key: value(item) for item in attributes}


def value(item: KeyValue) -> Any:
    return getattr(item.value, str(item.value.WhichOneof("value")))


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port."""
    collector, server = Collector(), grpc.aio.server()
    add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


async def serve() -> None:
    """Print the address, and collect until the process is ended."""
    async with collecting() as collector:
        sys.stdout.write(f"{collector.address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
