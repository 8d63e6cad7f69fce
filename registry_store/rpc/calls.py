"""Shared code of the gRPC methods: authentication, the status that ends a call, and the open streams."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import grpc
from google.protobuf.message import DecodeError, Message

from pdp.core.errors import InvalidRecordError
from registry_store.access import certificates, keys
from registry_store.access.certificates import Certificate
from registry_store.access.keys import Caller, Role
from registry_store.database.attempts import Attempts
from registry_store.database.failures import is_unavailable
from registry_store.errors import NotAllowedError, NotAuthenticatedError, NotFoundError, TooManyFailuresError
from registry_store.store import Store

logger = logging.getLogger(__name__)

SERVICE = "registry_store.v1.RegistrySync"
KEY_CHECK_SECONDS = 0.5
CLOSE_SECONDS = 1.0

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Result = TypeVar("Result")
AnyMessage = TypeVar("AnyMessage", bound=Message)


class CallEndedError(Exception):
    """Ends a call early, with this status code and message."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


async def authenticated(store: Store, context: Context) -> Caller:
    """The caller, if the call carries a valid key of role sidecar or admin, or without a key a known certificate.

    Else raises `CallEndedError`.
    """
    metadata = dict(context.invocation_metadata() or ())
    scheme, _, text = str(metadata.get("authorization", "")).partition(" ")
    try:
        if not scheme and (certificate := _certificate(store, context)) is not None:
            return _holder(store, certificate)
        if scheme.lower() != "bearer":
            raise NotAuthenticatedError("the metadata `authorization: Bearer owkai_…` is missing")
        caller = await store.authentication.caller(text.strip(), _source(context), datetime.now(UTC))
    except NotAuthenticatedError as error:
        store.metrics.refused_keys.inc()
        raise CallEndedError(grpc.StatusCode.UNAUTHENTICATED, str(error)) from None
    except TooManyFailuresError as error:
        store.metrics.refused_keys.inc()
        raise CallEndedError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None
    if caller.role not in (Role.SIDECAR, Role.ADMIN):
        raise CallEndedError(grpc.StatusCode.PERMISSION_DENIED, f"a key of role {caller.role.value} cannot sync")
    return caller


def _certificate(store: Store, context: Context) -> Certificate | None:
    """The caller's certificate, if certificates may stand in for keys."""
    return None if store.sidecar_names is None else certificates.of_call(context.auth_context())


def _holder(store: Store, certificate: Certificate) -> Caller:
    """The sidecar that holds this certificate; `NotAuthenticatedError` if none does."""
    if store.sidecar_names is None:
        raise NotAuthenticatedError("no certificate stands in for a key")
    return store.sidecar_names.caller(certificate, datetime.now(UTC))


def parsed(kind: type[AnyMessage], raw: bytes) -> AnyMessage:
    """The message in these bytes; `CallEndedError` if it is malformed.

    The methods get bytes, not messages, so that the key is checked before anything is parsed.
    """
    parsed_message = kind()
    try:
        parsed_message.ParseFromString(raw)
    except DecodeError:
        message = f"the message is not a `{kind.DESCRIPTOR.full_name}`"
        raise CallEndedError(grpc.StatusCode.INVALID_ARGUMENT, message) from None
    return parsed_message


async def answered(store: Store, context: Context, work: Callable[[Caller], Awaitable[Result]]) -> Result:
    """Authenticates the caller and returns the result of `work`; an error ends the call with its status."""
    try:
        return await work(await authenticated(store, context))
    except Exception as error:
        ended = ended_by(error)
    return await context.abort(ended.code, ended.message)


def ended_by(error: Exception) -> CallEndedError:
    """The status for this error; an internal error is also logged."""
    if isinstance(error, CallEndedError):
        return error
    if isinstance(error, InvalidRecordError):
        return CallEndedError(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if isinstance(error, NotAllowedError):
        return CallEndedError(grpc.StatusCode.PERMISSION_DENIED, str(error))
    if isinstance(error, NotFoundError):
        return CallEndedError(grpc.StatusCode.NOT_FOUND, str(error))
    if is_unavailable(error):
        return CallEndedError(grpc.StatusCode.UNAVAILABLE, "the store's database is out of reach")
    logger.error("a call failed", exc_info=error)
    return CallEndedError(grpc.StatusCode.INTERNAL, "internal error")


async def close(context: Context, ended: CallEndedError) -> None:
    """Send the status that ends a stream; a caller that is gone or does not read is ignored."""
    with suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await context.abort(ended.code, ended.message)


class OpenStreams:
    """The open streams; the task `watch_keys` ends those whose key is no longer valid."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: dict[Callable[[CallEndedError], None], tuple[Caller, Certificate | None]] = {}

    @asynccontextmanager
    async def opened(
        self, context: Context, caller: Caller, end: Callable[[CallEndedError], None]
    ) -> AsyncIterator[None]:
        """Registers a stream of this caller while the block runs; `end` closes it from outside."""
        self._ends[end] = (caller, None if caller.key_id else _certificate(self._store, context))
        try:
            # Without this, gRPC sends the metadata with the first message, and no status if that write is cancelled.
            await context.send_initial_metadata(())
            yield
        finally:
            del self._ends[end]

    async def watch_keys(self) -> None:
        """Ends the streams of revoked and expired keys, until cancelled."""
        revoked = self._store.authentication.revoked
        attempts = Attempts("checking the keys of open streams", self._store.database.outage)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEY_CHECK_SECONDS):
                    await revoked.wait()
            revoked.clear()
            if not self._ends:
                continue
            try:
                await self._check_keys()
                attempts.worked()
            except Exception as error:
                attempts.failed(error)

    async def _check_keys(self) -> None:
        used = {caller.key_id for caller, _ in self._ends.values() if caller.key_id}
        now = datetime.now(UTC)
        invalid = await self._store.database.read_apart(lambda session: keys.invalid_among(session, used, now))
        for end, (caller, certificate) in list(self._ends.items()):
            if caller.key_id in invalid:
                end(CallEndedError(grpc.StatusCode.UNAUTHENTICATED, "the key is revoked or has expired"))
            elif certificate is not None and (why := self._lapsed(caller, certificate)) is not None:
                end(CallEndedError(grpc.StatusCode.UNAUTHENTICATED, why))

    def _lapsed(self, caller: Caller, certificate: Certificate) -> str | None:
        """Why the holder of a certificate may not go on; None if it may."""
        try:
            same = _holder(self._store, certificate) == caller
        except NotAuthenticatedError as error:
            return str(error)
        return None if same else "the entry of the client certificate has changed"


def _source(context: Context) -> str:
    """The peer's IP address, from `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    _, _, address = unquote(context.peer()).partition(":")
    return urlsplit(f"//{address}").hostname or ""
