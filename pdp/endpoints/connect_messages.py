"""The RPCs that Connect serves, and their messages as the handlers take and give them: protobuf, without gzip."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import GenericRpcHandler

from pdp.endpoints import connect_protocol as protocol
from pdp.endpoints import incoming, proto_json
from pdp.endpoints.service import SERVICE
from pdp.v1 import decision_pb2 as pb

MAX_BYTES = 512 * 1024
MAX_BATCH_BYTES = 4 << 20
MAX_BATCH_STRUCTURE = 512 * 1024
"""Brackets, commas, colons and quotes of a batch in JSON: on average 500 in each of 1,000 requests."""

UNARY = {b"application/proto": False, b"application/json": True}
STREAM = {b"application/connect+proto": False, b"application/connect+json": True}


class Method(NamedTuple):
    """One RPC: its messages, the bounds of a request, and its handler if it is served over HTTP/1.1."""

    name: str
    is_unary: bool
    request: type[Message]
    response: type[Message]
    max_bytes: int
    max_structure: int
    handler: Callable[[bytes, Any], Any] | None

    @property
    def content_types(self) -> Mapping[bytes, bool]:
        """Its content types, and whether each is JSON."""
        return UNARY if self.is_unary else STREAM


@dataclass
class _Details:
    """A call as gRPC describes it to those that have handlers."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


def methods(handlers: GenericRpcHandler) -> dict[str, Method]:
    """Every RPC of the service's descriptor by its path, with the handler that gRPC calls for it."""
    service = pb.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]
    return {path: _method(one, handlers, path) for one in service.methods for path in (f"/{SERVICE}/{one.name}",)}


def _method(descriptor: MethodDescriptor, handlers: GenericRpcHandler, path: str) -> Method:
    found: Any = handlers.service(_Details(path))  # the stubs know only handlers that are not asynchronous
    is_unary = not descriptor.client_streaming and not descriptor.server_streaming
    is_batch = any(field.is_repeated and proto_json.holds_messages(field) for field in descriptor.input_type.fields)
    return Method(
        descriptor.name,
        is_unary,
        GetMessageClass(descriptor.input_type),
        GetMessageClass(descriptor.output_type),
        MAX_BATCH_BYTES if is_batch else MAX_BYTES,
        MAX_BATCH_STRUCTURE if is_batch else incoming.MAX_REQUEST_BYTES,
        None if found is None else found.unary_unary if is_unary else found.unary_stream,
    )


class Messages:
    """Reads and writes small messages at once and large ones in a thread, which takes turns among them."""

    def __init__(self) -> None:
        self._reading = incoming.Reading()
        self._writing = incoming.Reading()

    async def read(self, method: Method, body: bytes, *, is_gzip: bool, is_json: bool) -> bytes:
        """The request in a body; `ConnectError` or `InvalidActionError` if there is none."""
        size = len(body)
        if is_gzip and body:
            size = max(size, protocol.inflated_size(body))
            body = await self._reading.of(size, partial(protocol.inflate, body, method.max_bytes))
        if not is_json:
            return body
        document = await self._reading.of(size, partial(incoming.load_json, body, method.max_structure))
        message = method.request()
        await self._reading.through(size, proto_json.read(message, document))
        return message.SerializeToString()

    async def json(self, method: Method, answer: bytes) -> bytes:
        """An answer as JSON."""
        pieces = await self._writing.through(len(answer), self._pieces(method, answer))
        return "".join(pieces).encode()

    def _pieces(self, method: Method, answer: bytes) -> Iterator[str]:
        yield from proto_json.write(method.response.FromString(answer))

    async def deflated(self, body: bytes) -> bytes:
        """The body with gzip."""
        return await self._writing.of(len(body), partial(protocol.deflate, body))
