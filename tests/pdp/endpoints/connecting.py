"""Clients of the Connect protocol that nobody here wrote: PyPI's connectrpc, without generated code."""

from collections.abc import AsyncIterator
from typing import Any

from connectrpc.client import ConnectClient
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.compression.gzip import GzipCompression
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pdp.v1 import decision_pb2 as pb
from tests.waiting import BOUND_SECONDS

SERVICE = pb.DESCRIPTOR.services_by_name["PolicyDecisionPoint"]


class Connecting:
    """Calls of the decision point at one address, in protobuf or JSON, with or without gzip."""

    def __init__(self, address: str, *, is_json: bool = False, is_gzip: bool = False) -> None:
        self._client = ConnectClient(
            f"http://{address}",
            codec=google_protobuf_json_codec() if is_json else google_protobuf_binary_codec(),
            send_compression=GzipCompression() if is_gzip else None,
            timeout_ms=int(BOUND_SECONDS * 1000),
        )

    async def call(self, name: str, request: Message) -> Any:
        """The answer of a unary RPC."""
        return await self._client.execute_unary(request=request, method=_method(name))

    def updates(self, request: pb.WaitForApprovalRequest, timeout_ms: int | None = None) -> AsyncIterator[Any]:
        """The answers of the server stream."""
        return self._client.execute_server_stream(
            request=request, method=_method("WaitForApproval"), timeout_ms=timeout_ms
        )


def _method(name: str) -> MethodInfo[Any, Any]:
    method = SERVICE.methods_by_name[name]
    return MethodInfo(
        name=name,
        service_name=SERVICE.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.SERVER_STREAM if method.server_streaming else StreamType.UNARY,
    )
