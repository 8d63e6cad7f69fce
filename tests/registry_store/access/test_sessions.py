"""Sessions: what a store signed, for eight hours, until it is ended."""

from datetime import UTC, datetime, timedelta

import pytest

from registry_store.access import sessions
from registry_store.access.keys import Pepper
from registry_store.access.sessions import LIFE, Sessions

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def made() -> Sessions:
    return Sessions(Pepper(b"p" * 32))


def test_a_session_names_its_key_and_lasts_eight_hours(made: Sessions) -> None:
    """From signing in, by the store's clock; not longer if that clock is set back."""
    value = made.begin("0123456789abcdef", NOW)
    session = made.read(value, NOW + LIFE - SECOND)
    assert session is not None
    assert (session.key_id, session.began_at, LIFE) == ("0123456789abcdef", NOW, timedelta(hours=8))
    assert made.read(value, NOW + LIFE) is None
    assert made.read(value, NOW - LIFE) is None


def test_every_store_with_the_pepper_reads_it_and_no_other(made: Sessions) -> None:
    """It needs no table; a rotated pepper ends every session."""
    value = made.begin("0123456789abcdef", NOW)
    assert Sessions(Pepper(b"p" * 32)).read(value, NOW) == made.read(value, NOW)
    assert Sessions(Pepper(b"q" * 32)).read(value, NOW) is None


def test_a_value_that_was_not_signed_is_none(made: Sessions) -> None:
    """Changed anywhere, cut, empty, long, or signed for another purpose."""
    value = made.begin("0123456789abcdef", NOW)
    changed = [value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :] for at in range(len(value) - 1)]
    for bad in [*changed, value[:-1], value + "A" * 10, "", ".", "é", "x" * 10_000, made.csrf_token(value)]:
        assert made.read(bad, NOW) is None, bad


def test_two_sessions_of_one_key_end_apart(made: Sessions) -> None:
    """And what ended stays so, for as many as a store remembers."""
    first, second = made.begin("0123456789abcdef", NOW), made.begin("0123456789abcdef", NOW)
    session = made.read(first, NOW)
    assert session is not None
    made.end(session)
    assert made.read(first, NOW) is None
    assert made.read(second, NOW) is not None


def test_what_ended_is_remembered_within_a_bound(made: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten first."""
    monkeypatch.setattr(sessions, "MAX_ENDED", 2)
    values = [made.begin("0123456789abcdef", NOW) for _ in range(3)]
    for value in values:
        session = made.read(value, NOW)
        assert session is not None
        made.end(session)
    assert [made.read(value, NOW) is None for value in values] == [False, True, True]


def test_a_csrf_token_belongs_to_one_cookie(made: Sessions) -> None:
    """Of no other session, and of no other store's pepper."""
    value, other = made.begin("0123456789abcdef", NOW), made.begin("0123456789abcdef", NOW)
    token = made.csrf_token(value)
    assert made.is_csrf_token(token, value)
    assert not made.is_csrf_token(token, other)
    assert not Sessions(Pepper(b"q" * 32)).is_csrf_token(token, value)
    for bad in ("", token[:-1], token + "A", "é", "x" * 10_000, value):
        assert not made.is_csrf_token(bad, value)
