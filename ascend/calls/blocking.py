"""Sockets that block, within deadlines."""

import queue
import socket
import threading
import time
from typing import Any

from ascend.calls.sockets import RECEIVED_BYTES, Resolved, left, look_up


class Blocking:
    """`Sockets` whose coroutines block and never suspend."""

    async def connect(self, one: socket.socket, address: Any, deadline: float) -> None:
        one.settimeout(left(deadline))
        one.connect(address)

    async def send(self, one: socket.socket, data: bytes, deadline: float) -> None:
        one.settimeout(left(deadline))
        one.sendall(data)

    async def receive(self, one: socket.socket, deadline: float) -> bytes:
        one.settimeout(left(deadline))
        return one.recv(RECEIVED_BYTES)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - to block is what it is for

    async def resolve(self, host: str, port: int, deadline: float) -> list[Resolved]:
        # The system gives no time-out for this, so it goes on in a thread that nobody waits for.
        found: queue.SimpleQueue[list[Resolved] | OSError] = queue.SimpleQueue()

        def resolve() -> None:
            try:
                found.put(look_up(host, port))
            except OSError as error:
                found.put(error)

        threading.Thread(target=resolve, daemon=True).start()
        try:
            result = found.get(timeout=left(deadline))
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(result, OSError):
            raise result
        return result
