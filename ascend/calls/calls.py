"""Calls of a sidecar's RPCs: requests and answers as bytes, by gRPC or by the Connect protocol."""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

from pdp.v1 import decision_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["PolicyDecisionPoint"].full_name


class Code(StrEnum):
    """The codes that both protocols have for an error."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class CallError(Exception):
    """A call without an answer: the sidecar refused it, or was not reached in time."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return f"{self.code}: {self.details}"


class UnreadableAnswerError(ValueError):
    """An answer that is not one of a sidecar."""


class ClientClosedError(ValueError):
    """The client is closed."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class Calls(Protocol):
    """Calls of one sidecar, each within a number of seconds; they raise the errors above and no others."""

    async def unary(
        self, method: str, request: bytes, seconds: float, *, repeatable: bool = False, waits: bool = False
    ) -> bytes:
        """The answer.

        `repeatable`: the sidecar counts the request once, however often it gets it. `waits`: while the sidecar cannot
        be reached, the call waits for it.
        """

    def stream(self, method: str, request: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
        """The answers of a server stream."""

    async def close(self) -> None:
        """End the calls under way, and close the connections."""
