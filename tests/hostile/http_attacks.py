"""Attacks over HTTP: bodies, connections, malformed requests, web pages, calls by Connect."""

import asyncio
import gzip
import json
import socket
from contextlib import suppress

from tests.hostile.attacker import MAX_ANSWER_BYTES, Attacker, exchange
from tests.hostile.installation import HONEST

CONNECT = "/pdp.v1.PolicyDecisionPoint/"


async def unknown_names(attack: Attacker) -> None:
    """Bodies of 290,000 names that no action has, from four clients."""
    body = json.dumps({f"n{number}": 0 for number in range(290_000)}).encode()

    async def client() -> None:
        while attack.goes_on:
            await attack.post_json(body)

    await asyncio.gather(*(client() for _ in range(4)))


async def many_problems(attack: Attacker) -> None:
    """Actions that are as wrong as they can be within the size of an action."""
    while attack.goes_on:
        names = {f"n{attack.random.random()}" * 3: [] for _ in range(900)}
        wrong = {
            "action": {"agent_id": "x" * 60_000, "risk_score": "high", "data_classifications": [1] * 9000, **names}
        }
        status, _ = await attack.post_json(json.dumps(wrong).encode())
        attack.tally.saw(status in (400, 413), f"a wrong action was answered {status}")


async def silent_connections(attack: Attacker) -> None:
    """Connections that send nothing, to both programs, as many as this process may open."""
    await hold(attack, b"", 1_100)


async def half_heads(attack: Attacker) -> None:
    """Requests whose head never ends."""
    await hold(attack, b"POST /v1/evaluate HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", 300)


async def half_bodies(attack: Attacker) -> None:
    """Requests whose body never ends."""
    await hold(attack, b'POST /v1/evaluate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{"action"', 300)


async def hold(attack: Attacker, sent: bytes, each: int) -> None:
    """Connections that send this and no more, beside which probes must be answered."""
    held: list[socket.socket] = []
    try:
        for address in (attack.target.http, attack.target.store_http):
            host, port = address.rsplit(":", 1)
            for _ in range(each):
                with suppress(OSError):
                    one = socket.create_connection((host, int(port)), timeout=1)
                    held.append(one)
                    one.sendall(sent)
        while attack.goes_on:
            await asyncio.sleep(0.1)
            for address in (attack.target.http, attack.target.store_http):
                host = f"GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                status, _ = await exchange(address, host.encode())
                attack.tally.saw(status == 200, f"the probe of {address} was answered {status} beside idle connections")
    finally:
        for one in held:
            one.close()


async def malformed_http(attack: Attacker) -> None:
    """Requests that HTTP forbids, and those that two readers could read as two things."""
    host = "Host: 127.0.0.1\r\n"
    requests = [
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n",
        f"POST /v1/evaluate HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        f"GET /metrics HTTP/1.1\r\n{host}" + "X: " + "y" * 100_000 + "\r\n\r\n",
        f"GET /metrics HTTP/1.1\r\n{host}" + "".join(f"X{n}: y\r\n" for n in range(5_000)) + "\r\n",
        "GET /" + "a" * 100_000 + " HTTP/1.1\r\n\r\n",
        "\0\1\2\3\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        f"TRACE /v1/evaluate HTTP/1.1\r\n{host}\r\n",
    ]
    requests += [request.replace("/v1/evaluate", f"{CONNECT}Evaluate") for request in requests[:4]]
    while attack.goes_on:
        for address in (attack.target.http, attack.target.store_http):
            for request in requests:
                status, _ = await exchange(address, request.encode() + b"")
                attack.tally.saw(status < 500 and status != 200, f"{request[:80]!r} was answered {status}")


async def strange_json(attack: Attacker) -> None:
    """Texts that some readers of JSON take: other encodings, repeated names, half pairs, numbers beyond doubles."""
    good = json.dumps({"action": {"agent_id": HONEST, "action_type": "api.read"}})
    bodies = [
        good.encode("utf-16"),
        good.encode("utf-32-le"),
        b"\xef\xbb\xbf" + good.encode(),
        good.replace("}}", ',"agent_id":"other-agent"}}').encode(),
        good.replace("}}", ',"amount":NaN}}').encode(),
        good.replace("}}", ',"amount":1e999}}').encode(),
        good.replace("}}", ',"attributes":{"x":"\\ud800"}}}').encode(),
        b"[" * 200_000,
        b'{"action":' * 50_000,
        good.encode() + b"\0",
        b'{"action":{"agent_id":"honest-agent","action_type":"api.read","risk_score":' + b"9" * 60_000 + b"}}",
    ]
    while attack.goes_on:
        for body in bodies:
            status, _ = await attack.post_json(body)
            attack.tally.saw(status in (400, 413), f"{body[:60]!r} was answered {status}")


async def connect_calls(attack: Attacker) -> None:
    """By Connect: gzip bombs, gzip that lies, JSON of nothing but structure, false envelopes, random bytes."""
    bomb = gzip.compress(b"\0" * (32 << 20))
    batch = json.dumps({"requests": [{"action": {"attributes": {"a": [0] * 30_000}}}] * 20}, separators=(",", ":"))
    calls = [
        ("Evaluate", bomb, "proto", "Content-Encoding: gzip"),
        ("EvaluateBatch", bomb[:-4] + b"\0\0\x10\0", "json", "Content-Encoding: gzip"),
        ("EvaluateBatch", batch.encode(), "json", "X: y"),
        ("EvaluateBatch", b'{"requests":[' + b"{}," * 200_000 + b"{}]}", "json", "X: y"),
        ("Explain", b"[" * 70_000, "json", "X: y"),
        ("Evaluate", b"{}", "json", "Connect-Timeout-Ms: 99999999999"),
    ]
    while attack.goes_on:
        for method, body, form, header in calls:
            content_type = f"Content-Type: application/{form}"
            status, _ = await attack.post(attack.target.http, f"{CONNECT}{method}", body, content_type, header)
            attack.tally.saw(status in (400, 429), f"{method} by Connect answered {status} to {body[:60]!r}")
        noise = attack.random.randbytes(attack.random.randrange(200))
        for method, form in (("Evaluate", "proto"), ("WaitForApproval", "connect+json"), ("EvaluateBatch", "json")):
            await attack.post(attack.target.http, f"{CONNECT}{method}", noise, f"Content-Type: application/{form}")


async def foreign_pages(attack: Attacker) -> None:
    """Requests as a web page of another site can make a browser send them, and by a name of its own."""
    body = json.dumps({"action": {"agent_id": HONEST, "action_type": "api.read"}}).encode()
    while attack.goes_on:
        for header in ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"):
            status, _ = await attack.post_json(body, header, "Content-Type: text/plain")
            attack.tally.saw(status == 403, f"a page with `{header}` was answered {status}")
        request = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        status, _ = await exchange(attack.target.http, request)
        attack.tally.saw(status in (400, 403, 421), f"a foreign Host was answered {status}")


async def large_store_bodies(attack: Attacker) -> None:
    """Bodies of 1 MiB, as wrong as they can be, under a key that may hardly do anything, and without one."""
    body = json.dumps({f"n{number}": 0 for number in range(90_000)}).encode()[: 1 << 20]
    while attack.goes_on:
        for header in (f"Authorization: Bearer {attack.target.viewer_key}", "X: y"):
            status, answer = await attack.post(attack.target.store_http, "/api/agents/registry", body, header)
            attack.tally.saw(status in (400, 401, 403, 413, 422), f"a large body was answered {status}")
            attack.tally.saw(len(answer) <= MAX_ANSWER_BYTES, f"the store answered {len(answer)} bytes")
