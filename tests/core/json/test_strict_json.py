"""What is read as JSON, and what is refused."""

import pytest

from pdp.core.json.strict_json import loads


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": NaN}', "`NaN` is not a JSON number"),
        (b"-Infinity", "`-Infinity` is not a JSON number"),
        (b'{"a": [-1e999]}', "`-1e999` is too large for a number"),
        (b"9" * 400 + b".5", f"`{'9' * 20}` is too large for a number"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "duplicate name `c` in an object"),
        (b'{"a": 1, "b": 2, "a": 1}', "duplicate name `a` in an object"),
        (b"[" * 100_000, "it is nested too deep"),
        (b"[1" + b"0" * 400 + b"]", f"`1{'0' * 19}` is too large for a number"),
        (b"9" * 10_000, f"`{'9' * 20}` is too large for a number"),
        ('{"a": 1}'.encode("utf-16"), "it is not UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "it holds a NUL: it is not UTF-8, or not text"),
        ('{"a": 1}'.encode("utf-16-be"), "it holds a NUL: it is not UTF-8, or not text"),
        ('{"a": 1}'.encode("utf-32"), "it is not UTF-8"),
        ('{"a": 1}'.encode("utf-8-sig"), "it begins with a byte order mark"),
        ('"é"'.encode("latin-1"), "it is not UTF-8"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_two_readers_could_read_as_two_things_is_refused(raw: bytes, message: str) -> None:
    """A repeated name would be one value to the gate and another to what stands behind it."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        loads(raw)


@pytest.mark.parametrize("raw", [b'"\\ud800"', b'{"\\uDC00": 1}', b"\xff", b"", b"{", b"{} {}"])
def test_what_is_no_text_is_refused(raw: bytes) -> None:
    """Half of a surrogate pair included, which no answer could say back."""
    with pytest.raises(ValueError):
        loads(raw)


@pytest.mark.parametrize("number", [10**308, -(10**308), 2**53 + 1, 2**1023])
def test_a_whole_number_that_a_double_holds_is_read_exactly(number: int) -> None:
    """Whoever needs the double makes it one."""
    assert loads(str(number).encode()) == number


def test_the_rest_is_read() -> None:
    """A whole surrogate pair is one character."""
    assert loads('{"a": [1, 1.5, true, null, "\\ud83d\\ude00", "é"]}'.encode()) == {
        "a": [1, 1.5, True, None, "😀", "é"]
    }
