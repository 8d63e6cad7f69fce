"""Sockets of asyncio, within deadlines."""

import asyncio
import socket
from typing import Any

from ascend.calls.sockets import RECEIVED_BYTES, Resolved, left, look_up


class Suspending:
    """`Sockets` of asyncio; a socket may be used by several event loops, one after the other."""

    async def connect(self, one: socket.socket, address: Any, deadline: float) -> None:
        one.setblocking(False)
        if one.family == socket.AF_UNIX:
            one.connect(address)  # is done at once; asyncio takes a socket without a place for one that is connected
            return
        async with asyncio.timeout(left(deadline)):
            await asyncio.get_running_loop().sock_connect(one, address)

    async def send(self, one: socket.socket, data: bytes, deadline: float) -> None:
        async with asyncio.timeout(left(deadline)):
            await asyncio.get_running_loop().sock_sendall(one, data)

    async def receive(self, one: socket.socket, deadline: float) -> bytes:
        async with asyncio.timeout(left(deadline)):
            return await asyncio.get_running_loop().sock_recv(one, RECEIVED_BYTES)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def resolve(self, host: str, port: int, deadline: float) -> list[Resolved]:
        async with asyncio.timeout(left(deadline)):
            return await asyncio.to_thread(look_up, host, port)
