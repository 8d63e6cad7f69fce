"""Plain requests are answered as h11 and ASGI answer them, whatever comes with them and in whatever pieces."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.serving.http1.plain import MAX_BODY_BYTES, MAX_HEADERS, MAX_KEPT, MAX_KEPT_BYTES, Heads
from tests.pdp.serving.http1.both_ways import AtOnce, BothWays, by_asgi, exchanged, post, served

CHUNKED = b"POST /Evaluate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
PLAIN = {
    "small": post(b"body"),
    "empty": post(b""),
    "the largest": post(b"x" * MAX_BODY_BYTES),
    "kept alive": post(b"body", "connection: keep-alive"),
    "any case": post(b"body").replace(b"host", b"HOST"),
    "spaces": post(b"body", "x-empty:", "x-spaces: \t a  b \t"),
    "leading zeros": post(b"body").replace(b"content-length: 4", b"content-length: 004"),
}
OTHERS = {
    "a GET": b"GET /Evaluate HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "HTTP/1.0": post(b"body").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2.0": post(b"body").replace(b"HTTP/1.1", b"HTTP/2.0"),
    "closing": post(b"body", "connection: close"),
    "an upgrade": post(b"body", "connection: upgrade", "upgrade: websocket"),
    "an expectation": post(b"body", "expect: 100-continue"),
    "chunks": CHUNKED + b"4\r\nbody\r\n0\r\n\r\n",
    "both lengths": post(b"body", "transfer-encoding: chunked"),
    "two lengths": post(b"body", "content-length: 4"),
    "two lengths that differ": post(b"body", "content-length: 5"),
    "a list of lengths": post(b"body").replace(b"content-length: 4", b"content-length: 4, 4"),
    "a negative length": post(b"body").replace(b"content-length: 4", b"content-length: -4"),
    "a length with a sign": post(b"body").replace(b"content-length: 4", b"content-length: +4"),
    "a length of another base": post(b"body").replace(b"content-length: 4", b"content-length: 0x4"),
    "no length": post(b"").replace(b"content-length: 0\r\n", b""),
    "a large body": post(b"x" * (MAX_BODY_BYTES + 1)),
    "no host": post(b"body").replace(b"host: localhost\r\n", b""),
    "two hosts": post(b"body", "host: other"),
    "line feeds": post(b"body").replace(b"\r\n", b"\n"),
    "a line feed": post(b"body").replace(b"localhost\r\n", b"localhost\n"),
    "a carriage return": post(b"body", "x: a\rb"),
    "a null": post(b"body", "x: a\0b"),
    "a space before the colon": post(b"body", "x : a"),
    "a folded line": post(b"body", "x: a", "\tb"),
    "a space before the first header": post(b"body").replace(b"host", b" host"),
    "no colon": post(b"body", "x"),
    "beyond ASCII": post(b"body", "x: \u00e9"),
    "a query": post(b"body", path="/Evaluate?a=b"),
    "a percent": post(b"body", path="/%45valuate"),
    "an absolute target": post(b"body", path="http://localhost/Evaluate"),
    "a fragment": post(b"body", path="/Evaluate#a"),
    "an empty target": post(b"body", path=""),
    "a star": post(b"body", path="*"),
    "two spaces": post(b"body").replace(b"POST /", b"POST  /"),
    "a line before": b"\r\n" + post(b"body"),
    "small letters": post(b"body").replace(b"POST", b"post"),
    "many headers": post(b"body", *(f"x{number}: y" for number in range(MAX_HEADERS))),
    "a long header": post(b"body", f"x: {'y' * 5000}"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


def byte_by_byte(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(min(len(raw), 200))] + [raw[200:]]


@pytest.mark.parametrize("raw", PLAIN.values(), ids=PLAIN.keys())
async def test_a_plain_request_comes_without_asgi(raw: bytes, tmp_path: Path) -> None:
    """And its answer is to the byte what it is with it; so is one in two pieces."""
    app = BothWays()
    answers = [await exchanged(app, tmp_path, pieces) for pieces in ([raw], [raw[:9], raw[9:]])]
    assert app.ways == ["direct"] * 2
    assert answers == [await exchanged(by_asgi(app), tmp_path, [raw])] * 2
    assert answers[0][0].startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("raw", OTHERS.values(), ids=OTHERS.keys())
async def test_any_other_request_is_left_to_h11(raw: bytes, tmp_path: Path) -> None:
    """Whole or byte by byte; so is what follows it in the same read, and the next plain request is plain again."""
    app = BothWays()
    expected = await exchanged(by_asgi(app), tmp_path, [raw + post(b"next")])
    app.ways.clear()
    assert await exchanged(app, tmp_path, [raw + post(b"next")]) == expected
    assert "direct" not in app.ways
    assert await exchanged(app, tmp_path, [*byte_by_byte(raw), post(b"next")]) == expected
    if not expected[1]:
        assert app.ways[-1] == "direct"


async def test_a_request_in_many_pieces_is_h11s(tmp_path: Path) -> None:
    """To look at the whole again with each byte would cost the square of its size."""
    app = BothWays()
    expected = await exchanged(by_asgi(app), tmp_path, [post(b"body")])
    app.ways.clear()
    assert await exchanged(app, tmp_path, byte_by_byte(post(b"body"))) == expected
    assert app.ways == ["asgi"]


REQUESTS = st.one_of(
    st.sampled_from([*PLAIN.values(), *OTHERS.values()]),
    st.binary(max_size=60).map(post),
    st.binary(max_size=40),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Requests one after the other, of which some bytes are replaced, left out or added."""
    stream = b"".join(draw(st.lists(REQUESTS, min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(stream)))
        new = draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b":", b" ", b"\0", b"0", b"\r"])))
        stream = stream[:at] + new + stream[at + draw(st.integers(0, 3)) :]
    return stream


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([BothWays, AtOnce]), streams(), st.lists(st.integers(1, 400), max_size=12))
def test_any_bytes_in_any_pieces_are_answered_as_by_h11_in_one_piece(
    kind: type[BothWays], stream: bytes, sizes: list[int]
) -> None:
    """No request is read otherwise, lost, or answered out of turn, and the connection ends where h11 ends it."""
    app, pieces = kind(), []
    rest = stream
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = asyncio.run(exchanged(by_asgi(app), folder, [stream]))
        assert asyncio.run(exchanged(app, folder, [*pieces, rest])) == expected


async def test_many_requests_in_one_piece_are_answered_in_order(tmp_path: Path) -> None:
    """Plain ones and others in turns."""
    app = BothWays()
    stream = b"".join(post(b"%d" % number, *(["expect: 100-continue"] * (number % 3))) for number in range(20))
    answers, is_closed = await exchanged(app, tmp_path, [stream])
    assert (answers, is_closed) == await exchanged(by_asgi(app), tmp_path, [stream])
    assert answers.count(b"HTTP/1.1 200 OK") == 20


def test_the_heads_that_are_kept_are_bounded() -> None:
    """In number and size: what a head means is found out again."""
    app, asked = BothWays(), []
    heads = Heads(lambda path, headers: asked.append(path) or app.direct(path, headers))  # type: ignore[func-returns-value]
    for number in range(MAX_KEPT + 1):
        head = post(b"", f"x: {number}")
        assert heads.route(head) is heads.route(head) is not None
    assert (len(asked), len(heads._kept)) == (MAX_KEPT + 1, 1)
    long = post(b"", f"x: {'y' * MAX_KEPT_BYTES}")
    assert heads.route(long) == heads.route(long) is not None
    assert (len(asked), len(heads._kept)) == (MAX_KEPT + 3, 1)


async def test_an_application_around_it_is_never_left_out(tmp_path: Path) -> None:
    """Whatever wraps an application without knowing of the short way gets each request."""
    app = BothWays()
    async with served(by_asgi(app), tmp_path) as connect:
        client = connect()
        await client.send(post(b"body"))
        assert (await client.answers()).startswith(b"HTTP/1.1 200 OK")
    assert app.ways == ["asgi"]
