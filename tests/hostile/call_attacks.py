"""Attacks by calls in the plainest form of HTTP/1.1, which the sidecar answers without ASGI."""

import asyncio
import socket
from contextlib import suppress

from tests.hostile.attacker import EXCHANGE_SECONDS, Attacker, action, exchange
from tests.hostile.http_attacks import CONNECT, hold
from tests.hostile.installation import SUSPENDED

IN_ONE_WRITE = 60
UNREAD_CONNECTIONS = 50
SILENCE_SECONDS = 0.5
"""After this time, what was broken has made the server wait for more."""


def call(body: bytes, *headers: str) -> bytes:
    """One call of Evaluate."""
    head = [f"POST {CONNECT}Evaluate HTTP/1.1", "host: 127.0.0.1", "content-type: application/proto", *headers]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


def dry_run(agent_id: str = SUSPENDED) -> bytes:
    """An action that is only asked about."""
    request = action(agent_id)
    request.dry_run = True
    return request.SerializeToString()


async def pipelined_calls(attack: Attacker) -> None:
    """Many calls in one write, some malformed and some in other forms: each has its own answer, in order."""
    forms = [
        (call(dry_run()), 200),
        (call(b"\xff"), 400),
        (call(b""), 400),
        (call(dry_run(), "expect: 100-continue"), 200),
    ]
    forms.append((call(dry_run(), "connect-timeout-ms: 0"), 400))
    while attack.goes_on:
        chosen = [attack.random.choice(forms) for _ in range(IN_ONE_WRITE)]
        found = await statuses(attack.target.http, [b"".join(raw for raw, _ in chosen)], len(chosen))
        attack.tally.saw(found == [status for _, status in chosen], f"calls in one write were answered {found}")


async def unread_calls(attack: Attacker) -> None:
    """Calls without end on connections that never read an answer, beside which a probe must be answered."""
    raw = call(dry_run()) * IN_ONE_WRITE
    held: list[socket.socket] = []
    host, port = attack.target.http.rsplit(":", 1)
    try:
        for _ in range(UNREAD_CONNECTIONS):
            with suppress(OSError):
                held.append(socket.create_connection((host, int(port)), timeout=1))
                held[-1].setblocking(False)
        while attack.goes_on:
            for one in held:
                with suppress(OSError):
                    one.send(raw)
            await asyncio.sleep(0)
            probe = f"GET /healthz HTTP/1.1\r\nHost: {attack.target.http}\r\nConnection: close\r\n\r\n"
            status, _ = await exchange(attack.target.http, probe.encode())
            attack.tally.saw(status == 200, f"a probe beside unread answers was answered {status}")
    finally:
        for one in held:
            one.close()


async def half_calls(attack: Attacker) -> None:
    """Calls whose body never ends."""
    await hold(attack, call(dry_run())[:-1], 300)


async def broken_calls(attack: Attacker) -> None:
    """Calls of which bytes are changed, left out and added, in pieces of any size: never a fault."""
    while attack.goes_on:
        stream = bytearray(b"".join(call(dry_run()) for _ in range(3)))
        for _ in range(attack.random.randrange(1, 5)):
            at = attack.random.randrange(len(stream))
            stream[at : at + attack.random.randrange(3)] = attack.random.choice(
                [b"\r\n", b"\n", b"\0", b" ", b":", b"\xff"]
            )
        cuts = sorted(attack.random.randrange(len(stream)) for _ in range(attack.random.randrange(6)))
        pieces = [bytes(stream[start:end]) for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        found = await statuses(attack.target.http, pieces, 3, SILENCE_SECONDS)
        attack.tally.saw(all(status < 500 for status in found), f"{bytes(stream)!r} was answered {found}")


async def statuses(address: str, pieces: list[bytes], most: int, seconds: float = EXCHANGE_SECONDS) -> list[int]:
    """The statuses of the answers to these bytes: `most`, or as many as come before the end or within the time."""
    host, port = address.rsplit(":", 1)
    found: list[int] = []
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                while len(found) < most:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    if head.startswith(b"http/1.1 1"):
                        continue
                    found.append(int(head[9:12]))
                    await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r")[0]))
            finally:
                writer.close()
    return found
