"""Calls by the Connect protocol over HTTP/1.1."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from ascend.calls import connect
from ascend.calls.addresses import HttpAddress
from ascend.calls.answer import Answer
from ascend.calls.calls import CallError, ClientClosedError, Code
from ascend.calls.connection import Connection, connected
from ascend.calls.pool import Pool
from ascend.calls.sockets import Sockets, left
from ascend.calls.tls import Files

MAX_SECONDS = 1_000_000.0
"""Of one call: what the clocks of sockets and the header of the protocol can hold."""
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0


class HttpCalls:
    """`Calls` over HTTP; each uses a connection alone, and leaves it to the next if it was answered.

    A request is sent once, because the sidecar may have counted it when the connection breaks. It is sent once more, on
    a new connection, only if it is repeatable: it has an idempotency key, under which the sidecar gives its first
    answer again; it is a dry run, which counts nothing; or it reports an outcome, which is taken once. A connection
    that is found closed before anything is sent on it is replaced, which repeats nothing.
    """

    def __init__(self, address: HttpAddress, sockets: Sockets, files: Files | None) -> None:
        self._address = address
        self._sockets = sockets
        self._files = files
        self._pool = Pool()

    async def unary(
        self, method: str, request: bytes, seconds: float, *, repeatable: bool = False, waits: bool = False
    ) -> bytes:
        with self._deadline(seconds) as deadline:
            self._renew()
            connection = self._pool.take() or await self._open(deadline, waits)
            try:
                return connect.message(await self._exchange(connection, method, request, deadline))
            except TimeoutError:
                raise
            except OSError:
                if not repeatable:
                    raise
            connection = await self._open(deadline, waits)
            return connect.message(await self._exchange(connection, method, request, deadline))

    async def stream(self, method: str, request: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
        with self._deadline(seconds) as deadline:
            self._renew()
            self._pool.check_open()
            connection = await self._open(deadline)
            try:
                await self._send(connection, method, connect.STREAM, connect.envelope(request), deadline)
                async for message in self._messages(connection, deadline):
                    yield message
            finally:
                self._pool.drop(connection)

    async def close(self) -> None:
        self._pool.close()

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[float]:
        """The deadline of a call. What goes wrong with its connection ends it with an error of the call."""
        try:
            yield time.monotonic() + min(seconds, MAX_SECONDS)
        except TimeoutError:
            raise CallError(Code.DEADLINE_EXCEEDED, f"no answer within {seconds:g} s") from None
        except OSError as error:
            if self._pool.is_closed:
                raise ClientClosedError from None
            details = f"the connection to `{self._address}` broke: {error.strerror or error}"
            raise CallError(Code.UNAVAILABLE, details) from None

    def _renew(self) -> None:
        """After new certificates, use no connection that was opened with those before."""
        if self._files is not None and self._files.renewed():
            self._pool.drop_idle()

    async def _open(self, deadline: float, waits: bool = False) -> Connection:
        context = None if self._files is None else self._files.credentials.context
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._pool.add(await connected(self._sockets, self._address, context, deadline))
            except TimeoutError:
                raise
            except OSError as error:
                if not waits:
                    details = f"cannot connect to `{self._address}`: {error.strerror or error}"
                    raise CallError(Code.UNAVAILABLE, details) from None
            await self._sockets.sleep(min(pause, left(deadline)))
            self._pool.check_open()
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _exchange(self, connection: Connection, method: str, request: bytes, deadline: float) -> Answer:
        """The answer on this connection, which goes back to the pool if it can be used again."""
        answer = Answer()
        try:
            await self._send(connection, method, connect.UNARY, request, deadline)
            while not answer.is_complete:
                answer.feed(await self._receive(connection, deadline))
        except BaseException:
            self._pool.drop(connection)
            raise
        if answer.keeps_connection:
            self._pool.give_back(connection)
        else:
            self._pool.drop(connection)
        return answer

    async def _messages(self, connection: Connection, deadline: float) -> AsyncGenerator[bytes, None]:
        answer = Answer()
        while True:
            answer.feed(await self._receive(connection, deadline))
            if answer.status not in (0, 200):
                if answer.is_complete:
                    raise connect.error(answer)
                continue
            if answer.status:
                connect.check_type(answer, connect.STREAM)
            while (opened := connect.opened(answer)) is not None:
                message, is_last = opened
                if is_last:
                    connect.check_end(message)
                    return
                yield message
            if answer.is_complete:
                raise ConnectionError("the stream ended without its last message")

    async def _send(self, connection: Connection, method: str, content_type: str, body: bytes, deadline: float) -> None:
        request = connect.request(self._address.authority, method, content_type, body, left(deadline))
        await connection.send(request, deadline)

    async def _receive(self, connection: Connection, deadline: float) -> bytes:
        data = await connection.receive(deadline)
        if not data:
            raise ConnectionError("it was closed before the answer")
        return data
