"""Strict JSON: what is accepted, and what is refused."""

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
def test_ambiguous_json_is_refused(raw: bytes, message: str) -> None:
    """With a duplicate name, the sidecar and the program behind it could read different values."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        loads(raw)


@pytest.mark.parametrize("raw", [b'"\\ud800"', b'{"\\uDC00": 1}', b"\xff", b"", b"{", b"{} {}"])
def test_invalid_text_is_refused(raw: bytes) -> None:
    """Also half of a surrogate pair, which no answer could contain."""
    with pytest.raises(ValueError):
        loads(raw)


@pytest.mark.parametrize("number", [10**308, -(10**308), 2**53 + 1, 2**1023])
def test_a_whole_number_that_a_double_holds_is_read_exactly(number: int) -> None:
    """A caller that needs a double converts it."""
    assert loads(str(number).encode()) == number


def test_all_other_json_is_accepted() -> None:
    """A whole surrogate pair is one character."""
    assert loads('{"a": [1, 1.5, true, null, "\\ud83d\\ude00", "é"]}'.encode()) == {
        "a": [1, 1.5, True, None, "😀", "é"]
    }
